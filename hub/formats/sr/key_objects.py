"""Key Object Selection documents (PS3.3 A.35.4, PS3.16 TID 2010).

One names the images that a result rests on, and the AI objects of the result. The other rejects
what was sent of a report that is withdrawn (IHE Radiology, Imaging Object Change Management):
title "Rejected for Patient Safety Reasons", whether a person found the result wrong or it was
withdrawn. Objects that are rejected for quality reasons may still be shown; a result that must
not be used may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DatasetSequence

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import PreviousDocument
from hub.formats.dicom_objects.modules import (
    KEY_OBJECT_SELECTION_STORAGE,
    code_dataset,
    dicom_document,
    object_header,
)
from hub.formats.dicom_objects.related import ILLUSTRATIONS, RelatedObject, related_objects
from hub.formats.dicom_objects.source_dataset import referenced_request
from hub.formats.encoding import EncodingContext, check_document_identity
from hub.formats.key_images import key_images
from hub.formats.sr import codes as sr_codes
from hub.formats.sr import content as sr
from hub.formats.sr import state
from hub.formats.sr.content import Relationship
from hub.formats.sr.report import device_observer, hierarchical_references

_SELECTED = (
    DocumentKind.SR,
    DocumentKind.SR_3D,
    *ILLUSTRATIONS,
    DocumentKind.PRESENTATION_STATE,
)
"""The objects of a result that its key objects name, in this order."""


@dataclass(frozen=True, slots=True)
class _Selected:
    """One object that is selected."""

    value_type: str
    """``IMAGE``, or ``COMPOSITE`` for what has no pixels."""
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame_numbers: tuple[int, ...] = ()


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """Select the key images and the objects in ``related``; None where no image shows anything,
    and of a report that is withdrawn.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    images = _key_images(request, result)
    objects = [_selected(one) for one in related_objects(related, _SELECTED)]
    illustrated = any(kind in related for kind in ILLUSTRATIONS)
    if context.report.is_withdrawn or not (images or illustrated):
        return None
    said = " ".join(state.headlines(request, result, context))
    observers = [*device_observer(request, card), *state.person_observer(context.report)]
    selection = _Selection(DocumentKind.KEY_OBJECTS, sr_codes.OF_INTEREST, said, observers)
    return selection.document(request, result, card, context, [*images, *objects])


def encode_rejection(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """Reject all DICOM objects of a withdrawn report that the same receiver got; None for a report
    that is not withdrawn, or of which nothing was sent.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    version = context.report
    # A key image was made with it, and says itself that the report is withdrawn.
    not_made_again = (kind for kind in ILLUSTRATIONS if kind is not DocumentKind.KEY_IMAGE)
    earlier: list[PreviousDocument | RelatedObject] = [
        *(p for p in version.predecessors if p.kind is not DocumentKind.REJECTION_NOTE),
        *related_objects(related, not_made_again),
    ]
    if not version.is_withdrawn or not earlier:
        return None
    rejected = {one.sop_instance_uid: _selected(one) for one in earlier}
    person = version.person
    observers = state.observer(person) if person else device_observer(request, card)
    selection = _Selection(
        DocumentKind.REJECTION_NOTE,
        sr_codes.REJECTED_FOR_PATIENT_SAFETY_REASONS,
        " ".join(state.headlines(request, result, context)),
        observers,
    )
    return selection.document(request, result, card, context, rejected.values())


def _selected(one: PreviousDocument | RelatedObject) -> _Selected:
    return _Selected(
        "IMAGE" if one.kind in ILLUSTRATIONS else "COMPOSITE",
        one.sop_class_uid,
        one.sop_instance_uid,
        one.series_instance_uid,
    )


def _key_images(request: InferenceRequest, result: InferenceResult) -> list[_Selected]:
    """Each key image once, with all its frames that matter."""
    instances = {i.sop_instance_uid: i for i in request.study.instances}
    frames: dict[str, list[int]] = {}
    for image in key_images(request, result):
        numbers = frames.setdefault(image.sop_instance_uid, [])
        numbers += [image.frame_number] if image.frame_number is not None else []
    return [
        _Selected(
            "IMAGE",
            instances[uid].sop_class_uid,
            uid,
            instances[uid].series_instance_uid,
            tuple(numbers),
        )
        for uid, numbers in frames.items()
    ]


@dataclass(frozen=True, slots=True)
class _Selection:
    """What a selection says, apart from what it selects."""

    kind: DocumentKind
    title: Code
    """CID 7010."""
    description: str
    observers: Sequence[bytes]
    """TID 1002: who selected."""

    def document(
        self,
        request: InferenceRequest,
        result: InferenceResult,
        card: ModelCard,
        context: EncodingContext,
        selected: Iterable[_Selected],
    ) -> Document:
        chosen = tuple(selected)
        header = object_header(
            self.kind,
            KEY_OBJECT_SELECTION_STORAGE,
            "KO",
            request=request,
            card=card,
            context=context,
            result=result,
        )
        self._add_document_modules(header)
        study_instance_uid = request.study.study_instance_uid
        bulk = {
            0x0040A375: hierarchical_references(0x0040A375, study_instance_uid, chosen),
            0x0040A504: sr.template("2010"),
            0x0040A730: sr.content_sequence([*self._context(), *map(_item, chosen)]),
        }
        if request.study.accession_number:
            bulk[0x0040A370] = referenced_request(request.study)
        named = {i.sop_instance_uid for i in request.study.instances}
        others = (o.sop_instance_uid for o in chosen if o.sop_instance_uid not in named)
        return dicom_document(self.kind, request, header, bulk, tuple(others))

    def _add_document_modules(self, header: Dataset) -> None:
        """Key Object Document Series, Key Object Document and the root of the content
        (PS3.3 C.17.6)."""
        header.ReferencedPerformedProcedureStepSequence = DatasetSequence()
        header.ValueType = "CONTAINER"
        header.ConceptNameCodeSequence = DatasetSequence([code_dataset(self.title)])
        header.ContinuityOfContent = "SEPARATE"

    def _context(self) -> list[bytes]:
        """TID 2010 up to the selected objects: language, observers, what is said of them."""
        name = sr_codes.KEY_OBJECT_DESCRIPTION
        return [
            sr.code(Relationship.HAS_CONCEPT_MOD, sr_codes.LANGUAGE, sr_codes.ENGLISH),
            *self.observers,
            sr.text(Relationship.CONTAINS, name, self.description),
        ]


def _item(selected: _Selected) -> bytes:
    sop = sr.referenced_sop(
        selected.sop_class_uid, selected.sop_instance_uid, frames=selected.frame_numbers
    )
    return sr.reference(Relationship.CONTAINS, None, selected.value_type, sop)
