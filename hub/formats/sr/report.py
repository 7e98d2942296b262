"""A result as DICOM Comprehensive 3D SR: TID 1500 Measurement Report (PS3.16, PS3.3 A.35.13).

Every report has an image library and imaging measurements, and every group of them a tracking
identifier and UID, also where nothing was measured: viewers fail on reports without these.

The title (TID 1500 row 1, CID 7021) is "Imaging Measurement Report" only where something lies on
an image. OHIF takes a report of that title to an image and shows nothing where there is none;
reports of other titles it shows as text, which is what a reader wants of an answer about the
whole examination, of a failure and of a withdrawal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydicom import Dataset
from pydicom import Sequence as DatasetSequence

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportVersion
from hub.domain.study import Instance
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.modules import (
    COMPREHENSIVE_3D_SR_STORAGE,
    MANUFACTURER,
    code_dataset,
    dicom_document,
    local_time,
    object_header,
)
from hub.formats.dicom_objects.related import (
    ILLUSTRATIONS,
    SEGMENTATIONS,
    RelatedObject,
    related_objects,
)
from hub.formats.dicom_objects.source_dataset import is_image, referenced_request
from hub.formats.encoding import (
    OUTCOME_CODES,
    OUTCOME_CONCEPT,
    PRODUCT_NAME,
    EncodingContext,
    check_document_identity,
    device_uid,
)
from hub.formats.sr import codes as sr_codes
from hub.formats.sr import content as sr
from hub.formats.sr import state
from hub.formats.sr.content import Relationship
from hub.formats.sr.image_library import image_library
from hub.formats.sr.locations import Space
from hub.formats.sr.measurement_group import (
    MeasurementGroup,
    SegmentationReference,
    measurement_groups,
    outcome_group,
)


class SopInstance(Protocol):
    """What a reference to an object tells of it."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def series_instance_uid(self) -> str: ...


_OBJECT_NAMES = dict.fromkeys(SEGMENTATIONS, sr_codes.SEGMENTATION) | {
    DocumentKind.PARAMETRIC_MAP: sr_codes.PARAMETRIC_MAP,
    DocumentKind.KEY_IMAGE: sr_codes.KEY_IMAGES,
}


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    """Encode a result of any outcome, in any version of its report; locations stand on the image
    (SCOORD). Refers to the segmentation, parametric map and key image in ``related``.

    Raises:
        IntegrityError: the result does not belong to the request.
        RejectedError: a value cannot be written in DICOM (not finite, a code too long).
    """
    return _encode(DocumentKind.SR, request, result, card, context=context, related=related)


