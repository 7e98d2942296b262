"""The hub's own document: what was asked and answered, from which reports are encoded again.

It holds the neutral request and result (without voxels: those are in the segmentation that was
made of them) and the card of the model, so that a report can be changed or withdrawn after the
images were deleted and the model was removed. Compact JSON behind zlib's lowest level: the headers
of a series are much alike, so it is a tenth of the size, and is written faster.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import ImagingInput, InferenceRequest, InferenceResult, InputRole
from hub.domain.model_card import ModelCard
from hub.domain.report import PreviousDocument
from hub.domain.study import Series
from hub.errors import IntegrityError
from hub.formats.dicom.element_scan import scan_file
from hub.formats.encoding import EncodingContext, document_uuid

_SOP_CLASS_UID, _SOP_INSTANCE_UID, _SERIES_INSTANCE_UID = 0x00080016, 0x00080018, 0x0020000E
_FORMAT = 1
"""A field that is added to what is recorded needs a default, so that earlier records can be read;
any other change needs another format, and a reader of this one (tests: record_format_1.json)."""
_FASTEST = 1


@dataclass(frozen=True, slots=True)
class Record:
    """An answer, as a report is made of it."""

    request: InferenceRequest
    result: InferenceResult
    """Its region and maps have no voxels (`Region.is_drawn` is False)."""
    card: ModelCard
    """Of the model that was asked, as registered at that time."""
    format: int = _FORMAT

    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_inf_nan": "constants"}
    """Headers may hold such numbers; what they hold is kept as it is."""


@cache
def _adapter() -> TypeAdapter[Record]:
    """Built when it is first needed: it takes a tenth of a second."""
    return TypeAdapter(Record)


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - the signature of an encoder
) -> Document:
    """The record of an answer; no destination gets it."""
    region = result.region.without_voxels() if result.region is not None else None
    kept = replace(result, region=region, maps=tuple(one.without_voxels() for one in result.maps))
    return Document(
        document_id=document_uuid(DocumentKind.RECORD, request, replace(context, profile="")),
        kind=DocumentKind.RECORD,
        request_id=request.request_id,
        identity=result.identity,
        content=content_of(Record(request, kept, card)),
    )


def content_of(record: Record) -> bytes:
    """The bytes of a record."""
    kept = replace(record, request=_thin(record.request))
    return zlib.compress(_adapter().dump_json(kept), _FASTEST)


def decode(content: bytes) -> Record:
    """The reverse of ``encode``.

    Raises:
        IntegrityError: it is no record, or one of a later version of the hub; names no values.
    """
    try:
        record = _adapter().validate_json(zlib.decompress(content))
    except (zlib.error, ValidationError) as error:
        raise IntegrityError(f"a record cannot be read: {type(error).__name__}") from None
    if record.format != _FORMAT:
        raise IntegrityError(f"a record has format {record.format}, this version knows {_FORMAT}")
    return replace(record, request=_whole(record.request))


def _thin(request: InferenceRequest) -> InferenceRequest:
    """Without the second copy of what stands in the study: the instances of its series."""
    return _with_current(
        request, lambda series, own: replace(series, instances=()) if series == own else series
    )


def _whole(request: InferenceRequest) -> InferenceRequest:
    """The reverse of ``_thin``."""
    return _with_current(request, lambda series, own: series if series.instances else own or series)


def _with_current(
    request: InferenceRequest, change: Callable[[Series, Series | None], Series]
) -> InferenceRequest:
    of_study = {series.series_instance_uid: series for series in request.study.series}
    inputs = tuple(
        replace(
            given,
            series=tuple(change(s, of_study.get(s.series_instance_uid)) for s in given.series),
        )
        if isinstance(given, ImagingInput) and given.role is InputRole.CURRENT
        else given
        for given in request.inputs
    )
    return replace(request, inputs=inputs)


def previous_document(kind: DocumentKind, content: bytes) -> PreviousDocument:
    """What a later version says of a DICOM object that the hub made, from its Part 10 file."""
    header = scan_file(content)
    return PreviousDocument(
        kind=kind,
        sop_class_uid=header.text(_SOP_CLASS_UID),
        sop_instance_uid=header.text(_SOP_INSTANCE_UID),
        series_instance_uid=header.text(_SERIES_INSTANCE_UID),
    )
