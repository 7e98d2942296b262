"""What every encoder shares: its signature, its context, its identifiers, its last check.

An encoder is a pure function: the same request, result, card and context give the same
bytes, so a document that is made again after a crash is the document that was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from hub.domain.coding import Code
from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.finding import Presence
from hub.domain.identity import derived_uid, derived_uuid, identity_mismatches
from hub.domain.inference import InferenceRequest, InferenceResult, ModelKey, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.priors import foreign_priors
from hub.domain.report import ReportVersion
from hub.errors import IntegrityError
from hub.ports import ImageRenderer

AI_MARK = "AI result, not verified"
"""Stands in every document that a person may read."""

PRODUCT_NAME = "CAIDX hub"

FIRST_VERSION = ReportVersion()

PRESENCE_CODES = {
    Presence.PRESENT: Code("52101004", "SCT", "Present"),
    Presence.ABSENT: Code("272519000", "SCT", "Absent"),
    Presence.INDETERMINATE: Code("82334004", "SCT", "Indeterminate"),
    Presence.NOT_ASSESSABLE: Code("not-assessable", "99CAIDX", "Not assessable"),
}
"""Answers to "is it there?" (PS3.16 CID 240, and two that are no answer)."""

OUTCOME_CONCEPT = Code("ai-outcome", "99CAIDX", "Outcome of AI analysis")
OUTCOME_CODES = {
    Outcome.ASSESSED: Code("assessed", "99CAIDX", "Assessed"),
    Outcome.NOT_ASSESSABLE: Code("not-assessable", "99CAIDX", "Not assessable"),
    Outcome.UNSUITABLE: Code("unsuitable", "99CAIDX", "Not processed: outside intended use"),
    Outcome.FAILED: Code("failed", "99CAIDX", "Processing failed"),
}


@dataclass(frozen=True, slots=True)
class BusinessIdentifier:
    """An identifier with the system that issued it (FHIR ``Identifier.system`` and ``value``)."""

    system: str
    """URI, e.g. ``http://fhir.de/sid/arge-ik/iknr`` or ``urn:oid:...``."""
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingContext:
    """What the encoders need and neither the study nor the model knows."""

    made_at: datetime
    """UTC, timezone-aware: when the result was made. Part of the deterministic content, so
    callers keep it with the result and pass the same value when they encode again."""
    institution_name: str
    """The organisation that runs the hub and answers for its results."""
    organization_identifiers: tuple[BusinessIdentifier, ...] = ()
    software_version: str
    """Version of the hub."""
    timezone: tzinfo = UTC
    """Local time of the institution, for DICOM dates and times and for the printed page;
    a source study that names its own offset from UTC goes first."""
    result_system: str = "urn:caidx:results"
    """System of the identifiers that the hub gives to its results."""
    identifier_systems: Mapping[str, str] = field(default_factory=dict)
    """Issuer as in the DICOM header (patient ID, accession number) -> URI of its system."""
    report: ReportVersion = FIRST_VERSION
    """Which version of the report is made, on whose word."""
    profile: str = ""
    """The DICOM documents that the same destinations get, by name: documents that refer to other
    ones are other objects, so it is part of the identifiers of those that refer to any."""
    images: ImageRenderer | None = None
    """Shows images as people see them, for documents with pictures; None: there are none."""

    def __post_init__(self) -> None:
        if self.made_at.utcoffset() != timedelta(0):
            raise ValueError("made_at must be timezone-aware and in UTC")


class Encoder(Protocol):
    """Turns one result into one document.

    ``related`` holds the documents of the same result that were made before and may be
    referred to. None means that the result has nothing of this kind (no region: no SEG).

    Raises:
        IntegrityError: the result does not belong to the request.
        RejectedError: the result cannot be expressed in this format.
    """

    def __call__(
        self,
        request: InferenceRequest,
        result: InferenceResult,
        card: ModelCard,
        context: EncodingContext,
        related: Mapping[DocumentKind, Document],
    ) -> Document | None: ...


SAME_FOR_ALL = DICOM_KINDS - {
    DocumentKind.SR,
    DocumentKind.SR_3D,
    DocumentKind.ENCAPSULATED_PDF,
    DocumentKind.KEY_OBJECTS,
    DocumentKind.REJECTION_NOTE,
}
"""Documents that refer to no other one: the same whatever else a destination gets."""


