from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_output import DetectionMeasurement, DetectionsFinding
from hub.formats.printed.words import date, number, person_name, printable, time
from tests import builders
from tests.unit.formats.encoded import all_documents, output_of


def printed(request: InferenceRequest, result: InferenceResult, folder: Path) -> str:
    """The text of the page, as poppler extracts it."""
    file = folder / "report.pdf"
    file.write_bytes(all_documents(request, result)[DocumentKind.PDF].content)
    return output_of("pdftotext", "-layout", str(file), "-")


def pages(text: str) -> list[str]:
    return text.split("\f")[:-1]


@pytest.mark.peers
def test_the_page_says_whose_it_is_what_was_found_and_that_ai_made_it(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    text = printed(request, builders.assessed(request, warnings=["Mind the gap."]), tmp_path)
    for expected in (
        "AI RESULT, NOT VERIFIED",
        "Müller-Größ, Dr. Jörg",
        "CAIDX-4711 (UMR)",
        "1958-02-17",
        "A-2026-0042",
        "CT Thorax nativ",
        "Lung density, version 1.2.0, by Beispiel Medizintechnik GmbH",
        "5312.4 mL",
        "-861.3 HU",
        "7.2 %",
        "Lung volume is 5312.4 mL.",
        "Mind the gap.",
        "Quantifies lung volume",
        "Not for children and adolescents",
        "Not a medical device",
        "mean absolute error: 1.9 %",
        request.study.study_instance_uid,
        request.request_id,
        "2026-03-14 09:30:15 CET",
        "Page 1 of 1",
    ):
        assert expected in " ".join(text.split()), expected


@pytest.mark.peers
@pytest.mark.parametrize(
    ("make", "title"),
    [
        (builders.not_assessable, "NOT ASSESSABLE"),
        (builders.unsuitable, "NOT ANALYSED: OUTSIDE THE INTENDED USE"),
    ],
)
def test_no_answer_cannot_be_overlooked(make: object, title: str, tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    assert callable(make)
    result = make(request)
    text = printed(request, result, tmp_path)
    assert title in text
    assert "neither a positive nor a negative result" in text
    assert result.reasons[0] in text
    assert "FINDINGS" not in text


@pytest.mark.peers
def test_missing_images_and_an_earlier_result_cannot_be_overlooked(tmp_path: Path) -> None:
    study = builders.chest_ct_study(2, revision=2)
    whole = builders.request_for(study)
    partial = replace(study, completeness=replace(study.completeness, received=312, expected=340))
    request = replace(whole, study=partial, amends_revision=1)
    text = printed(request, builders.assessed(request), tmp_path)
    assert text.index("INCOMPLETE: computed on 312 of 340 images.") < text.index("FINDINGS")
    assert text.index("AMENDED: revision 2 of the study") < text.index("FINDINGS")
    assert "INCOMPLETE" not in printed(whole, builders.assessed(whole), tmp_path)


@pytest.mark.peers
def test_each_answer_to_presence_is_printed_in_capitals(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    text = printed(request, builders.presence(request), tmp_path)
    for word in ("PRESENT", "ABSENT", "INDETERMINATE", "NOT ASSESSABLE", "93 %"):
        assert word in text


@pytest.mark.peers
def test_what_cannot_be_printed_is_shown_as_a_code_point(tmp_path: Path) -> None:
    patient = replace(builders.PATIENT, patient_name="Łukasz^Øyvind=山田^太郎")
    request = builders.request_for(builders.chest_ct_study(1, patient=patient))
    text = " ".join(printed(request, builders.presence(request), tmp_path).split())
    assert "Łukasz, Øyvind" in text
    assert "[U+5C71][U+7530]" in text


@pytest.mark.peers
def test_nothing_is_left_out_of_a_long_report_and_every_page_is_marked(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    answer = builders.presence(request).findings[0]
    many = tuple(replace(answer, statement=f"Statement {n}.") for n in range(150))
    text = printed(request, replace(builders.presence(request), findings=many), tmp_path)
    assert all(f"Statement {n}." in text for n in range(150))
    assert len(pages(text)) > 1
    assert all("AI RESULT, NOT VERIFIED" in page for page in pages(text))
    assert all("CAIDX-4711" in page for page in pages(text))
    assert f"Page 1 of {len(pages(text))}" in text


@pytest.mark.peers
def test_a_reason_of_any_length_and_kind_is_printed(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    reason = f"<b>{'word ' * 4000}&{'x' * 3000} end-of-reason"
    text = printed(request, replace(builders.not_assessable(request), reasons=(reason,)), tmp_path)
    assert "<b>word" in text
    assert "end-of-reason" in text


def test_the_dicom_object_holds_the_same_file() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    documents = all_documents(request, builders.assessed(request))
    found = pydicom.dcmread(BytesIO(documents[DocumentKind.ENCAPSULATED_PDF].content))
    pdf = documents[DocumentKind.PDF].content
    assert found.EncapsulatedDocument[: found.EncapsulatedDocumentLength] == pdf
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert found.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert found.DocumentTitle.startswith("AI ")
    assert found.BurnedInAnnotation == "YES"
    assert found.VerificationFlag == "UNVERIFIED"
    cited = {item.ReferencedSOPInstanceUID for item in found.SourceInstanceSequence}
    sources = {instance.sop_instance_uid for instance in request.study.instances}
    assert cited == sources | {
        documents[k].document_id for k in (DocumentKind.SR, DocumentKind.SEG)
    }


def test_the_page_is_a_document_of_its_request() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    documents = all_documents(request, builders.assessed(request))
    page: Document = documents[DocumentKind.PDF]
    assert page.content.startswith(b"%PDF-1.")
    assert page.identity == request.study.identity
    assert page.media_type == "application/pdf"


def test_text_is_shown_in_reading_order_or_as_code_points() -> None:
    assert printable("a<b & c\n\td", lambda _: True) == "a&lt;b &amp; c  d"
    assert printable("אב", lambda _: True) == "[U+05D0][U+05D1]"
    assert printable("ab", lambda character: character == "a") == "a[U+0062]"


def test_a_measurement_of_a_detection_has_the_decimals_of_its_manifest() -> None:
    millimetre = Code("mm", "UCUM", "mm")
    measurement = DetectionMeasurement(output="d", code=builders.LUNG, unit=millimetre, decimals=2)
    detections = DetectionsFinding(
        kind="detections",
        output="boxes",
        scores="scores",
        code=builders.LUNG,
        threshold=0.5,
        measurements=(measurement,),
        tracking_identifier="nodule",
    )
    card = builders.model_card()
    card = replace(card, output=replace(card.output, findings=(detections,)))
    finding = Finding(
        tracking_uid="2.25.1",
        tracking_identifier="nodule 1",
        code=builders.LUNG,
        value=8.0 / 3,
        unit=millimetre,
    )
    assert number(finding, card) == "2.67"
    assert number(replace(finding, code=millimetre), card) == "2.66667"


def test_names_and_dates_are_written_for_people() -> None:
    assert person_name("Adams^John Robert Quincy^^Rev.^B.A. M.Div.") == (
        "Adams, Rev. John Robert Quincy, B.A. M.Div."
    )
    assert person_name("Meier") == "Meier"
    assert person_name("") == "not given"
    assert person_name("^Vorname") == "Vorname"
    assert (date("20260314"), date("2026"), date("")) == ("2026-03-14", "2026", "not given")
    assert (time("082501.250"), time("0825"), time("")) == ("08:25:01", "0825", "")