def encode_3d(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    """As :func:`encode`, with locations in the space of the patient (SCOORD3D).

    A location on an image that has no place there (a projection, a frame whose place nobody
    tells) is left out, and its group says so: on the image it would be another document.

    Raises:
        IntegrityError: the result does not belong to the request.
        RejectedError: a value cannot be written in DICOM (not finite, a code too long).
    """
    return _encode(DocumentKind.SR_3D, request, result, card, context=context, related=related)


def _encode(
    kind: DocumentKind,
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    *,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    check_document_identity(request, result)
    header = object_header(
        kind,
        COMPREHENSIVE_3D_SR_STORAGE,
        "SR",
        request=request,
        card=card,
        context=context,
        result=result,
    )
    sources = _sources(request, result)
    objects: tuple[RelatedObject, ...] = ()
    if context.report.is_withdrawn:
        title, answer = _withdrawn(request, card, context.report)
    else:
        objects = related_objects(related, ILLUSTRATIONS)
        space = Space.of(request, result, in_space=kind is DocumentKind.SR_3D)
        title, answer = _answer(request, result, card, space, objects)
    _add_document_modules(header, title, request, context)
    images = tuple(i for i in sources if is_image(i))
    items = _context(request, result, card, context)
    items += [image_library(images)] if images else []
    bulk = {
        **_references(kind, request, context, (*sources, *objects)),
        0x0040A504: sr.template("1500"),
        0x0040A730: sr.content_sequence([*items, *answer]),
    }
    related_uids = tuple(one.sop_instance_uid for one in objects)
    return dicom_document(kind, request, header, bulk, related_uids)


def _references(
    kind: DocumentKind,
    request: InferenceRequest,
    context: EncodingContext,
    evidence: Iterable[Instance | RelatedObject],
) -> dict[int, bytes]:
    """Evidence, predecessors and the order that is answered (PS3.3 C.17.2), by tag."""
    study_uid = request.study.study_instance_uid
    elements = {0x0040A375: hierarchical_references(0x0040A375, study_uid, evidence)}
    if earlier := state.predecessors(kind, context.report):
        elements[0x0040A360] = hierarchical_references(0x0040A360, study_uid, earlier)
    if request.study.accession_number:
        elements[0x0040A370] = referenced_request(request.study)
    return elements


def _sources(request: InferenceRequest, result: InferenceResult) -> tuple[Instance, ...]:
    """All that the model was given, and all that its findings rest on."""
    chosen = {i.sop_instance_uid for series in request.series for i in series.instances}
    chosen.update(e.sop_instance_uid for f in result.findings for e in f.evidence)
    chosen.update(place.sop_instance_uid for f in result.findings for place in f.locations)
    for drawn in (*((result.region,) if result.region is not None else ()), *result.maps):
        chosen.update(drawn.sop_instance_uids)
    return tuple(i for i in request.study.instances if i.sop_instance_uid in chosen)


def _add_document_modules(
    header: Dataset, title: Code, request: InferenceRequest, context: EncodingContext
) -> None:
    """SR Document General and the root of the content (PS3.3 C.17.2, C.17.3)."""
    header.ReferencedPerformedProcedureStepSequence = DatasetSequence()
    header.PerformedProcedureCodeSequence = DatasetSequence()
    header.ValueType = "CONTAINER"
    header.ConceptNameCodeSequence = DatasetSequence([code_dataset(title)])
    header.ContinuityOfContent = "SEPARATE"
    moment = local_time(request, context)
    state.add_flags(header, context.report, moment, context.institution_name)


def hierarchical_references(
    tag: int, study_instance_uid: str, instances: Iterable[SopInstance]
) -> bytes:
    """A sequence of references by study and series (PS3.3 Table C.17-3), e.g. (0040,A375) Current
    Requested Procedure Evidence Sequence."""
    by_series: dict[str, list[bytes]] = {}
    for one in instances:
        reference = sr.referenced_sop(one.sop_class_uid, one.sop_instance_uid)
        by_series.setdefault(one.series_instance_uid, []).append(reference)
    series = write.sequence(
        0x00081115,
        (
            write.sequence(0x00081199, items) + write.text(0x0020000E, "UI", uid)
            for uid, items in by_series.items()
        ),
    )
    return write.sequence(tag, [series + write.text(0x0020000D, "UI", study_instance_uid)])


def _context(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> list[bytes]:
    """TID 1500 rows 2 to 5; then, before all other content, what the report is worth."""
    reported = card.procedure.procedure_reported
    return [
        sr.code(Relationship.HAS_CONCEPT_MOD, sr_codes.LANGUAGE, sr_codes.ENGLISH),
        *device_observer(request, card),
        *state.person_observer(context.report),
        sr.code(Relationship.HAS_CONCEPT_MOD, sr_codes.PROCEDURE_REPORTED, reported),
        *(
            sr.text(Relationship.CONTAINS, sr_codes.COMMENT, text)
            for text in state.headlines(request, result, context)
        ),
    ]


def device_observer(request: InferenceRequest, card: ModelCard) -> list[bytes]:
    """TID 1002 and TID 1004: the observer is the algorithm, never a person."""
    context = Relationship.HAS_OBS_CONTEXT
    name = f"{card.name} {card.version} by {PRODUCT_NAME}"
    manufacturer = card.vendor.name or MANUFACTURER
    return [
        sr.code(context, sr_codes.OBSERVER_TYPE, sr_codes.DEVICE),
        sr.uid_reference(context, sr_codes.DEVICE_OBSERVER_UID, device_uid(request.model)),
        sr.text(context, sr_codes.DEVICE_OBSERVER_NAME, name),
        sr.text(context, sr_codes.DEVICE_OBSERVER_MANUFACTURER, manufacturer),
        sr.text(context, sr_codes.DEVICE_OBSERVER_MODEL_NAME, card.name),
    ]


def _answer(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    space: Space,
    objects: Sequence[RelatedObject],
) -> tuple[Code, list[bytes]]:
    """The title of the report; what was found, what is to be said of the result as a whole, and
    its other objects."""
    segmentation = next((o for o in objects if o.kind in SEGMENTATIONS), None)
    reference = (
        SegmentationReference(segmentation, result.region)
        if segmentation is not None and result.region is not None
        else None
    )
    groups = measurement_groups(request, result, card, space, reference)
    contains = Relationship.CONTAINS
    evaluations = [
        sr.code(contains, OUTCOME_CONCEPT, OUTCOME_CODES[result.outcome]),
        *(sr.text(contains, sr_codes.REASON, reason) for reason in result.reasons),
        *(sr.text(contains, sr_codes.WARNING, warning) for warning in result.warnings),
    ]
    answer = [
        *_measurements(groups),
        sr.container(sr_codes.QUALITATIVE_EVALUATIONS, evaluations),
    ]
    if objects:
        answer.append(_objects(objects))
    located = any(group.is_located for group in groups)
    return sr_codes.IMAGING_MEASUREMENT_REPORT if located else sr_codes.AI_RESULT, answer


def _measurements(groups: Sequence[MeasurementGroup]) -> list[bytes]:
    """The groups that lie somewhere, and in a container of their own those that do not.

    OHIF (3.13) reads the first container alone, and shows none of its groups where one of them
    has no location.
    """
    located = [group.item for group in groups if group.is_located]
    others = [group.item for group in groups if not group.is_located]
    together = (located, others)
    return [sr.container(sr_codes.IMAGING_MEASUREMENTS, items) for items in together if items]


def _objects(objects: Sequence[RelatedObject]) -> bytes:
    named = [
        sr.reference(
            Relationship.CONTAINS,
            _OBJECT_NAMES[one.kind],
            "IMAGE",
            sr.referenced_sop(one.sop_class_uid, one.sop_instance_uid),
        )
        for one in objects
    ]
    return sr.container(sr_codes.OBJECTS_OF_RESULT, named)


def _withdrawn(
    request: InferenceRequest, card: ModelCard, version: ReportVersion
) -> tuple[Code, list[bytes]]:
    """The title of the report; nothing of the result is told again: a reader that ignores the
    first words finds no finding either."""
    reasons = (version.reason,) if version.reason else ()
    group = outcome_group(request, card, sr_codes.WITHDRAWN, reasons)
    evaluation = sr.code(Relationship.CONTAINS, OUTCOME_CONCEPT, sr_codes.WITHDRAWN)
    return sr_codes.AI_RESULT_WITHDRAWN, [
        sr.container(sr_codes.IMAGING_MEASUREMENTS, [group.item]),
        sr.container(sr_codes.QUALITATIVE_EVALUATIONS, [evaluation]),
    ]
