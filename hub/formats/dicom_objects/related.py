"""The DICOM objects of the same result that a document may refer to.

Their UIDs are read from their own headers: an object of the first version of a report stays as
it is in all later ones, so nothing but the object itself knows which series it lies in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hub.domain.delivery import Document, DocumentKind
from hub.formats.dicom.header import scan_header
from hub.formats.dicom.part10 import data_set_of

SEGMENTATIONS = (
    DocumentKind.SEG,
    DocumentKind.SEG_LABELMAP,
    DocumentKind.SEG_FRACTIONAL,
)
"""The forms of a segmentation, that which a report refers to first."""

ILLUSTRATIONS = (*SEGMENTATIONS, DocumentKind.PARAMETRIC_MAP, DocumentKind.KEY_IMAGE)
"""What a report names as its own objects."""


@dataclass(frozen=True, slots=True)
class RelatedObject:
    """One object, as others refer to it."""

    kind: DocumentKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


def related_objects(
    related: Mapping[DocumentKind, Document], kinds: Iterable[DocumentKind]
) -> tuple[RelatedObject, ...]:
    """Those of these kinds that are there, in the order of ``kinds``.

    Raises:
        RejectedError: a document is no DICOM object.
    """
    return tuple(_object(related[kind]) for kind in kinds if kind in related)


def _object(document: Document) -> RelatedObject:
    transfer_syntax_uid, start = data_set_of(document.content)
    header = scan_header(memoryview(document.content)[start:], transfer_syntax_uid)  # uncopied
    return RelatedObject(
        kind=document.kind,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
    )
