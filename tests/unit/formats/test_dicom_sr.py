from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import pydicom
import pytest

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.errors import RejectedError
from hub.formats.sr import report as dicom_sr
from tests import builders
from tests.unit.formats.encoded import CONTEXT, all_documents, output_of


def report_of(request: InferenceRequest, result: InferenceResult) -> Document:
    return all_documents(request, result)[DocumentKind.SR]


def read(document: Document) -> Any:
    return highdicom.sr.srread(BytesIO(document.content)).content


def items(container: pydicom.Dataset) -> list[pydicom.Dataset]:
    """All content items below a container, depth first."""
    found = []
    for item in container.get("ContentSequence", []):
        found += [item, *items(item)]
    return found


def codes_of(document: Document) -> list[tuple[str, str]]:
    root = pydicom.dcmread(BytesIO(document.content))
    return [
        (i.ConceptNameCodeSequence[0].CodeMeaning, i.ConceptCodeSequence[0].CodeMeaning)
        for i in items(root)
        if i.ValueType == "CODE"
    ]


def texts_of(document: Document) -> list[str]:
    root = pydicom.dcmread(BytesIO(document.content))
    return [i.TextValue for i in items(root) if i.ValueType == "TEXT"]


def test_highdicom_reads_back_measurements_sites_and_tracking_uids() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = builders.assessed(request)
    groups = read(report_of(request, result)).get_volumetric_roi_measurement_groups()
    got = {
        (group.tracking_uid, measurement.name.value, measurement.value, measurement.unit.value)
        for group in groups
        for measurement in group.get_measurements()
    }
    assert got == {
        (f.tracking_uid, f.code.code_value, f.value, f.unit.code_value)
        for f in result.findings
        if f.unit is not None
    }
    assert [group.tracking_identifier for group in groups] == ["Lungs", "Low attenuation areas"]
    assert [group.finding_sites[0].value.value for group in groups] == ["39607008", "39607008"]
    assert [group.finding_type.meaning for group in groups] == ["Lung", "Pulmonary emphysema"]


def test_groups_refer_to_their_segment_and_its_source_series() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    documents = all_documents(request, builders.assessed(request))
    groups = read(documents[DocumentKind.SR]).get_volumetric_roi_measurement_groups()
    for number, group in enumerate(groups, start=1):
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == documents[DocumentKind.SEG].document_id
        reference = segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSegmentNumber == number
        assert segment.source_series_for_segmentation.value == "2.25.1001.1"
    assert documents[DocumentKind.SR].related_uids == (documents[DocumentKind.SEG].document_id,)


def test_a_value_from_several_segments_names_them_all() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    both = replace(result.findings[2], segment_numbers=(1, 2), tracking_uid="2.25.77")
    report = report_of(request, replace(result, findings=(both,)))
    root = pydicom.dcmread(BytesIO(report.content))
    [number] = [i for i in items(root) if i.get("ReferencedSOPSequence") and _segments(i)]
    assert _segments(number) == [1, 2]
    [group] = read(report).get_image_measurement_groups()
    assert group.tracking_uid == "2.25.77"


def _segments(item: pydicom.Dataset) -> list[int]:
    return list(item.ReferencedSOPSequence[0].get("ReferencedSegmentNumber", []))


def test_each_answer_to_presence_is_its_own_code() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    result = builders.presence(request)
    groups = read(report_of(request, result)).get_image_measurement_groups()
    answers = [
        [(e.name.meaning, e.value.meaning) for e in group.get_qualitative_evaluations()]
        for group in groups
    ]
    assert answers == [
        [("Pneumothorax", "Present")],
        [("Pneumothorax", "Absent")],
        [("Pleural effusion", "Indeterminate")],
        [("Pleural effusion", "Not assessable")],
    ]
    sides = [group.finding_sites[0].laterality.meaning for group in groups]
    assert sides == ["Right", "Left", "Right", "Left"]


def test_only_what_is_present_is_called_a_finding() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    groups = read(report_of(request, builders.presence(request))).get_image_measurement_groups()
    findings = [group.finding_type for group in groups]
    assert [finding and finding.meaning for finding in findings] == [
        "Pneumothorax",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("make", "meaning"),
    [
        (builders.not_assessable, "Not assessable"),
        (builders.unsuitable, "Not processed: outside intended use"),
    ],
)
def test_no_answer_is_said_with_its_reason_and_without_a_number(make: Any, meaning: str) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = make(request)
    report = report_of(request, result)
    assert ("Outcome of AI analysis", meaning) in codes_of(report)
    assert not {"Present", "Absent"} & {value for _, value in codes_of(report)}
    assert set(result.reasons + result.warnings) <= set(texts_of(report))
    assert any("neither a positive nor a negative" in text for text in texts_of(report))
    [group] = read(report).get_image_measurement_groups()
    assert not group.get_measurements()
    assert [e.value.meaning for e in group.get_qualitative_evaluations()] == [meaning]


