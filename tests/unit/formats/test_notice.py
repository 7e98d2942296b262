"""Notices say what became of a request, and nothing about who the patient is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import Person, ReportCause, ReportStatus, ReportVersion
from hub.errors import IntegrityError
from hub.formats.encoding import EncodingContext
from hub.formats.notice import encode
from tests import builders

CONTEXT = EncodingContext(
    made_at=builders.MADE_AT, institution_name="Beispielklinikum", software_version="0.1.0"
)


def failed(request: InferenceRequest) -> InferenceResult:
    reasons = ("Jörg Müller's images cannot be read.",)
    return builders.result_for(request, Outcome.FAILED, reasons=reasons)


def notice(answer: Any = builders.assessed, **changes: Any) -> dict[str, Any]:
    request = builders.request_for(builders.chest_ct_study())
    study = changes.pop("study", request.study)
    request = replace(request, study=study, **changes.pop("request", {}))
    pdf = Document("pdf-id", DocumentKind.PDF, request.request_id, study.identity, b"")
    document = encode(
        request,
        answer(request),
        builders.model_card(),
        replace(CONTEXT, **changes),
        {DocumentKind.PDF: pdf},
    )
    assert document is not None
    read: dict[str, Any] = json.loads(document.content)
    assert read["notice_id"] == document.document_id
    return read


def test_a_notice_names_request_study_order_and_model() -> None:
    made = notice()
    expected = {
        "notice_version": 1,
        "event": "report.made",
        "made_at": "2026-03-14T08:30:15.250000Z",
        "study_instance_uid": "2.25.1001",
        "study_revision": 1,
        "accession_number": "A-2026-0042",
        "route": "chest-ct",
        "model": {"id": "lung-density", "version": "1.2.0", "sha256": "ab" * 32},
        "outcome": "assessed",
        "report": {
            "version": 1,
            "status": "preliminary",
            "verified": False,
            "withdrawn": False,
        },
        "critical": False,
        "documents": [{"kind": "pdf", "id": "pdf-id"}],
    }
    assert {name: made[name] for name in expected} == expected
    assert "images" not in made


def test_findings_stand_with_code_value_and_unit() -> None:
    volume = notice()["findings"][0]
    assert volume["code"] == {"value": "118565006", "scheme": "SCT", "meaning": "Volume"}
    assert (volume["value"], volume["unit"], volume["critical"]) == (5312.4, "mL", False)
    answers = [one["presence"] for one in notice(builders.presence)["findings"]]
    assert answers == ["present", "absent", "indeterminate", "not-assessable"]


def test_a_critical_finding_is_told_twice() -> None:
    def critical(request: InferenceRequest) -> InferenceResult:
        found = builders.presence(request)
        first, *rest = found.findings
        return replace(found, findings=(replace(first, critical=True), *rest))

    made = notice(critical)
    assert made["critical"] is True
    assert [one["critical"] for one in made["findings"]] == [True, False, False, False]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (builders.not_assessable, "not-assessable"),
        (builders.unsuitable, "unsuitable"),
        (failed, "failed"),
    ],
)
def test_what_is_no_answer_has_no_findings(answer: Any, outcome: str) -> None:
    made = notice(answer)
    assert (made["outcome"], made["findings"]) == (outcome, [])


def test_a_partial_study_is_told() -> None:
    study = builders.chest_ct_study()
    lacking = replace(study.completeness, complete=False, received=3, expected=5)
    made = notice(study=replace(study, completeness=lacking))
    assert made["images"] == {"received": 3, "expected": 5}


@pytest.mark.parametrize(
    ("cause", "status", "flags"),
    [
        (ReportCause.ACCEPTED, ReportStatus.FINAL, (True, False)),
        (ReportCause.MODIFIED, ReportStatus.AMENDED, (True, False)),
        (ReportCause.REJECTED, ReportStatus.ENTERED_IN_ERROR, (False, True)),
        (ReportCause.RETRACTED, ReportStatus.ENTERED_IN_ERROR, (False, True)),
        (ReportCause.PATIENT_CHANGED, ReportStatus.PRELIMINARY, (False, False)),
    ],
)
def test_each_version_is_an_event(
    cause: ReportCause, status: ReportStatus, flags: tuple[bool, bool]
) -> None:
    person = Person("Weiß^Änne", identifier="4711")
    version = ReportVersion(2, status, cause, reason="Müller said so", person=person)
    made = notice(report=version)
    assert made["event"] == f"report.{cause.value}"
    assert (made["report"]["verified"], made["report"]["withdrawn"]) == flags
    assert made["report"]["version"] == 2


@pytest.mark.parametrize("cause", [ReportCause.REJECTED, ReportCause.RETRACTED])
def test_a_withdrawn_report_has_no_finding_and_calls_nobody(cause: ReportCause) -> None:
    """Whoever looks at the findings alone must not find one that does not hold."""
    version = ReportVersion(
        2, ReportStatus.ENTERED_IN_ERROR, cause, reason="wrong", person=Person("Weiß^Änne")
    )

    def critical(request: InferenceRequest) -> InferenceResult:
        found = builders.presence(request)
        return replace(found, findings=(replace(found.findings[0], critical=True),))

    made = notice(critical, report=version)
    assert (made["findings"], made["critical"]) == ([], False)
    assert made["report"]["withdrawn"] is True


def test_late_images_amend() -> None:
    assert notice(request={"amends_revision": 1})["event"] == "report.amended"


@pytest.mark.parametrize(
    "answer", [builders.assessed, builders.presence, builders.unsuitable, failed]
)
def test_no_notice_tells_who_the_patient_is(answer: Any) -> None:
    version = ReportVersion(
        2, ReportStatus.FINAL, ReportCause.ACCEPTED, reason="Müller", person=Person("Weiß^Änne")
    )
    text = json.dumps(notice(answer, report=version), ensure_ascii=False)
    for told in ("Müller", "Jörg", "1958", "4711", "Weiß", "12 years"):
        assert told not in text


def test_a_result_of_another_study_is_no_notice() -> None:
    def foreign(request: InferenceRequest) -> InferenceResult:
        identity = StudyIdentity("1.2.9", PatientIdentity("OTHER"))
        return replace(builders.assessed(request), identity=identity)

    with pytest.raises(IntegrityError):
        notice(foreign)
