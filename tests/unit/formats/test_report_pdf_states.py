"""What the printed report stands for cannot be overlooked on any of its pages."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import Image

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import GraphicType, ImageLocation, ParametricMap
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import (
    Person,
    PreviousDocument,
    ReportCause,
    ReportStatus,
    ReportVersion,
)
from hub.formats.printed import pdf as report_pdf
from tests import builders
from tests.unit.formats.encoded import CONTEXT, all_documents, output_of, validator_errors

PERSON = Person("Schmidt^Änne^^Dr.", organization="Radiologie Nord")
PREVIOUS = PreviousDocument(
    DocumentKind.ENCAPSULATED_PDF, "1.2.840.10008.5.1.4.1.1.104.1", "2.25.41", "2.25.42"
)
ACCEPTED = ReportVersion(
    2, ReportStatus.FINAL, ReportCause.ACCEPTED, "", PERSON, predecessors=(PREVIOUS,)
)
MODIFIED = ReportVersion(
    2, ReportStatus.AMENDED, ReportCause.MODIFIED, "volume corrected", PERSON, (PREVIOUS,)
)
REJECTED = ReportVersion(
    3, ReportStatus.ENTERED_IN_ERROR, ReportCause.REJECTED, "that is a scar", PERSON, (PREVIOUS,)
)
RETRACTED = ReportVersion(
    2, ReportStatus.ENTERED_IN_ERROR, ReportCause.RETRACTED, "wrong series", PERSON, (PREVIOUS,)
)


def document(
    kind: DocumentKind,
    request: InferenceRequest,
    result: InferenceResult,
    version: ReportVersion,
) -> Document:
    encode: Any = report_pdf.encode if kind is DocumentKind.PDF else report_pdf.encode_dicom
    context = replace(CONTEXT, report=version)
    made = encode(request, result, builders.model_card(), context, {})
    assert isinstance(made, Document)
    return made


def printed(
    request: InferenceRequest,
    result: InferenceResult,
    folder: Path,
    version: ReportVersion | None = None,
) -> str:
    """The text of the page on one line, as poppler extracts it."""
    file = folder / "report.pdf"
    version = version or ReportVersion()
    file.write_bytes(document(DocumentKind.PDF, request, result, version).content)
    return " ".join(output_of("pdftotext", "-layout", str(file), "-").split())


def request_of() -> InferenceRequest:
    return builders.request_for(builders.chest_ct_study(3))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("version", "title", "by"),
    [
        (ACCEPTED, "AI RESULT, VERIFIED BY A PERSON", "Verified by"),
        (MODIFIED, "AI RESULT, CHANGED AND VERIFIED BY A PERSON", "Changed and verified by"),
    ],
)
def test_a_verified_report_says_who_verified_it_and_that_ai_made_it(
    version: ReportVersion, title: str, by: str, tmp_path: Path
) -> None:
    request = request_of()
    text = printed(request, builders.assessed(request), tmp_path, version)
    assert title in text
    assert f"{by} Schmidt, Dr. Änne (Radiologie Nord)" in text
    assert "Made by software" in text
    assert "NOT VERIFIED" not in text
    assert "No physician has confirmed" not in text
    assert "Version 2 of this report; replaces version 1" in text
    assert "Replaces PDF report: 2.25.41" in text
    assert version.reason in text


@pytest.mark.peers
@pytest.mark.parametrize("version", [REJECTED, RETRACTED])
def test_a_withdrawn_report_is_struck_out_on_every_page(
    version: ReportVersion, tmp_path: Path
) -> None:
    request = request_of()
    answer = builders.presence(request).findings[0]
    many = replace(builders.presence(request), findings=(answer,) * 90)
    text = printed(request, many, tmp_path, version)
    pages = text.count("Page ")
    assert pages > 1
    assert text.count("WITHDRAWN: DO NOT USE") == pages
    assert "this AI result must not be used" in text
    assert version.reason in text
    assert "Schmidt, Dr. Änne" in text
    assert "IN WORDS" not in text
    assert "VERIFIED" not in text


@pytest.mark.peers
def test_a_withdrawn_page_looks_withdrawn(tmp_path: Path) -> None:
    request = request_of()
    result = builders.assessed(request)
    shares = []
    for name, version in (("first", ReportVersion()), ("second", RETRACTED)):
        file = tmp_path / f"{name}.pdf"
        file.write_bytes(document(DocumentKind.PDF, request, result, version).content)
        output_of("pdftoppm", "-r", "40", "-png", "-singlefile", str(file), str(tmp_path / name))
        pixels = Image.open(tmp_path / f"{name}.png").convert("RGB")
        watermark = [p for p in pixels.get_flattened_data() if p == (246, 201, 207)]
        shares.append(len(watermark) / (pixels.width * pixels.height))
    assert shares[0] == 0
    assert shares[1] > 0.03


@pytest.mark.peers
@pytest.mark.parametrize(
    ("outcome", "title"),
    [
        (Outcome.FAILED, "PROCESSING FAILED"),
        (Outcome.UNSUITABLE, "NOT ANALYSED: OUTSIDE THE INTENDED USE"),
        (Outcome.NOT_ASSESSABLE, "NOT ASSESSABLE"),
    ],
)
def test_no_answer_says_that_nothing_is_said_about_the_patient(
    outcome: Outcome, title: str, tmp_path: Path
) -> None:
    request = request_of()
    result = builders.result_for(request, outcome, reasons=("The tube broke.",))
    text = printed(request, result, tmp_path)
    assert f"{title} No statement about the patient" in text
    assert "The tube broke." in text
    assert "FINDINGS" not in text


@pytest.mark.peers
def test_what_is_critical_comes_before_all_else(tmp_path: Path) -> None:
    request = replace(request_of(), amends_revision=1)
    found = builders.presence(request)
    critical = replace(found.findings[0], critical=True)
    text = printed(request, replace(found, findings=(critical, *found.findings[1:])), tmp_path)
    first = text.index("CRITICAL: Pneumothorax, Lung, Right")
    assert first < text.index("AMENDED:") < text.index("FINDINGS")
    assert "CRITICAL: Pneumothorax" in text[text.index("FINDINGS") :]
    assert "CRITICAL" not in printed(request, found, tmp_path)
    assert "CRITICAL: Pneumothorax, Lung" not in printed(
        request, replace(found, findings=(critical,)), tmp_path, RETRACTED
    )


@pytest.mark.peers
def test_locations_and_maps_are_named(tmp_path: Path) -> None:
    request = request_of()
    uid = request.study.instances[1].sop_instance_uid
    spots = (
        ImageLocation(GraphicType.POINT, uid, ((12.25, 30.5),)),
        ImageLocation(GraphicType.CIRCLE, uid, ((20, 20), (20, 25))),
        ImageLocation(GraphicType.POLYLINE, uid, ((4, 5), (14, 5), (14, 9)), frame_number=1),
    )
    result = builders.assessed(request)
    found = replace(result.findings[0], locations=spots)
    shown = ParametricMap(
        sop_instance_uids=(uid,),
        rows=64,
        columns=64,
        values=b"",
        quantity=Code("126392", "DCM", "Regional Blood Flow"),
        unit=Code("mL/min", "UCUM", "ml/min"),
        label="Blood flow",
    )
    result = replace(result, findings=(found,), maps=(shown,))
    text = printed(request, result, tmp_path)
    image = "image 2 (CT)"
    assert f"Volume (Lungs): {image}, point at column 12.2, row 30.5" in text
    assert f"{image}, circle in columns 15.0 to 25.0, rows 15.0 to 25.0" in text
    assert "image 2, frame 1 (CT)" in text
    assert "polyline in columns 4.0 to 14.0, rows 5.0 to 9.0" in text
    assert "Blood flow: Regional Blood Flow in mL/min, on 1 image" in text


@pytest.mark.peers
def test_a_long_name_does_not_run_into_the_institution(tmp_path: Path) -> None:
    request = request_of()
    person = Person("Freifrau-von-und-zu-Beispielhausen^Annegret-Charlotte^^Prof. Dr. med.")
    version = replace(ACCEPTED, person=person)
    text = printed(request, builders.assessed(request), tmp_path, version)
    assert "… Universitätsmedizin Beispielstadt" in text
    assert "Verified by Freifrau-von-und-zu-Beispielhausen, Prof. Dr. med. Annegret" in text


@pytest.mark.parametrize(
    ("version", "flag", "title"),
    [
        (ReportVersion(), "UNVERIFIED", "(not verified)"),
        (ACCEPTED, "VERIFIED", "(verified)"),
        (RETRACTED, "UNVERIFIED", "WITHDRAWN"),
        (REJECTED, "UNVERIFIED", "WITHDRAWN"),
    ],
)
def test_the_dicom_object_says_whether_a_person_verified_it(
    version: ReportVersion, flag: str, title: str
) -> None:
    request = request_of()
    made = document(DocumentKind.ENCAPSULATED_PDF, request, builders.assessed(request), version)
    found = pydicom.dcmread(BytesIO(made.content))
    assert found.VerificationFlag == flag
    assert title in found.DocumentTitle
    assert found.DocumentTitle.startswith("AI ")


@pytest.mark.peers
def test_dciodvfy_finds_no_error_in_any_state(tmp_path: Path) -> None:
    request = request_of()
    failed = builders.result_for(request, Outcome.FAILED, reasons=("It broke.",))
    for result in (builders.assessed(request), builders.unsuitable(request), failed):
        for version in (ReportVersion(), ACCEPTED, MODIFIED, REJECTED, RETRACTED):
            made = document(DocumentKind.ENCAPSULATED_PDF, request, result, version)
            assert validator_errors(made, tmp_path) == []


def test_the_object_names_the_documents_beside_it() -> None:
    request = request_of()
    made = all_documents(request, builders.assessed(request))
    related = {
        DocumentKind.SEG_LABELMAP: replace(made[DocumentKind.SEG], document_id="2.25.51"),
        DocumentKind.PARAMETRIC_MAP: replace(made[DocumentKind.SEG], document_id="2.25.52"),
    }
    wrapped = report_pdf.encode_dicom(
        request, builders.assessed(request), builders.model_card(), CONTEXT, related
    )
    found = pydicom.dcmread(BytesIO(wrapped.content))
    cited = {
        i.ReferencedSOPInstanceUID: i.ReferencedSOPClassUID for i in found.SourceInstanceSequence
    }
    assert cited["2.25.51"] == "1.2.840.10008.5.1.4.1.1.66.7"
    assert cited["2.25.52"] == "1.2.840.10008.5.1.4.1.1.30"
    assert {"2.25.51", "2.25.52"} <= set(wrapped.related_uids)
