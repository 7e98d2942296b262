"""A result as DICOM Comprehensive 3D SR: TID 1500 Measurement Report (PS3.16, PS3.3 A.35.13)."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.formats import dicom_writer as write
from hub.formats import sr_content as sr
from hub.formats.dicom_object import (
    COMPREHENSIVE_3D_SR_STORAGE,
    MANUFACTURER,
    SEGMENTATION_STORAGE,
    code_dataset,
    dicom_document,
    object_header,
)
from hub.formats.encoding import (
    AI_MARK,
    OUTCOME_CODES,
    OUTCOME_CONCEPT,
    PRODUCT_NAME,
    EncodingContext,
    amendment_statement,
    check_document_identity,
    device_uid,
    incomplete_statement,
    series_uid,
)
from hub.formats.source_dataset import is_image, referenced_request
from hub.formats.sr_codes import (
    COMMENT,
    DEVICE,
    DEVICE_OBSERVER_MANUFACTURER,
    DEVICE_OBSERVER_MODEL_NAME,
    DEVICE_OBSERVER_NAME,
    DEVICE_OBSERVER_UID,
    ENGLISH,
    IMAGING_MEASUREMENT_REPORT,
    IMAGING_MEASUREMENTS,
    LANGUAGE,
    OBSERVER_TYPE,
    PROCEDURE_REPORTED,
    QUALITATIVE_EVALUATIONS,
    REASON,
    WARNING,
)
from hub.formats.sr_content import Relationship
from hub.formats.sr_image_library import image_library
from hub.formats.sr_measurement_group import (
    SegmentationReference,
    measurement_groups,
)

SopReference = tuple[str, str, str]
"""Series Instance UID, SOP Class UID, SOP Instance UID."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    """Encode a result of any outcome; refers to the SEG in ``related`` where there is one.

    Raises:
        IntegrityError: the result does not belong to the request.
        RejectedError: a value cannot be written in DICOM (not finite, a code too long).
    """
    check_document_identity(request, result)
    sources = _sources(request, result)
    segmentation = related.get(DocumentKind.SEG)
    header = object_header(
        DocumentKind.SR,
        COMPREHENSIVE_3D_SR_STORAGE,
        "SR",
        request=request,
        card=card,
        context=context,
    )
    _add_document_modules(header)
    references = [(i.series_instance_uid, i.sop_class_uid, i.sop_instance_uid) for i in sources]
    if segmentation is not None:
        series = series_uid(DocumentKind.SEG, request, context)
        references.append((series, SEGMENTATION_STORAGE, segmentation.document_id))
    items = _report(request, result, card, segmentation)
    bulk = {
        0x0040A375: _evidence(request.study.study_instance_uid, references),
        0x0040A504: sr.template("1500"),
        0x0040A730: sr.content_sequence(items),
    }
    if request.study.accession_number:
        bulk[0x0040A370] = referenced_request(request.study)
    related_uids = (segmentation.document_id,) if segmentation is not None else ()
    return dicom_document(DocumentKind.SR, request, header, bulk, related_uids)


def _sources(request: InferenceRequest, result: InferenceResult) -> tuple[Instance, ...]:
    """All that the model was given, and all that its findings rest on."""
    chosen = {i.sop_instance_uid for series in request.series for i in series.instances}
    chosen.update(e.sop_instance_uid for f in result.findings for e in f.evidence)
    if result.region is not None:
        chosen.update(result.region.sop_instance_uids)
    return tuple(i for i in request.study.instances if i.sop_instance_uid in chosen)


def _add_document_modules(header: Dataset) -> None:
    """SR Document General and the root of the content (PS3.3 C.17.2, C.17.3)."""
    header.ReferencedPerformedProcedureStepSequence = Sequence()
    header.PerformedProcedureCodeSequence = Sequence()
    header.ValueType = "CONTAINER"
    header.ConceptNameCodeSequence = Sequence([code_dataset(IMAGING_MEASUREMENT_REPORT)])
    header.ContinuityOfContent = "SEPARATE"
    header.CompletionFlag = "COMPLETE"
    header.VerificationFlag = "UNVERIFIED"
    header.PreliminaryFlag = "PRELIMINARY"


def _evidence(study_instance_uid: str, references: list[SopReference]) -> bytes:
    """(0040,A375) Current Requested Procedure Evidence Sequence (PS3.3 Table 10-3b)."""
    by_series: dict[str, list[bytes]] = {}
    for series_instance_uid, sop_class_uid, sop_instance_uid in references:
        reference = sr.referenced_sop(sop_class_uid, sop_instance_uid)
        by_series.setdefault(series_instance_uid, []).append(reference)
    series = write.sequence(
        0x00081115,
        (
            write.sequence(0x00081199, items) + write.text(0x0020000E, "UI", uid)
            for uid, items in by_series.items()
        ),
    )
    return write.sequence(0x0040A375, [series + write.text(0x0020000D, "UI", study_instance_uid)])


def _report(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    segmentation: Document | None,
) -> list[bytes]:
    """The rows of TID 1500, in its order."""
    images = tuple(i for i in _sources(request, result) if is_image(i))
    region = result.region if segmentation is not None else None
    reference = (
        SegmentationReference(segmentation.document_id, region)
        if segmentation is not None and region is not None
        else None
    )
    items = [
        sr.code(Relationship.HAS_CONCEPT_MOD, LANGUAGE, ENGLISH),
        *_device_observer(request, card),
        sr.code(
            Relationship.HAS_CONCEPT_MOD, PROCEDURE_REPORTED, card.procedure.procedure_reported
        ),
    ]
    if images:
        items.append(image_library(images))
    groups = measurement_groups(request, result, card, reference)
    items.append(sr.container(IMAGING_MEASUREMENTS, groups))
    items.append(sr.container(QUALITATIVE_EVALUATIONS, _evaluations(request, result)))
    return items


def _device_observer(request: InferenceRequest, card: ModelCard) -> list[bytes]:
    """TID 1002 and TID 1004: the observer is the algorithm, never a person."""
    context = Relationship.HAS_OBS_CONTEXT
    return [
        sr.code(context, OBSERVER_TYPE, DEVICE),
        sr.uid_reference(context, DEVICE_OBSERVER_UID, device_uid(request.model)),
        sr.text(context, DEVICE_OBSERVER_NAME, f"{card.name} {card.version} by {PRODUCT_NAME}"),
        sr.text(context, DEVICE_OBSERVER_MANUFACTURER, card.vendor.name or MANUFACTURER),
        sr.text(context, DEVICE_OBSERVER_MODEL_NAME, card.name),
    ]


def _evaluations(request: InferenceRequest, result: InferenceResult) -> list[bytes]:
    """What is to be said of the result as a whole: how it ended, why, and what to mind."""
    contains = Relationship.CONTAINS
    said = (amendment_statement(request), incomplete_statement(request))
    return [
        sr.code(contains, OUTCOME_CONCEPT, OUTCOME_CODES[result.outcome]),
        sr.text(contains, COMMENT, _headline(result.outcome)),
        *(sr.text(contains, COMMENT, f"{statement}.") for statement in said if statement),
        *(sr.text(contains, REASON, reason) for reason in result.reasons),
        *(sr.text(contains, WARNING, warning) for warning in result.warnings),
    ]


def _headline(outcome: Outcome) -> str:
    if outcome is Outcome.ASSESSED:
        return f"{AI_MARK}."
    meaning: Code = OUTCOME_CODES[outcome]
    return f"{AI_MARK}. {meaning.code_meaning}: this is neither a positive nor a negative result."
