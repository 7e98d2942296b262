"""Reports in every state: each outcome, each cause of a version, with the documents of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import (
    Person,
    PreviousDocument,
    ReportCause,
    ReportStatus,
    ReportVersion,
)
from hub.formats.dicom_objects import presentation_state
from hub.formats.dicom_objects.related import related_objects
from hub.formats.encoding import Encoder, EncodingContext
from hub.formats.seg import binary as dicom_seg
from hub.formats.sr import key_objects
from hub.formats.sr import report as dicom_sr
from tests import builders
from tests.unit.formats.encoded import CONTEXT

PERSON = Person(
    name="Größ^Änne^^Dr.=山田^太郎",
    organization="Klinik Süd",
    identifier="4711",
    identifier_system="urn:x",
)

ENCODERS: Mapping[DocumentKind, Encoder] = {
    DocumentKind.SEG: dicom_seg.encode,
    DocumentKind.SR: dicom_sr.encode,
    DocumentKind.SR_3D: dicom_sr.encode_3d,
    DocumentKind.PRESENTATION_STATE: presentation_state.encode,
    DocumentKind.KEY_OBJECTS: key_objects.encode,
    DocumentKind.REJECTION_NOTE: key_objects.encode_rejection,
}

Documents = dict[DocumentKind, Document]

RESULTS: Mapping[str, Callable[[InferenceRequest], InferenceResult]] = {
    "measured": builders.assessed,
    "located": builders.located,
    "answered": builders.presence,
    "not assessable": builders.not_assessable,
    "unsuitable": builders.unsuitable,
    "failed": builders.failed,
}

STATUSES = {
    ReportCause.MODEL: ReportStatus.AMENDED,
    ReportCause.ACCEPTED: ReportStatus.FINAL,
    ReportCause.MODIFIED: ReportStatus.AMENDED,
    ReportCause.REJECTED: ReportStatus.ENTERED_IN_ERROR,
    ReportCause.RETRACTED: ReportStatus.ENTERED_IN_ERROR,
    ReportCause.RELEASED: ReportStatus.PRELIMINARY,
    ReportCause.PATIENT_CHANGED: ReportStatus.AMENDED,
}
BY_NOBODY = (ReportCause.MODEL, ReportCause.PATIENT_CHANGED)


def encoded(
    request: InferenceRequest,
    result: InferenceResult,
    context: EncodingContext = CONTEXT,
    earlier: Mapping[DocumentKind, Document] | None = None,
) -> Documents:
    """The documents of one version, each referring to those before it."""
    made: Documents = {}
    for kind, encode in ENCODERS.items():
        related = {**(earlier or {}), **made}
        document = encode(request, result, builders.model_card(), context, related)
        if document is not None:
            made[kind] = document
    return made


def version_after(
    first: Documents, cause: ReportCause, reason: str = "wrong lobe"
) -> EncodingContext:
    """The second version of a report whose first one was sent as these documents."""
    replaced = tuple(
        PreviousDocument(o.kind, o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid)
        for o in related_objects(first, first)
    )
    version = ReportVersion(
        number=2,
        status=STATUSES[cause],
        cause=cause,
        reason="" if cause is ReportCause.ACCEPTED else reason,
        person=None if cause in BY_NOBODY else PERSON,
        predecessors=replaced,
    )
    return replace(CONTEXT, report=version)


def second_version(
    request: InferenceRequest, result: InferenceResult, cause: ReportCause
) -> tuple[Documents, Documents]:
    """The documents of the first and of the second version; the second has no voxels, as it is
    made from the record, and the segmentation of the first one."""
    first = encoded(request, result)
    region = result.region.without_voxels() if result.region is not None else None
    kept = {k: d for k, d in first.items() if k is DocumentKind.SEG}
    context = version_after(first, cause)
    return first, encoded(request, replace(result, region=region), context, kept)
