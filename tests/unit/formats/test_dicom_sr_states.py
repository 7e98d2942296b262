"""What a structured report says of its own worth, in every state; judged by foreign readers."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Region
from hub.domain.identity import PatientIdentity
from hub.domain.report import ReportCause
from hub.formats.dicom_objects.modules import document_title
from hub.formats.seg import binary as dicom_seg
from hub.formats.seg import fractional as seg_fractional
from hub.formats.seg import labelmap as seg_labelmap
from hub.formats.sr import report as dicom_sr
from tests import builders
from tests.unit.formats.encoded import CONTEXT, output_of, validator_errors
from tests.unit.formats.report_states import (
    PERSON,
    RESULTS,
    encoded,
    second_version,
    version_after,
)

VERIFIED = [ReportCause.ACCEPTED, ReportCause.MODIFIED]
WITHDRAWN = [ReportCause.REJECTED, ReportCause.RETRACTED]
STRUCTURED = [DocumentKind.SR, DocumentKind.SR_3D]


def read(document: Document) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def items(container: pydicom.Dataset) -> list[pydicom.Dataset]:
    found = []
    for item in container.get("ContentSequence", []):
        found += [item, *items(item)]
    return found


def texts(report: pydicom.Dataset) -> list[str]:
    return [item.TextValue for item in items(report) if item.ValueType == "TEXT"]


def codes(report: pydicom.Dataset) -> list[tuple[str, str]]:
    return [
        (i.ConceptNameCodeSequence[0].CodeMeaning, i.ConceptCodeSequence[0].CodeMeaning)
        for i in items(report)
        if i.ValueType == "CODE"
    ]


def first_words(report: pydicom.Dataset) -> str:
    """The first content item that the root contains."""
    contained = [i for i in report.ContentSequence if i.RelationshipType == "CONTAINS"]
    assert contained[0].ValueType == "TEXT"
    return str(contained[0].TextValue)


@pytest.mark.peers
@pytest.mark.parametrize("cause", ReportCause)
@pytest.mark.parametrize("outcome", RESULTS)
def test_every_state_is_valid_and_readable(
    outcome: str, cause: ReportCause, tmp_path: Path
) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    first, second = second_version(request, RESULTS[outcome](request), cause)
    made = [*first.values(), *second.values()]
    assert {DocumentKind.SR, DocumentKind.SR_3D} <= second.keys()
    assert (DocumentKind.REJECTION_NOTE in second) == (cause in WITHDRAWN)
    for document in made:
        assert validator_errors(document, tmp_path) == []
        if document.kind in (DocumentKind.SEG, DocumentKind.PRESENTATION_STATE):
            continue
        printed = output_of("dsrdump", "+Pl", str(tmp_path / f"{document.kind.value}.dcm"))
        assert "Müller-Größ^Jörg^^Dr." in printed
        assert not [line for line in printed.splitlines() if line.startswith("E: ")]


@pytest.mark.parametrize("kind", STRUCTURED)
@pytest.mark.parametrize("cause", VERIFIED)
def test_a_person_who_verified_is_named_and_the_ai_still_is(
    kind: DocumentKind, cause: ReportCause
) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    _, second = second_version(request, builders.assessed(request), cause)
    report = read(second[kind])
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("VERIFIED", "FINAL")
    [observer] = report.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName) == PERSON.name
    assert observer.VerifyingOrganization == PERSON.organization
    assert observer.VerificationDateTime.startswith("20260314093015")
    observers = [answer for question, answer in codes(report) if question == "Observer Type"]
    assert observers == ["Device", "Person"]
    [name] = [i for i in items(report) if i.ValueType == "PNAME"]
    assert str(name.PersonName) == PERSON.name
    said = (
        "AI result, changed and verified by"
        if cause is ReportCause.MODIFIED
        else "AI result, verified by"
    )
    assert any(text.startswith(said) and "Klinik Süd" in text for text in texts(report))
    assert not any("not verified" in text for text in texts(report))
    assert report.SeriesDescription == "AI Lung density (verified)"
    assert "Lung density 1.2.0 by CAIDX hub" in texts(report)


@pytest.mark.parametrize("kind", STRUCTURED)
@pytest.mark.parametrize("cause", WITHDRAWN)
def test_a_withdrawn_report_says_so_and_repeats_no_finding(
    kind: DocumentKind, cause: ReportCause
) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    for result in (builders.assessed(request), builders.located(request)):
        _, second = second_version(request, result, cause)
        report = read(second[kind])
        assert report.SeriesDescription == "AI WITHDRAWN Lung density"
        assert report.ConceptNameCodeSequence[0].CodeMeaning == "AI result WITHDRAWN: do not use"
        assert first_words(report).startswith("WITHDRAWN: this AI result must not be used (")
        assert "must not be used" in first_words(report)
        assert "wrong lobe" in first_words(report)
        assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
        assert ("Outcome of AI analysis", "Withdrawn: must not be used") in codes(report)
        told = {i.ConceptNameCodeSequence[0].CodeMeaning for i in items(report)}
        assert not told & {finding.code.code_meaning for finding in result.findings}
        assert not [i for i in items(report) if i.ValueType == "SCOORD"]
        assert second[kind].related_uids == ()


@pytest.mark.parametrize("kind", STRUCTURED)
def test_a_new_version_names_the_report_that_it_replaces(kind: DocumentKind) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    first, second = second_version(request, builders.assessed(request), ReportCause.MODEL)
    earlier, later = read(first[kind]), read(second[kind])
    [study] = later.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    [reference] = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == earlier.StudyInstanceUID
    assert series.SeriesInstanceUID == earlier.SeriesInstanceUID
    assert reference.ReferencedSOPInstanceUID == earlier.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == earlier.SOPClassUID
    assert later.SOPInstanceUID != earlier.SOPInstanceUID
    assert later.SeriesInstanceUID != earlier.SeriesInstanceUID
    assert "PredecessorDocumentsSequence" not in earlier


def test_a_report_of_the_other_form_is_a_predecessor_where_there_is_no_other() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    first = encoded(request, builders.assessed(request))
    only_flat = {DocumentKind.SR: first[DocumentKind.SR]}
    context = version_after(only_flat, ReportCause.MODEL)
    second = encoded(request, builders.assessed(request), context)
    [study] = read(second[DocumentKind.SR_3D]).PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    assert (
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        == first[DocumentKind.SR].document_id
    )


def test_later_versions_refer_to_the_segmentation_of_the_first_one() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    first, second = second_version(request, builders.assessed(request), ReportCause.ACCEPTED)
    segmentation, report = read(first[DocumentKind.SEG]), read(second[DocumentKind.SR])
    assert DocumentKind.SEG not in second
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    cited = {
        reference.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert cited[segmentation.SOPInstanceUID] == segmentation.SeriesInstanceUID
    groups = highdicom.sr.srread(
        BytesIO(second[DocumentKind.SR].content)
    ).content.get_volumetric_roi_measurement_groups()
    assert [g.referenced_segment.referenced_sop_instance_uid for g in groups] == [
        segmentation.SOPInstanceUID,
        segmentation.SOPInstanceUID,
    ]
    assert second[DocumentKind.SR].related_uids == (segmentation.SOPInstanceUID,)


@pytest.mark.parametrize(
    ("outcome", "words", "title"),
    [
        (
            "not assessable",
            "NOT ASSESSABLE. No statement about the patient",
            "AI NOT ASSESSABLE Lung density",
        ),
        (
            "unsuitable",
            "NOT ANALYSED: OUTSIDE THE INTENDED USE. No statement",
            "AI NOT ANALYSED Lung density",
        ),
        ("failed", "PROCESSING FAILED. No statement about the patient", "AI FAILED Lung density"),
    ],
)
def test_no_answer_is_told_first_and_in_the_list_of_series(
    outcome: str, words: str, title: str
) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    report = read(encoded(request, RESULTS[outcome](request))[DocumentKind.SR])
    assert first_words(report).startswith(words)
    assert "neither a positive nor a negative" in first_words(report)
    assert report.SeriesDescription == title
    assert report.ConceptNameCodeSequence[0].CodeMeaning == "AI result"


def test_a_critical_finding_is_told_first_and_marked_in_its_group() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    document = encoded(request, builders.located(request))[DocumentKind.SR]
    report = read(document)
    assert first_words(report) == "CRITICAL FINDING: Nodule 2."
    assert report.SeriesDescription == "AI CRITICAL Lung density (not verified)"
    groups = highdicom.sr.srread(BytesIO(document.content)).content
    marked = [
        group.tracking_identifier
        for group in (
            *groups.get_planar_roi_measurement_groups(),
            *groups.get_image_measurement_groups(),
        )
        if any(e.name.meaning == "Critical finding" for e in group.get_qualitative_evaluations())
    ]
    assert marked == ["Nodule 2"]


def test_who_released_a_result_and_whose_data_changed_is_told() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    for cause, words in (
        (ReportCause.RELEASED, "Released by Größ, Dr. Änne"),
        (ReportCause.PATIENT_CHANGED, "AMENDED: the patient's data changed"),
    ):
        _, second = second_version(request, result, cause)
        report = read(second[DocumentKind.SR])
        assert any(text.startswith(words) for text in texts(report))
        assert report.VerificationFlag == "UNVERIFIED"


def test_a_long_title_keeps_what_the_report_is_worth() -> None:
    card = builders.model_card()
    long = replace(card, procedure=replace(card.procedure, title="Lungen " * 20))
    request = builders.request_for(builders.chest_ct_study(1))
    for title, said in (
        (document_title(long), " (not verified)"),
        (document_title(long, result=builders.failed(request)), "AI FAILED "),
    ):
        assert len(title) <= 64
        assert title.startswith("AI ")
        assert said in title


@pytest.mark.parametrize(
    "name",
    ["Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Łuczak^Żaneta", "Иванов^Иван"],
)
@pytest.mark.peers
def test_names_of_any_script_come_through(name: str, tmp_path: Path) -> None:
    patient = PatientIdentity("X1", "UMR", name, "19580217", "M")
    request = builders.request_for(builders.chest_ct_study(1, patient=patient))
    document = encoded(request, builders.assessed(request))[DocumentKind.SR]
    assert str(read(document).PatientName) == name
    assert validator_errors(document, tmp_path) == []
    assert name in output_of("dcmdump", str(tmp_path / "sr.dcm"))


def test_the_same_input_gives_the_same_bytes() -> None:
    request = builders.request_for(builders.chest_ct_study(2))

    def made() -> dict[Any, bytes]:
        _, second = second_version(request, builders.located(request), ReportCause.RETRACTED)
        return {kind: document.content for kind, document in second.items()}

    assert made() == made()


def test_a_report_refers_to_the_form_of_segmentation_that_its_receiver_gets() -> None:
    """Binary before label map before fractional, by what the object itself says it is."""
    request = builders.request_for(builders.chest_ct_study(2))
    region = builders.lung_region(request)
    sure = np.full((2, *region_shape(region)), 255, np.uint8).tobytes()
    result = replace(builders.assessed(request), region=replace(region, probabilities=sure))
    card = builders.model_card()
    made = {
        kind: encode(request, result, card, CONTEXT, {})
        for kind, encode in (
            (DocumentKind.SEG_FRACTIONAL, seg_fractional.encode),
            (DocumentKind.SEG_LABELMAP, seg_labelmap.encode),
            (DocumentKind.SEG, dicom_seg.encode),
        )
    }
    related = {}
    for kind, document in made.items():
        assert document is not None
        related[kind] = document
        report = dicom_sr.encode(request, result, card, CONTEXT, related)
        groups = highdicom.sr.srread(
            BytesIO(report.content)
        ).content.get_volumetric_roi_measurement_groups()
        named = {g.referenced_segment.referenced_sop_instance_uid for g in groups}
        classes = {g.referenced_segment.referenced_sop_class_uid for g in groups}
        assert named == {document.document_id}
        assert classes == {read(document).SOPClassUID}
        assert set(report.related_uids) == {d.document_id for d in related.values()}


def test_a_value_of_a_whole_segment_is_not_that_of_its_rest_in_a_label_map() -> None:
    """The lungs of a label map are the lungs without what is nested in them."""
    request = builders.request_for(builders.chest_ct_study(2))
    result, card = builders.assessed(request), builders.model_card()
    label_map = seg_labelmap.encode(request, result, card, CONTEXT, {})
    assert label_map is not None
    related = {DocumentKind.SEG_LABELMAP: label_map}
    report = read(dicom_sr.encode(request, result, card, CONTEXT, related))
    measured = {
        str(item.ConceptNameCodeSequence[0].CodeMeaning): {
            number
            for child in item.get("ContentSequence", ())
            if "ReferencedSOPSequence" in child
            for number in _numbers(child.ReferencedSOPSequence[0])
        }
        for item in items(report)
        if item.ValueType == "NUM"
    }
    groups = [i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "121191"]
    referenced = [_numbers(g.ReferencedSOPSequence[0]) for g in groups]
    assert referenced == [[2]]  # what lies within is whole
    assert {frozenset(n) for n in measured.values()} == {frozenset({1, 2}), frozenset()}


def _numbers(reference: Dataset) -> list[int]:
    found = reference.get("ReferencedSegmentNumber") or []
    return [found] if isinstance(found, int) else list(found)


def region_shape(region: Region) -> tuple[int, int, int]:
    return len(region.sop_instance_uids), region.rows, region.columns


@pytest.mark.peers
def test_maps_and_key_images_are_named_as_objects_of_the_result(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    segmentation = encoded(request, result)[DocumentKind.SEG]
    for kind, name in (
        (DocumentKind.PARAMETRIC_MAP, "Parametric map"),
        (DocumentKind.KEY_IMAGE, "Key Images"),
    ):
        related = {kind: replace(segmentation, kind=kind)}
        document = dicom_sr.encode(request, result, builders.model_card(), CONTEXT, related)
        named = [
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for item in items(read(document))
            if item.ConceptNameCodeSequence[0].CodeMeaning == name
        ]
        assert named == [segmentation.document_id]
        assert document.related_uids == (segmentation.document_id,)
        assert validator_errors(document, tmp_path) == []