def _parts(
    kind: DocumentKind, request: InferenceRequest, context: EncodingContext
) -> tuple[str, ...]:
    key = request.study.key
    model = request.model
    return (
        *((str(context.report.number),) if context.report.number > 1 else ()),
        *((context.profile,) if kind not in SAME_FOR_ALL else ()),
        key.study_instance_uid,
        str(key.revision),
        request.route,
        model.model_id,
        model.version,
        model.sha256,
        kind.value,
    )


def document_uid(kind: DocumentKind, request: InferenceRequest, context: EncodingContext) -> str:
    """SOP Instance UID of a document: the same for the same study revision, route, model and
    version of the report."""
    return derived_uid("document", *_parts(kind, request, context))


def document_uuid(kind: DocumentKind, request: InferenceRequest, context: EncodingContext) -> str:
    """The UUID behind :func:`document_uid`, for documents that are not DICOM objects."""
    return str(derived_uuid("document", *_parts(kind, request, context)))


def series_uid(kind: DocumentKind, request: InferenceRequest, context: EncodingContext) -> str:
    """Series Instance UID of a document: each document is a series of its own, because
    viewers show only the newest SR of a series."""
    return derived_uid("series", *_parts(kind, request, context))


def device_uid(model: ModelKey) -> str:
    """Device UID of an algorithm: another one for every retrained version (IHE AIR)."""
    return derived_uid("device", model.model_id, model.version, model.sha256)


def incomplete_statement(request: InferenceRequest) -> str:
    """What every report says first when images of the study are known to be missing; otherwise
    empty."""
    state = request.study.completeness
    if not state.missing:
        return ""
    return f"INCOMPLETE: computed on {state.received} of {state.expected} images"


def amendment_statement(request: InferenceRequest) -> str:
    """That this report replaces an earlier one of the same route and model; otherwise empty."""
    if request.amends_revision is None:
        return ""
    return (
        f"AMENDED: revision {request.study.key.revision} of the study; replaces the earlier AI"
        f" result of revision {request.amends_revision}"
    )


def check_document_identity(request: InferenceRequest, result: InferenceResult) -> None:
    """The last gate before bytes are made: the result belongs to this request, and everything
    it rests on lies in the request's study.

    Raises:
        IntegrityError: names the fields that disagree, never their values.
    """
    problems = list(identity_mismatches(request.study.identity, result.identity))
    if result.request_id != request.request_id:
        problems.append("request_id")
    if result.model != request.model:
        problems.append("model")
    problems += _foreign_references(request, result)
    problems += foreign_priors(request)
    if problems:
        raise IntegrityError(f"the result does not belong to its request: {', '.join(problems)}")


def _foreign_values(request: InferenceRequest, result: InferenceResult) -> list[str]:
    problems = []
    given = (*request.study.observations, *request.observations)
    if any(one.patient.key != request.study.patient.key for one in given):
        problems.append("a value of another patient")
    if not set(request.observations) <= set(request.study.observations):
        problems.append("a value outside the case")
    known = {one.observation_id for one in request.observations}
    if any(not known.issuperset(f.derived_from) for f in result.findings):
        problems.append("a finding of values that the model was not given")
    return problems


def _foreign_references(request: InferenceRequest, result: InferenceResult) -> list[str]:
    study_uid = request.study.study_instance_uid
    instances = request.study.instances
    known = {i.sop_instance_uid for i in instances if i.study_instance_uid == study_uid}
    problems = []
    problems += _foreign_values(request, result)
    if len(known) != len(instances):
        problems.append("an instance of another study")
    if any(e.sop_instance_uid not in known for f in result.findings for e in f.evidence):
        problems.append("evidence outside the study")
    if any(a.sop_instance_uid not in known for f in result.findings for a in f.locations):
        problems.append("a location outside the study")
    drawn = (*((result.region,) if result.region is not None else ()), *result.maps)
    if any(not known.issuperset(one.sop_instance_uids) for one in drawn):
        problems.append("region outside the study")
    numbers = {s.number for s in result.region.segments} if result.region is not None else set()
    if any(not numbers.issuperset(f.segment_numbers) for f in result.findings):
        problems.append("a segment that the region does not have")
    return problems
