"""What the tests of the FHIR documents share: a context, every outcome and every version of a
report, and ways to look into a Bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from zoneinfo import ZoneInfo

from hub.domain.critical import CriticalRule
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard, Regulation
from hub.domain.report import (
    Person,
    PreviousDocument,
    ReportCause,
    ReportStatus,
    ReportVersion,
)
from hub.domain.study import Completeness, EvidenceKind, Study
from hub.formats.encoding import BusinessIdentifier, EncodingContext, document_uid
from hub.formats.fhir import r5 as fhir_r5
from hub.formats.fhir import report as fhir_report
from tests import builders

Json = dict[str, Any]
Answer = Callable[[InferenceRequest], InferenceResult]

PATIENT_SYSTEM = "https://hospital.example/patients"
PAGE = b"%PDF-1.7 a page"
RADIOLOGIST = Person(
    "Beispiel^Änne^^Dr.", "123456789", "http://fhir.de/sid/kbv/lanr", "Radiologie Nord"
)
ENCODERS = {DocumentKind.FHIR: fhir_report.encode, DocumentKind.FHIR_R5: fhir_r5.encode}


def context(**changes: Any) -> EncodingContext:
    known = {"UMR": PATIENT_SYSTEM, "RIS": "https://hospital.example/accession"}
    made = EncodingContext(
        made_at=builders.MADE_AT,
        institution_name="Universitätsmedizin Beispielstadt",
        organization_identifiers=(BusinessIdentifier("http://fhir.de/sid/arge-ik/iknr", "1234"),),
        software_version="0.1.0",
        timezone=ZoneInfo("Europe/Berlin"),
        identifier_systems=known,
    )
    return replace(made, **changes)


def related_to(request: InferenceRequest, *kinds: DocumentKind) -> dict[DocumentKind, Document]:
    """The page, and DICOM objects of these kinds (SR and SEG if none is named)."""
    chosen = kinds or (DocumentKind.SR, DocumentKind.SEG)
    contents = {DocumentKind.PDF: PAGE} | dict.fromkeys(chosen, b"")
    return {
        kind: Document(
            document_uid(kind, request, context()),
            kind,
            request.request_id,
            request.study.identity,
            content,
        )
        for kind, content in contents.items()
    }


@dataclass(frozen=True)
class Case:
    """One version of the report of one request."""

    answer: Answer
    version: ReportVersion = ReportVersion()  # noqa: RUF009 - frozen
    study: Study = field(default_factory=builders.chest_ct_study)
    amends_revision: int | None = None
    status: str = "preliminary"
    """What report and Observations have to say."""

    @property
    def request(self) -> InferenceRequest:
        asked = builders.request_for(self.study)
        return replace(asked, amends_revision=self.amends_revision)

    @property
    def result(self) -> InferenceResult:
        return self.answer(self.request)

    def encoded(self, kind: DocumentKind = DocumentKind.FHIR, **changes: Any) -> Document:
        request = self.request
        made = context(**{"report": self.version, **changes})
        document = ENCODERS[kind](request, self.result, card(), made, related_to(request))
        assert document is not None
        return document

    def bundle(self, kind: DocumentKind = DocumentKind.FHIR, **changes: Any) -> Json:
        return dict(json.loads(self.encoded(kind, **changes).content))


def card(**changes: Any) -> ModelCard:
    """With a UDI, and a rule that makes large nodules critical."""
    model = builders.model_card()
    rule = CriticalRule(finding="Nodule 1", above=8.0)
    regulation = Regulation(medical_device=True, mdr_class="IIa", udi_di="04012345678901")
    output = replace(model.output, critical=(rule,))
    return replace(model, **{"regulation": regulation, "output": output, **changes})


def partial_study() -> Study:
    study = builders.chest_ct_study(3, revision=2)
    known = Completeness(complete=True, evidence=EvidenceKind.QUIET_TIME, received=3, expected=4)
    return replace(study, completeness=known)


def _version(
    cause: ReportCause, status: ReportStatus, answer: Answer, *, number: int = 2, reason: str = ""
) -> ReportVersion:
    request = builders.request_for(builders.chest_ct_study())
    sr = document_uid(DocumentKind.SR, request, context())
    before = PreviousDocument(DocumentKind.SR, "1.2.840.10008.5.1.4.1.1.88.34", sr, "2.25.77")
    by_person = cause not in (ReportCause.MODEL, ReportCause.PATIENT_CHANGED)
    return ReportVersion(
        number=number,
        status=status,
        cause=cause,
        reason=reason,
        person=RADIOLOGIST if by_person else None,
        predecessors=(before,),
        replaced_findings=answer(request).findings,
    )


def _case(answer: Answer, cause: ReportCause, status: ReportStatus, reason: str = "") -> Case:
    version = _version(cause, status, answer, reason=reason)
    return Case(answer, version, status=status.value)


_LATE = ReportVersion(
    status=ReportStatus.AMENDED,
    replaced_findings=builders.located(builders.request_for(builders.chest_ct_study())).findings,
)
_ACCEPTED = (ReportCause.ACCEPTED, ReportStatus.FINAL)
_MODIFIED = (ReportCause.MODIFIED, ReportStatus.AMENDED)
_REJECTED = (ReportCause.REJECTED, ReportStatus.ENTERED_IN_ERROR)
_RETRACTED = (ReportCause.RETRACTED, ReportStatus.ENTERED_IN_ERROR)

CASES: Mapping[str, Case] = {
    "assessed": Case(builders.assessed),
    "presence": Case(builders.presence),
    "critical": Case(builders.located),
    "ecg": Case(builders.ecg_assessed, study=builders.ecg_study()),
    "not-assessable": Case(builders.not_assessable),
    "unsuitable": Case(builders.unsuitable, status="cancelled"),
    "failed": Case(builders.failed, status="cancelled"),
    "late-images": Case(
        builders.presence,
        _LATE,
        builders.chest_ct_study(4, revision=2),
        amends_revision=1,
        status="amended",
    ),
    "partial": Case(builders.presence, _LATE, partial_study(), amends_revision=1, status="amended"),
    "late-and-failed": Case(
        builders.failed,
        _LATE,
        builders.chest_ct_study(4, revision=2),
        amends_revision=1,
        status="cancelled",
    ),
    "run-again": _case(builders.presence, ReportCause.MODEL, ReportStatus.AMENDED),
    "patient-changed": _case(builders.presence, ReportCause.PATIENT_CHANGED, ReportStatus.AMENDED),
    "released": _case(builders.presence, ReportCause.RELEASED, ReportStatus.PRELIMINARY),
    "accepted": _case(builders.located, *_ACCEPTED),
    "accepted-not-assessable": _case(builders.not_assessable, *_ACCEPTED),
    "accepted-unsuitable": replace(_case(builders.unsuitable, *_ACCEPTED), status="cancelled"),
    "modified": _case(builders.presence, *_MODIFIED, "The nodule is a vessel."),
    "rejected": _case(builders.located, *_REJECTED, "Motion artefact."),
    "retracted": _case(builders.presence, *_RETRACTED, "Recalled model."),
    "retracted-failure": _case(builders.failed, *_RETRACTED, "Recalled model."),
}
"""Every outcome and every version that a report can have."""


def resources(bundle: Json, resource_type: str) -> list[Json]:
    found = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in found if resource["resourceType"] == resource_type]


def report(bundle: Json) -> Json:
    return resources(bundle, "DiagnosticReport")[0]


def provenance(bundle: Json) -> Json:
    return resources(bundle, "Provenance")[0]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value
