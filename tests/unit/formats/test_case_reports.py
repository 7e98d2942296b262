"""Reports on measured values: FHIR R4 and R5, HL7 v2, the page, the notice, the record."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.domain.identity import PatientIdentity
from hub.domain.inference import ObservationInput
from hub.domain.report import ReportVersion
from hub.errors import IntegrityError
from hub.formats import record
from hub.formats.document_identity import contradictions
from hub.formats.encoding import check_document_identity
from hub.formats.fhir import report as fhir_report
from hub.formats.fhir.checks import check_rules
from hub.formats.invariants import check_documents, check_result
from tests import builders
from tests.unit.formats.case_reports import CASE_REPORTS, CaseReport, Json, card
from tests.unit.formats.encoded import output_of
from tests.unit.formats.fhir_bundles import context, provenance, report, resources, strings
from tests.unit.observed import AST, CASE_UID, observation

STRANGER = PatientIdentity("P-8", "HOSP")


@pytest.mark.parametrize("name", CASE_REPORTS)
def test_every_document_of_every_case_stands_the_checks(name: str) -> None:
    one = CASE_REPORTS[name]
    check_result(one.request, one.result, card())
    documents = one.documents()
    check_documents(one.request, documents.values())
    for document in documents.values():
        assert contradictions(document, one.request.study.identity) == ()
        if document.kind is not DocumentKind.RECORD:  # it is the hub's own
            assert CASE_UID.encode() not in document.content


def test_the_findings_are_derived_from_the_values_that_they_rest_on() -> None:
    bundle = CaseReport().bundle()
    check_rules(bundle)
    found = {o["code"]["coding"][0]["code"]: o for o in resources(bundle, "Observation")}
    assert [r["reference"] for r in found["98488-0"]["derivedFrom"]] == [
        "Observation/1920-8",
        "Observation/1742-6",
        "Observation/777-3",
    ]
    assert [r["reference"] for r in found["98979-8"]["derivedFrom"]] == ["Observation/2160-0"]
    for one in found.values():
        assert one["category"][0]["coding"][0]["code"] == "laboratory"
        assert one["effectiveDateTime"] == "2026-02-28T12:00:00.000Z"
        assert one["subject"]["identifier"]["value"] == "P-7"
    assert found["98488-0"]["valueQuantity"]["code"] == "{score}"
    assert "component" not in found["FIB4CLASS"]


def test_the_report_is_of_the_laboratory_and_names_its_order() -> None:
    bundle = CaseReport().bundle()
    (made,) = resources(bundle, "DiagnosticReport")
    assert made["category"][0]["coding"][0]["code"] == "LAB"
    assert "imagingStudy" not in made
    assert resources(bundle, "ImagingStudy") == []
    assert made["effectiveDateTime"] == "2026-02-28T12:00:00.000Z"
    assert [r.get("reference") for r in made["basedOn"]] == ["ServiceRequest/77", None, None]
    assert [r["identifier"]["value"] for r in made["basedOn"][1:]] == ["PO-1", "A-7"]
    assert "AST 31 U/L, measured 2026-02-28 13:00 (LOINC 1920-8, from lab)" in made["conclusion"]
    (task,) = resources(bundle, "Task")
    assert "https://ehr.example/fhir/Task/9" in [r.get("reference") for r in task["basedOn"]]
    assert [r["valueReference"]["reference"] for r in task["input"]] == [
        "Observation/1920-8",
        "Observation/1742-6",
        "Observation/777-3",
        "Observation/2160-0",
    ]
    assert "focus" not in task
    used = [e["what"]["reference"] for e in provenance(bundle)["entity"]]
    assert used == [r["valueReference"]["reference"] for r in task["input"]]


def test_an_order_of_images_is_named_too() -> None:
    asked = builders.request_for(builders.chest_ct_study())
    reference = {"reference": "ServiceRequest/5"}
    request = replace(asked, based_on=(json.dumps(reference),))
    result = builders.presence(request)
    document = fhir_report.encode(request, result, builders.model_card(), context(), {})
    assert document is not None
    bundle = json.loads(document.content)
    number = request.study.accession_number
    for one in (report(bundle), *resources(bundle, "Task"), *resources(bundle, "Observation")):
        assert one["basedOn"][0] == reference
        assert one["basedOn"][1]["identifier"]["value"] == number


def test_values_are_named_by_where_they_stand_or_by_their_identifier() -> None:
    elsewhere = resources(CASE_REPORTS["elsewhere"].bundle(), "Observation")[0]["derivedFrom"]
    assert elsewhere[0]["reference"] == "https://lab.example/fhir/Observation/1920-8"
    known = resources(CASE_REPORTS["by-identifier"].bundle(), "Observation")[0]["derivedFrom"]
    assert "reference" not in known[0]
    assert known[0]["identifier"] == {"system": "urn:lab", "value": "1920-8-0"}


@pytest.mark.parametrize("name", ["unsuitable", "nothing-given"])
def test_what_is_missing_stands_in_report_and_task(name: str) -> None:
    bundle = CASE_REPORTS[name].bundle()
    made = report(bundle)
    assert made["status"] == "cancelled"
    assert "creatinine: missing (LOINC 2160-0)" in made["conclusion"]
    (task,) = resources(bundle, "Task")
    assert task["status"] == "rejected"
    texts = [issue["details"]["text"] for issue in task["contained"][0]["issue"]]
    assert texts == ["creatinine: missing (LOINC 2160-0)."]
    for one in resources(bundle, "Observation"):
        assert "creatinine: missing" in one["dataAbsentReason"]["text"]
    assert len(task.get("input", [])) == CASE_REPORTS[name].given


def test_r5_says_the_same() -> None:
    bundle = CaseReport().bundle(DocumentKind.FHIR_R5)
    made = report(bundle)
    assert "study" not in made
    assert made["basedOn"][0]["reference"] == "ServiceRequest/77"
    assert len(resources(bundle, "Observation")[0]["derivedFrom"]) == 3


def test_the_message_of_the_laboratory() -> None:
    content = CaseReport().documents()[DocumentKind.ORU].content.decode()
    segments = [line.split("|") for line in content.split("\r") if line]
    (order,) = [fields for fields in segments if fields[0] == "OBR"]
    assert (order[2], order[7], order[18], order[24]) == (
        "PO-1^^1.2.3^ISO",
        "20260228120000+0000",
        "A-7",
        "LAB",
    )
    (common,) = [fields for fields in segments if fields[0] == "ORC"]
    assert common[2] == order[2]
    codes = [fields[3].split("^")[0] for fields in segments if fields[0] == "OBX"]
    assert "113014" not in codes  # there is no DICOM study
    assert {"98488-0", "98979-8", "FIB4CLASS"} <= set(codes)
    assert "AST 31 U/L, measured" in content


@pytest.mark.peers
def test_the_page_lists_the_values(tmp_path: Path) -> None:
    file = tmp_path / "report.pdf"
    file.write_bytes(CaseReport().documents()[DocumentKind.PDF].content)
    plain = " ".join(output_of("pdftotext", "-layout", str(file), "-").split())
    assert "MEASURED VALUES" in plain
    for value in ("AST 31 U/L", "ALT 28 U/L", "platelets 240 10*9/L", "creatinine 0.8 mg/dL"):
        assert value in plain
    assert "LOINC 2160-0" in plain
    assert "4 values of 4 that were found" in plain
    assert "Study Instance UID" not in plain
    assert "2026-02-28 13:00" in plain


def test_the_notice_names_no_study() -> None:
    notice = json.loads(CaseReport().documents()[DocumentKind.NOTICE].content)
    assert "study_instance_uid" not in notice
    assert len(notice["observations"]) == 4
    assert notice["accession_number"] == "A-7"


def test_the_record_keeps_values_and_inputs() -> None:
    one = CASE_REPORTS["unsuitable"]
    document = one.documents()[DocumentKind.RECORD]
    read = record.decode(document.content)
    assert read.request == one.request
    assert read.result == one.result
    assessed = CaseReport()
    read = record.decode(assessed.documents()[DocumentKind.RECORD].content)
    assert read.result.findings == assessed.result.findings
    assert read.request.observations == assessed.request.observations
    assert read.card == card()


def test_a_case_has_no_dicom_documents() -> None:
    assert not DICOM_KINDS & set(CaseReport().documents())


# --- wrong patients, wrong values --------------------------------------------------------------


def test_a_value_of_another_patient_stops_the_result() -> None:
    one = CaseReport()
    values = one.request.study.observations
    foreign = (*values[:3], replace(values[3], patient=STRANGER))
    study = replace(one.request.study, observations=foreign)
    request = replace(
        one.request,
        study=study,
        inputs=tuple(replace(given, observations=foreign) for given in _given(one)),
    )
    with pytest.raises(IntegrityError, match="a value of another patient"):
        check_document_identity(request, one.result)


def test_a_value_outside_the_case_stops_the_result() -> None:
    one = CaseReport()
    other = observation(AST, 99, number=9)
    inputs = tuple(
        replace(given, observations=(*given.observations, other)) for given in _given(one)
    )
    with pytest.raises(IntegrityError, match="a value outside the case"):
        check_document_identity(replace(one.request, inputs=inputs), one.result)


def test_a_finding_of_values_that_were_not_given_stops_the_result() -> None:
    one = CaseReport()
    first, *others = one.result.findings
    findings = (replace(first, derived_from=("0" * 32,)), *others)
    with pytest.raises(IntegrityError, match="values that the model was not given"):
        check_document_identity(one.request, replace(one.result, findings=findings))


def _given(one: CaseReport) -> tuple[ObservationInput, ...]:
    return tuple(i for i in one.request.inputs if isinstance(i, ObservationInput))


@pytest.mark.parametrize(
    "kind", [DocumentKind.FHIR, DocumentKind.FHIR_R5, DocumentKind.ORU, DocumentKind.NOTICE]
)
def test_bytes_that_name_another_patient_or_order_are_never_sent(kind: DocumentKind) -> None:
    one = CaseReport()
    document = one.documents()[kind]
    wrong = {"AccessionNumber": (b"A-7", b"A-8")}
    if kind is not DocumentKind.NOTICE:  # it has no patient
        wrong["PatientID"] = (b"P-7", b"P-8")
    for field, (right, other) in wrong.items():
        assert right in document.content
        changed = replace(document, content=document.content.replace(right, other))
        assert field in contradictions(changed, one.request.study.identity)


def test_a_message_on_images_still_needs_its_study() -> None:
    one = CaseReport()
    document = one.documents()[DocumentKind.ORU]
    as_radiology = replace(document, content=document.content.replace(b"|LAB|", b"|RAD|"))
    (said,) = contradictions(as_radiology, one.request.study.identity)
    assert "cannot be read" in said


# --- the rules of a transaction ------------------------------------------------------------------


def _without_sources(bundle: Json) -> None:
    for one in resources(bundle, "Observation"):
        one.pop("derivedFrom")


def _with_images(bundle: Json) -> None:
    entry = deepcopy(bundle["entry"][1])
    identifier = {"system": "urn:dicom:uid", "value": "urn:oid:2.25.1"}
    entry["fullUrl"] = "urn:uuid:00000000-0000-0000-0000-000000000001"
    entry["resource"] = {
        "resourceType": "ImagingStudy",
        "status": "available",
        "identifier": [identifier],
        "subject": report(bundle)["subject"],
    }
    entry["request"] = {
        "method": "POST",
        "url": "ImagingStudy",
        "ifNoneExist": "identifier=urn%3Adicom%3Auid%7Curn%3Aoid%3A2.25.1",
    }
    bundle["entry"].append(entry)


def _loose_result(bundle: Json) -> None:
    report(bundle)["result"][0]["reference"] = "Observation/1920-8"


def _script_as_source(bundle: Json) -> None:
    resources(bundle, "Observation")[0]["derivedFrom"][0]["reference"] = "javascript:alert(1)"


def _device_as_source(bundle: Json) -> None:
    url = bundle["entry"][0]["fullUrl"]
    resources(bundle, "Observation")[0]["derivedFrom"][0] = {"reference": url}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without_sources, "does not say on which"),
        (_with_images, "an ImagingStudy of measured values"),
        (_loose_result, "leads to no entry"),
        (_script_as_source, "leads to no entry"),
        (_device_as_source, "derivedFrom leads to a Device"),
    ],
)
def test_a_transaction_that_breaks_a_rule_is_never_sent(damage: Any, said: str) -> None:
    bundle = CaseReport().bundle()
    check_rules(bundle)
    damage(bundle)
    with pytest.raises(IntegrityError, match=said):
        check_rules(bundle)


def test_a_later_version_updates_the_same_resources() -> None:
    first, later = CaseReport(), CASE_REPORTS["accepted"]

    def urls(bundle: Json) -> set[str]:
        kinds = ("Observation", "DiagnosticReport", "Task")
        return {
            entry["request"]["url"]
            for entry in bundle["entry"]
            if entry["resource"]["resourceType"] in kinds
        }

    assert urls(first.bundle()) == urls(later.bundle())
    assert later.version != ReportVersion()
    assert "WITHDRAWN" in " ".join(strings(report(CASE_REPORTS["retracted"].bundle())))
