"""Every state of a report as ORU^R01, judged by hl7apy and read back by python-hl7."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.domain.critical import CriticalRule
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Presence
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import (
    Person,
    PreviousDocument,
    ReportCause,
    ReportStatus,
    ReportVersion,
)
from hub.errors import IntegrityError, RejectedError
from hub.formats.encoding import AI_MARK, FIRST_VERSION, EncodingContext
from hub.formats.hl7v2.report import encode
from tests.builders import (
    LEFT,
    MADE_AT,
    MILLILITRE,
    PATIENT,
    VOLUME,
    assessed,
    chest_ct_study,
    ecg_assessed,
    ecg_study,
    model_card,
    not_assessable,
    presence,
    request_for,
    result_for,
    unsuitable,
)
from tests.peers.hl7_listener import field_of, parsed, problems_of

RADIOLOGIST = Person(
    "Weiß^Änne^^Dr.", identifier="12^3", identifier_system="urn:oid:1.2.276.0.76.4.16"
)


def context(report: ReportVersion = FIRST_VERSION, **fields: Any) -> EncodingContext:
    values = {
        "made_at": MADE_AT,
        "institution_name": "Klinik | Süd & Co",
        "software_version": "0.1.0",
        "identifier_systems": {"UMR": "urn:oid:1.2.276.1"},
        "report": report,
    }
    return EncodingContext(**(values | fields))


def failed(request: InferenceRequest) -> InferenceResult:
    return result_for(request, Outcome.FAILED, reasons=("The worker died twice.",))


def oru(
    result: Callable[[InferenceRequest], InferenceResult] | InferenceResult = assessed,
    *,
    request: InferenceRequest | None = None,
    report: ReportVersion = FIRST_VERSION,
    related: dict[DocumentKind, Document] | None = None,
    **fields: Any,
) -> str:
    request = request or request_for(chest_ct_study())
    answer = result if isinstance(result, InferenceResult) else result(request)
    card = fields.pop("card", model_card())
    document = encode(request, answer, card, context(report, **fields), related or {})
    assert document is not None
    assert document.kind is DocumentKind.ORU
    return document.content.decode("utf-8")


def rows(text: str) -> list[list[str]]:
    """The fields of each OBX, as they stand; index and number of a field are the same."""
    return [line.split("|") for line in text.split("\r") if line.startswith("OBX|")]


def about(text: str, code: str) -> list[list[str]]:
    return [row for row in rows(text) if row[3].split("^")[0] == code]


def obr(text: str) -> list[str]:
    (found,) = [line.split("|") for line in text.split("\r") if line.startswith("OBR|")]
    return found


def notes(text: str) -> str:
    return "\n".join(line for line in text.split("\r") if line.startswith("NTE|"))


def version(status: ReportStatus, cause: ReportCause, **fields: Any) -> ReportVersion:
    return ReportVersion(number=2, status=status, cause=cause, person=RADIOLOGIST, **fields)


ACCEPTED = version(ReportStatus.FINAL, ReportCause.ACCEPTED)
MODIFIED = version(ReportStatus.AMENDED, ReportCause.MODIFIED, reason="Left lung\rtoo | large")
REJECTED = version(ReportStatus.ENTERED_IN_ERROR, ReportCause.REJECTED, reason="Motion artefact")
RETRACTED = version(ReportStatus.ENTERED_IN_ERROR, ReportCause.RETRACTED, reason="Wrong model")
LATE = ReportVersion(status=ReportStatus.AMENDED)
VERSIONS = [ReportVersion(), ACCEPTED, MODIFIED, REJECTED, RETRACTED, LATE]
PLACES = ("363698007", "272741003")
"""Finding site and laterality."""
RESULTS = [assessed, presence, not_assessable, unsuitable, failed]


@pytest.mark.parametrize("report", VERSIONS, ids=lambda report: report.cause.value)
@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_every_state_is_valid(result: Any, report: ReportVersion, tmp_path: Path) -> None:
    assert problems_of(oru(result, report=report), tmp_path / "report.txt") == []


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    text = oru()
    for broken in (
        text.replace("|P|2.5.1|", "||2.5.1|"),
        text.replace("|5312.4|", "|much|"),
        text.replace("PV1|1|U", "PV1|1|"),
        text.replace("OBR|1|", "ZZZ|1|"),
    ):
        assert problems_of(broken, tmp_path / "report.txt"), broken


def test_the_patient_and_the_order_are_those_of_the_request() -> None:
    message = parsed(oru())
    assert field_of(message, "PID", 3) == "CAIDX-4711"
    assert "CAIDX-4711^^^UMR&1.2.276.1&ISO^MR" in oru()
    assert field_of(message, "PID", 5) == "Müller-Größ"
    assert [field_of(message, "PID", 5, n) for n in (2, 3, 4, 5)] == ["Jörg", "", "", "Dr."]
    assert (field_of(message, "PID", 7), field_of(message, "PID", 8)) == ("19580217", "M")
    assert (field_of(message, "OBR", 18), field_of(message, "OBR", 19)) == ("A-2026-0042", "RIS")
    assert field_of(message, "OBR", 7) == "20260314082501"
    assert field_of(message, "OBR", 4) == "24627-2"
    assert about(oru(), "113014")[0][5] == "2.25.1001"
    assert field_of(message, "MSH", 18) == "UNICODE UTF-8"


@pytest.mark.parametrize(
    ("day", "time", "offset", "written"),
    [
        ("20260314", "082501.5", "+0900", "20260314082501+0900"),
        ("20260314", "0825", "-0330", "202603140825-0330"),
        ("20260314", "0825", "+99", "202603140825"),
        ("20260314", "08", "+0900", "20260314"),
        ("20260314", "2599", "", "20260314"),
        ("20261332", "0825", "", ""),
        ("٢٠٢٦٠٣١٤", "0825", "", ""),
        ("", "0825", "", ""),
    ],
)
def test_the_time_of_the_study_is_that_of_its_own_clock(
    day: str, time: str, offset: str, written: str, tmp_path: Path
) -> None:
    study = chest_ct_study()
    (series,) = study.series
    named = {"timezone_offset_from_utc": offset}
    odd = tuple(replace(i, attributes=dict(i.attributes) | named) for i in series.instances)
    series = replace(series, instances=odd)
    request = request_for(replace(study, series=(series,), study_date=day, study_time=time))
    text = oru(request=request)
    assert obr(text)[7] == written
    assert {row[14] for row in rows(text)} == {written}
    assert problems_of(text, tmp_path / "report.txt") == []


def test_a_birth_date_that_is_no_day_is_left_out() -> None:
    study = chest_ct_study(patient=replace(PATIENT, patient_birth_date="19580231"))
    assert field_of(parsed(oru(request=request_for(study))), "PID", 7) == ""


def test_values_keep_their_number_and_unit() -> None:
    text = oru()
    volume, density, low = (about(text, code)[0] for code in ("118565006", "112031", "laa-950"))
    assert [row[2] for row in (volume, density, low)] == ["NM"] * 3
    assert [row[5] for row in (volume, density, low)] == ["5312.4", "-861.3", "7.2"]
    assert (volume[6], density[6]) == ("mL^mL^UCUM", "[hnsf'U]^Hounsfield unit^UCUM")
    assert [row[11] for row in (volume, density, low)] == ["P"] * 3
    assert volume[4] == density[4] != low[4]


@pytest.mark.parametrize(
    ("value", "written"), [(1e-7, "0.0000001"), (1e20, "100000000000000000000"), (0.1 + 0.2, "0.3")]
)
def test_numbers_have_no_exponent(value: float, written: str) -> None:
    result = assessed(request_for(chest_ct_study()))
    findings = (replace(result.findings[0], value=value),)
    assert about(oru(replace(result, findings=findings)), "118565006")[0][5] == written


def test_each_answer_is_unmistakable() -> None:
    text = oru(presence)
    (right, left), (fluid, unknown) = about(text, "36118008"), about(text, "60046008")
    assert [row[5].split("^")[1] for row in (right, left, fluid)] == [
        "Present",
        "Absent",
        "Indeterminate",
    ]
    assert right[3].split("^")[1] == "Pneumothorax, right"
    assert (right[9], left[9]) == ("0.930", "0.020")
    assert (unknown[2], unknown[5], unknown[11]) == ("", "", "X")
    assert "NOT ASSESSABLE" in notes(text)
    assert [row[8] for row in (right, left, fluid, unknown)] == [""] * 4
    assert len({(row[3], row[4]) for row in rows(text)}) == len(rows(text))


@pytest.mark.parametrize(
    ("result", "outcome", "status", "words"),
    [
        (not_assessable, "not-assessable", "P", "NOT ASSESSABLE"),
        (unsuitable, "unsuitable", "X", "NOT ANALYSED"),
        (failed, "failed", "X", "PROCESSING FAILED"),
    ],
)
def test_no_answer_never_looks_like_nothing_found(
    result: Any, outcome: str, status: str, words: str
) -> None:
    text = oru(result)
    assert obr(text)[25] == status
    assert about(text, "ai-outcome")[0][5].startswith(outcome + "^")
    (asked,) = about(text, "118565006")
    assert (asked[2], asked[5], asked[11]) == ("", "", "X")
    assert words in about(text, "121077")[0][5]
    assert "neither a positive nor a negative" in notes(text)
    assert "Absent" not in text


def test_what_nobody_verified_says_so() -> None:
    text = oru()
    assert obr(text)[25] == "P"
    assert f"|{AI_MARK}" in notes(text)
    assert about(text, "121077")[0][5].startswith(AI_MARK)
    assert {row[16] for row in rows(text)} == {""}
    assert all("AI: Lung density 1.2.0" in row[17] for row in rows(text))
    assert all(r"lung-density\F\1.2.0" in row[18] for row in rows(text))


def test_a_verified_report_names_who_did_and_that_an_ai_made_it() -> None:
    text = oru(report=ACCEPTED)
    assert obr(text)[25] == "F"
    assert about(text, "118565006")[0][11] == "F"
    assert about(text, "118565006")[0][16].startswith(r"12\S\3^Weiß^Änne^^^Dr.")
    assert obr(text)[32] == r"12\S\3&Weiß&Änne&&&Dr."
    assert AI_MARK not in text
    assert "AI result, verified by Weiß, Dr. Änne" in notes(text)


def test_a_changed_report_is_a_correction() -> None:
    text = oru(report=MODIFIED)
    assert obr(text)[25] == "C"
    assert {row[11] for row in rows(text)} == {"C", "O"}
    assert "changed and verified by Weiß" in notes(text)
    assert r"Left lung\.br\too \F\ large" in notes(text)


@pytest.mark.parametrize("report", [REJECTED, RETRACTED])
@pytest.mark.parametrize("result", [assessed, presence, failed])
def test_what_was_withdrawn_holds_no_finding(result: Any, report: ReportVersion) -> None:
    text = oru(result, report=report)
    assert obr(text)[25] == "C"
    taken_back = [row for row in rows(text) if row[11] == "W"]
    assert {row[5] for row in taken_back} <= {"WITHDRAWN"}
    told = [row for row in taken_back if row[3].split("^")[0] not in PLACES]
    assert len(told) == len(result(request_for(chest_ct_study())).findings)
    assert about(text, "ai-outcome")[0][5].startswith("withdrawn^")
    for place in (notes(text), about(text, "121077")[0][5]):
        assert "WITHDRAWN" in place
        assert report.reason in place
    assert "5312" not in text
    assert "Present" not in text


def test_late_images_correct_and_say_on_how_many_images() -> None:
    study = chest_ct_study(revision=2)
    few = replace(study.completeness, complete=False, expected=5)
    request = replace(request_for(replace(study, completeness=few)), amends_revision=1)
    assert obr(oru(request=request))[25] == "C"  # also where the version itself says nothing
    text = oru(request=request, report=LATE)
    assert obr(text)[25] == "C"
    assert "INCOMPLETE: computed on 3 of 5 images" in notes(text)
    assert "AMENDED" in notes(text)
    assert AI_MARK in notes(text)
    assert obr(text)[3] == obr(oru())[3]


def test_a_finding_that_is_gone_is_taken_back() -> None:
    earlier = presence(request_for(chest_ct_study()))
    still = replace(earlier, findings=earlier.findings[1:])
    report = replace(LATE, replaced_findings=earlier.findings)
    text = oru(still, report=report)
    wrong = [r for r in rows(text) if r[11] == "W" and r[3].split("^")[0] not in PLACES]
    (before,) = [row for row in about(oru(earlier), "36118008") if "right" in row[3]]
    assert [(row[3], row[4], row[5]) for row in wrong] == [(before[3], before[4], "WITHDRAWN")]


def test_a_critical_finding_is_flagged() -> None:
    result = presence(request_for(chest_ct_study()))
    first = replace(result.findings[0], critical=True)
    text = oru(replace(result, findings=(first, *result.findings[1:])))
    assert obr(text)[5] == "S"
    assert "TQ1|1||||||20260314082501||S" in text
    right, left = about(text, "36118008")
    assert (right[8], left[8]) == ("AA", "")
    assert "CRITICAL" in notes(text)
    assert about(text, "121077")[0][8] == "AA"
    assert obr(oru(presence))[5] == "R"


@pytest.mark.parametrize(("limits", "flag"), [({"above": 100.0}, "HH"), ({"below": 9000.0}, "LL")])
def test_a_critical_number_is_too_high_or_too_low(limits: dict[str, float], flag: str) -> None:
    result = assessed(request_for(chest_ct_study()))
    findings = (replace(result.findings[0], critical=True),)
    output = replace(model_card().output, critical=(CriticalRule(finding="Lungs", **limits),))
    card = replace(model_card(), output=output)
    assert about(oru(replace(result, findings=findings), card=card), "118565006")[0][8] == flag


def test_a_withdrawn_report_is_not_urgent() -> None:
    result = presence(request_for(chest_ct_study()))
    first = replace(result.findings[0], critical=True)
    text = oru(replace(result, findings=(first,)), report=RETRACTED)
    assert obr(text)[5] == "R"
    assert "CRITICAL" not in text


def test_the_page_and_the_dicom_objects_go_with_it(tmp_path: Path) -> None:
    request = request_for(chest_ct_study())

    def document(kind: DocumentKind, name: str) -> Document:
        content = bytes(range(256)) * 900
        return Document(name, kind, request.request_id, request.study.identity, content)

    related = {
        DocumentKind.PDF: document(DocumentKind.PDF, "page"),
        DocumentKind.SR: document(DocumentKind.SR, "2.25.7"),
        DocumentKind.SEG: document(DocumentKind.SEG, "2.25.8"),
    }
    text = oru(request=request, related=related)
    (page,) = about(text, "18748-4")
    described, content = page[5].rsplit("^", 1)
    assert (page[2], described) == ("ED", "^application^pdf^Base64")
    assert base64.b64decode(content) == related[DocumentKind.PDF].content
    assert {row[4]: row[5] for row in about(text, "sop-instance-uid")} == {
        "sr": "2.25.7",
        "seg": "2.25.8",
    }
    assert problems_of(text, tmp_path / "report.txt") == []


HOSTILE = PatientIdentity(
    patient_id="A|B^C~D\\E&F",
    issuer_of_patient_id="X|Y",
    patient_name="Mül|ler~\\^Jö&rg\rOBX|1^\x0b\x1c\n=山田^太郎=やまだ^たろう",
    patient_birth_date="gestern",
    patient_sex="?",
)


def test_hostile_texts_stay_where_they_belong(tmp_path: Path) -> None:
    study = chest_ct_study(patient=HOSTILE, accession_number="A|1\r^2")
    study = replace(study, referring_physician_name="R|^G\rPID|")
    text = oru(request=request_for(study))
    assert problems_of(text, tmp_path / "report.txt") == []
    assert {0x0B, 0x1C, 0x0A}.isdisjoint(text.encode())
    message = parsed(text)
    assert field_of(message, "PID", 3) == HOSTILE.patient_id
    assert field_of(message, "PID", 5, 2).startswith("Jö&rg OBX|1")
    assert field_of(message, "OBR", 18) == "A|1 ^2"
    assert (field_of(message, "PID", 7), field_of(message, "PID", 8)) == ("", "U")
    names = next(line for line in text.split("\r") if line.startswith("PID|")).split("|")[5]
    assert names.split("~")[1:] == ["山田^太郎^^^^^L^I", "やまだ^たろう^^^^^L^P"]


def test_a_patient_without_a_name_is_valid(tmp_path: Path) -> None:
    study = chest_ct_study(patient=PatientIdentity("1"))
    assert problems_of(oru(request=request_for(study)), tmp_path / "report.txt") == []


def test_an_ecg_is_no_radiology(tmp_path: Path) -> None:
    text = oru(ecg_assessed, request=request_for(ecg_study()))
    assert obr(text)[24] == "EC"
    assert about(text, "106068003")[0][5] == "64730000^Normal sinus rhythm^SCT"
    assert problems_of(text, tmp_path / "report.txt") == []


def test_a_long_report_is_parted() -> None:
    result = presence(request_for(chest_ct_study()))
    many = tuple(
        replace(
            result.findings[0],
            tracking_uid=f"2.25.{number}",
            tracking_identifier=f"A rather long name of a nodule {number}",
            statement="^" * 400,
        )
        for number in range(200)
    )
    text = oru(replace(result, findings=many))
    assert len(about(text, "121077")) > 1
    assert max(len(line) for line in text.split("\r")) <= 200_000
    sub_ids = [row[4] for row in about(text, "36118008")]
    assert len(set(sub_ids)) == 200
    assert max(map(len, sub_ids)) <= 20


def test_the_same_result_makes_the_same_message_and_another_version_another() -> None:
    assert oru() == oru()
    control_ids = {field_of(parsed(oru(report=report)), "MSH", 10) for report in VERSIONS[:2]}
    assert len(control_ids) == 2
    assert max(map(len, control_ids)) <= 20


def test_an_answer_that_cannot_be_expressed_is_refused() -> None:
    result = assessed(request_for(chest_ct_study()))
    for broken in (
        replace(result.findings[0], value=float("nan")),
        replace(result.findings[0], unit=replace(MILLILITRE, coding_scheme_designator="99X")),
    ):
        with pytest.raises(RejectedError):
            oru(replace(result, findings=(broken,)))
    claims = replace(result, outcome=Outcome.UNSUITABLE, reasons=("no",))
    with pytest.raises(RejectedError):
        oru(claims)


def test_a_result_of_another_study_is_no_message() -> None:
    other = assessed(request_for(chest_ct_study(patient=replace(PATIENT, patient_id="other"))))
    with pytest.raises(IntegrityError):
        oru(other)


def test_not_assessable_stays_so_when_a_person_signs() -> None:
    result = presence(request_for(chest_ct_study()))
    only = replace(result, findings=(result.findings[3],))
    assert only.findings[0].presence is Presence.NOT_ASSESSABLE
    assert only.findings[0].laterality is LEFT
    (row,) = about(oru(only, report=ACCEPTED), "60046008")
    assert (row[5], row[11]) == ("", "X")
    assert VOLUME.code_value not in oru(only, report=ACCEPTED)


# --- several messages about one report -----------------------------------------------------------


def kept(*messages: str) -> dict[tuple[str, str], list[str]]:
    """What a receiver shows that replaces an OBX by one with the same OBX-3.1 and OBX-4."""
    return {(row[3].split("^")[0], row[4]): row for text in messages for row in rows(text)}


def standing(shown: dict[tuple[str, str], list[str]]) -> dict[tuple[str, str], list[str]]:
    """Those with a value that is neither withdrawn nor about the report itself."""
    about_it = ("ai-outcome", "121077", "113014")
    return {
        k: row for k, row in shown.items() if row[11] != "W" and row[5] and k[0] not in about_it
    }


@pytest.mark.parametrize("report", [REJECTED, RETRACTED], ids=["rejected", "retracted"])
@pytest.mark.parametrize("result", [assessed, presence])
def test_nothing_of_a_withdrawn_report_stands(result: Any, report: ReportVersion) -> None:
    findings = result(request_for(chest_ct_study())).findings
    first = oru(result)
    last = oru(result, report=replace(report, replaced_findings=findings))
    assert standing(kept(first)) != {}
    assert standing(kept(first, last)) == {}
    before = {(row[3].split("^")[0], row[4]) for row in rows(first)}
    taken_back = {(row[3].split("^")[0], row[4]) for row in rows(last) if row[11] == "W"}
    assert taken_back <= before  # nothing is taken back that nobody was told


def test_where_a_finding_lay_goes_with_it() -> None:
    earlier = presence(request_for(chest_ct_study()))
    still = replace(earlier, findings=earlier.findings[1:])
    report = replace(LATE, replaced_findings=earlier.findings)
    gone = {row[4] for row in rows(oru(still, report=report)) if row[11] == "W"}
    assert len(gone) == 1
    shown = standing(kept(oru(earlier), oru(still, report=report)))
    assert not gone & {sub_id for _, sub_id in shown}


@pytest.mark.parametrize("broke", [not_assessable, unsuitable, failed])
def test_a_question_is_the_same_one_with_and_without_an_answer(broke: Any) -> None:
    answered = assessed(request_for(chest_ct_study()))
    later = replace(LATE, replaced_findings=answered.findings)
    first, second = oru(answered), oru(broke, report=later)
    assert standing(kept(first, second)) == {}
    open_ones = [row for row in kept(second, oru(answered, report=LATE)).values() if row[11] == "X"]
    assert open_ones == []


def test_two_questions_of_one_code_are_both_left_open() -> None:
    card = model_card()
    first = card.output.findings[0]
    other = replace(first, tracking_identifier="another")
    findings = (*card.output.findings, other)
    card = replace(card, output=replace(card.output, findings=findings))
    asked = about(oru(not_assessable, card=card), first.code.code_value)
    assert [row[11] for row in asked] == ["X", "X"]
    assert len({row[4] for row in asked}) == 2


def test_an_object_that_is_gone_is_taken_back() -> None:
    before = PreviousDocument(DocumentKind.SEG, "1.2.840.10008.5.1.4.1.1.66.4", "2.25.8", "2.25.9")
    text = oru(failed, report=replace(LATE, predecessors=(before,)))
    (row,) = about(text, "sop-instance-uid")
    assert (row[4], row[5], row[11]) == ("seg", "WITHDRAWN", "W")