def test_warnings_and_statements_are_in_the_report() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request, warnings=["Computed on 312 of 340 images."])
    texts = texts_of(report_of(request, result))
    assert "Computed on 312 of 340 images." in texts
    assert {finding.statement for finding in result.findings} <= set(texts)


def test_missing_images_and_an_earlier_result_are_told() -> None:
    study = builders.chest_ct_study(2, revision=2)
    whole = builders.request_for(study)
    partial = replace(study, completeness=replace(study.completeness, received=312, expected=340))
    request = replace(whole, study=partial, amends_revision=1)
    texts = " ".join(texts_of(report_of(request, builders.assessed(request))))
    assert "INCOMPLETE: computed on 312 of 340 images." in texts
    amended = "AMENDED: revision 2 of the study; replaces the earlier AI result of revision 1."
    assert amended in texts
    plain = " ".join(texts_of(report_of(whole, builders.assessed(whole))))
    assert "INCOMPLETE" not in plain
    assert "AMENDED" not in plain


def test_the_report_is_unverified_and_preliminary_and_names_the_order() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    found = pydicom.dcmread(BytesIO(report_of(request, builders.assessed(request)).content))
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert found.VerificationFlag == "UNVERIFIED"
    assert found.PreliminaryFlag == "PRELIMINARY"
    assert found.CompletionFlag == "COMPLETE"
    assert found.ReferencedRequestSequence[0].AccessionNumber == "A-2026-0042"


def test_all_sources_and_the_segmentation_are_evidence() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    documents = all_documents(request, builders.assessed(request))
    found = pydicom.dcmread(BytesIO(documents[DocumentKind.SR].content))
    [study] = found.CurrentRequestedProcedureEvidenceSequence
    cited = {
        reference.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    sources = {instance.sop_instance_uid for instance in request.study.instances}
    assert cited == sources | {documents[DocumentKind.SEG].document_id}


def test_the_image_library_places_every_image() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    found = pydicom.dcmread(BytesIO(report_of(request, builders.assessed(request)).content))
    positions = [
        float(i.MeasuredValueSequence[0].NumericValue)
        for i in items(found)
        if i.ConceptNameCodeSequence[0].CodeMeaning == "Image Position (Patient) Z"
    ]
    assert positions == [-295.0, -290.0, -285.0]


def test_an_ecg_is_cited_as_a_waveform_and_not_listed_as_an_image() -> None:
    request = builders.request_for(builders.ecg_study())
    found = pydicom.dcmread(BytesIO(report_of(request, builders.ecg_assessed(request)).content))
    kinds = [i.ValueType for i in items(found)]
    assert kinds.count("WAVEFORM") == 2
    assert "IMAGE" not in kinds
    answers = codes_of(report_of(request, builders.ecg_assessed(request)))
    assert ("Cardiac rhythm finding", "Normal sinus rhythm") in answers


def test_a_value_that_decimal_text_cannot_hold_is_exact_beside_it() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    result = builders.assessed(request, with_region=False)
    third = replace(result.findings[0], value=-1000 / 3)
    found = pydicom.dcmread(BytesIO(report_of(request, replace(result, findings=(third,))).content))
    measured = next(
        i.MeasuredValueSequence[0]
        for i in items(found)
        if i.ConceptNameCodeSequence[0].CodeMeaning == "Volume"
    )
    assert measured.FloatingPointValue == -1000 / 3
    assert len(str(measured.NumericValue)) <= 16


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    result = builders.assessed(request, with_region=False)
    broken = replace(result, findings=(replace(result.findings[0], value=value),))
    with pytest.raises(RejectedError, match="finite"):
        dicom_sr.encode(request, broken, builders.model_card(), CONTEXT, {})


def test_long_codes_and_meanings_stay_valid() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    code = Code("1234567890123456789", "SCT", "meaning " * 20)
    finding = Finding(
        tracking_uid="2.25.5", tracking_identifier="x", code=code, presence=Presence.ABSENT
    )
    report = report_of(request, replace(builders.presence(request), findings=(finding,)))
    found = pydicom.dcmread(BytesIO(report.content))
    names = [i.ConceptNameCodeSequence[0] for i in items(found)]
    [name] = [name for name in names if "LongCodeValue" in name]
    assert name.LongCodeValue == "1234567890123456789"
    assert len(name.CodeMeaning) <= 64
    assert name.CodeMeaning.endswith("...")


@pytest.mark.peers
def test_dcmtk_reads_the_report(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    file = tmp_path / "report.dcm"
    file.write_bytes(report_of(request, builders.assessed(request)).content)
    printed = output_of("dsrdump", "+Pl", str(file))
    assert "Müller-Größ^Jörg^^Dr." in printed
    assert '"5312.4" (mL,UCUM,"mL")' in printed
    assert "E: " not in printed
