"""Reports on measured values, in every outcome and some versions, for the tests of the encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportCause, ReportStatus, ReportVersion
from hub.formats import notice, record
from hub.formats.fhir import r5 as fhir_r5
from hub.formats.fhir import report as fhir_report
from hub.formats.hl7v2 import report as hl7v2_report
from hub.formats.printed import pdf as report_pdf
from hub.ports import ModelPackage
from tests.unit.formats.fhir_bundles import RADIOLOGIST, context
from tests.unit.observed import case, package_of_scores, request_of, result_of, usual_values

Json = dict[str, Any]

ENCODERS = {
    DocumentKind.PDF: report_pdf.encode,
    DocumentKind.FHIR: fhir_report.encode,
    DocumentKind.FHIR_R5: fhir_r5.encode,
    DocumentKind.ORU: hl7v2_report.encode,
    DocumentKind.NOTICE: notice.encode,
    DocumentKind.RECORD: record.encode,
}
BASED_ON = (
    json.dumps({"reference": "ServiceRequest/77", "type": "ServiceRequest"}),
    json.dumps(
        {
            "type": "ServiceRequest",
            "identifier": {
                "type": {"coding": [{"code": "PLAC"}]},
                "system": "urn:oid:1.2.3",
                "value": "PO-1",
            },
        }
    ),
    json.dumps({"reference": "https://ehr.example/fhir/Task/9"}),
)


@cache
def package() -> ModelPackage:
    return package_of_scores()


def card() -> ModelCard:
    return package().card


@dataclass(frozen=True)
class CaseReport:
    """One version of a report on measured values."""

    outcome: Outcome = Outcome.ASSESSED
    version: ReportVersion = ReportVersion()  # noqa: RUF009 - frozen
    given: int = 4
    """How many of the usual values were there."""
    stands_at: str = "Observation/{code}"
    """Reference of each; empty: known by its identifier alone."""
    based_on: tuple[str, ...] = BASED_ON

    @property
    def request(self) -> InferenceRequest:
        values = tuple(
            replace(one, reference=self.stands_at.format(code=one.codes[0].code_value))
            for one in usual_values()[: self.given]
        )
        study = case(*values, accession_number="A-7")
        return request_of(study, values, package().key, based_on=self.based_on)

    @property
    def result(self) -> InferenceResult:
        return result_of(self.request, self.outcome)

    def documents(self) -> dict[DocumentKind, Document]:
        """Every document, each referring to those before it."""
        made: dict[DocumentKind, Document] = {}
        for kind, encode in ENCODERS.items():
            document = encode(self.request, self.result, card(), context(report=self.version), made)
            assert document is not None
            made[kind] = document
        return made

    def bundle(self, kind: DocumentKind = DocumentKind.FHIR) -> Json:
        return dict(json.loads(self.documents()[kind].content))


def _version(cause: ReportCause, status: ReportStatus) -> ReportVersion:
    return ReportVersion(
        number=2,
        status=status,
        cause=cause,
        person=RADIOLOGIST,
        reason="Haemolytic specimen." if cause is ReportCause.RETRACTED else "",
        replaced_findings=CaseReport().result.findings,
    )


CASE_REPORTS: Mapping[str, CaseReport] = {
    "assessed": CaseReport(),
    "not-assessable": CaseReport(Outcome.NOT_ASSESSABLE),
    "unsuitable": CaseReport(Outcome.UNSUITABLE, given=3),
    "nothing-given": CaseReport(Outcome.UNSUITABLE, given=0),
    "failed": CaseReport(Outcome.FAILED),
    "elsewhere": CaseReport(stands_at="https://lab.example/fhir/Observation/{code}"),
    "by-identifier": CaseReport(stands_at="", based_on=()),
    "accepted": CaseReport(version=_version(ReportCause.ACCEPTED, ReportStatus.FINAL)),
    "retracted": CaseReport(version=_version(ReportCause.RETRACTED, ReportStatus.ENTERED_IN_ERROR)),
}
