from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from hub.domain.delivery import DocumentKind
from hub.domain.finding import Evidence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Location, Series, Study, StudyKey
from hub.errors import IntegrityError
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.encoding import EncodingContext, document_uid, series_uid
from tests import builders
from tests.unit.formats.encoded import CONTEXT, ENCODERS, all_documents, validator_errors

Make = Callable[[InferenceRequest], InferenceResult]

CASES: dict[str, tuple[Study, Make]] = {
    "a CT with a region": (builders.chest_ct_study(4), builders.assessed),
    "one image": (builders.chest_ct_study(1), builders.assessed),
    "frames that share bytes": (builders.chest_ct_study(3, rows=13, columns=9), builders.assessed),
    "an ECG": (builders.ecg_study(), builders.ecg_assessed),
    "all answers to presence": (builders.chest_ct_study(1), builders.presence),
    "not assessable": (builders.chest_ct_study(2), builders.not_assessable),
    "unsuitable": (builders.chest_ct_study(2), builders.unsuitable),
    "no accession number": (
        builders.chest_ct_study(2, accession_number=""),
        builders.assessed,
    ),
    "a second revision": (builders.chest_ct_study(2, revision=2), builders.assessed),
}


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_an_independent_validator_finds_no_error(case: str, tmp_path: Path) -> None:
    study, make = CASES[case]
    request = builders.request_for(study)
    documents = all_documents(request, make(request))
    dicom = [d for d in documents.values() if d.media_type == "application/dicom"]
    assert len(dicom) >= 2
    assert {d.kind: validator_errors(d, tmp_path) for d in dicom} == {d.kind: [] for d in dicom}


@pytest.mark.peers
def test_the_validator_would_find_an_error(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    report = all_documents(request, builders.presence(request))[DocumentKind.SR]
    broken = replace(report, content=report.content.replace(b"UNVERIFIED", b"UNVERIFIE "))
    assert validator_errors(broken, tmp_path)


def test_the_same_input_gives_the_same_bytes() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = builders.assessed(request)
    first, second = all_documents(request, result), all_documents(request, result)
    assert len(first) == len(ENCODERS)
    assert first == second


def test_identifiers_differ_by_revision_route_model_and_kind() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    later = builders.request_for(builders.chest_ct_study(1, revision=2))
    retrained = replace(request, model=replace(request.model, sha256="cd" * 32))
    requests = (request, later, replace(request, route="other"), retrained)
    uids = [
        f(kind, r, CONTEXT)
        for f in (document_uid, series_uid)
        for kind in DocumentKind
        for r in requests
    ]
    assert len(set(uids)) == len(uids)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_objects_say_that_they_are_from_ai_and_belong_to_the_source_study() -> None:
    study = builders.chest_ct_study(3)
    request = builders.request_for(study)
    documents = all_documents(request, builders.assessed(request))
    for kind in (DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF):
        found = pydicom.dcmread(BytesIO(documents[kind].content))
        assert str(found.PatientName) == study.patient.patient_name
        assert found.PatientID == "CAIDX-4711"
        assert found.IssuerOfPatientID == "UMR"
        assert found.PatientBirthDate == "19580217"
        assert found.PatientSex == "M"
        assert found.PatientAge == "068Y"
        assert found.StudyInstanceUID == study.study_instance_uid
        assert (found.StudyDate, found.StudyTime) == (study.study_date, study.study_time)
        assert found.AccessionNumber == "A-2026-0042"
        issuer = found.IssuerOfAccessionNumberSequence[0]
        assert issuer.LocalNamespaceEntityID == "RIS"
        assert found.StudyID == study.study_id
        assert str(found.ReferringPhysicianName) == "Weiß^Änne"
        assert found.SpecificCharacterSet == "ISO_IR 192"
        assert found.SeriesDescription.startswith("AI ")
        assert (
            found.SOPInstanceUID
            == documents[kind].document_id
            == document_uid(kind, request, CONTEXT)
        )
        assert found.SeriesInstanceUID not in {s.series_instance_uid for s in study.series}
        assert found.SeriesNumber in range(9001, 9900)
        assert (found.ContentDate, found.ContentTime) == ("20260314", "093015.250000")
        [algorithm] = found.ContributingEquipmentSequence
        assert algorithm.PurposeOfReferenceCodeSequence[0].CodeValue == "1630"
        assert algorithm.PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator == "99IHE"
        assert algorithm.ManufacturerModelName == "Lung density"
        assert algorithm.SoftwareVersions == "1.2.0"
        assert algorithm.DeviceUID.startswith("2.25.")


def test_times_are_in_the_offset_that_the_source_names() -> None:
    study = builders.chest_ct_study(1)
    [series] = study.series
    tokyo = replace(series.instances[0], attributes={"timezone_offset_from_utc": "+0900"})
    study = replace(study, series=(replace(series, instances=(tokyo,)),))
    request = builders.request_for(study)
    report = all_documents(request, builders.presence(request))[DocumentKind.SR]
    found = pydicom.dcmread(BytesIO(report.content))
    assert found.TimezoneOffsetFromUTC == "+0900"
    assert found.ContentTime == "173015.250000"


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_result_of_another_study_is_never_encoded(kind: DocumentKind) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    patient = replace(result.identity.patient, patient_id="SOMEBODY-ELSE")
    wrong = (
        replace(result, identity=replace(result.identity, patient=patient)),
        replace(result, identity=replace(result.identity, study_instance_uid="2.25.9")),
        replace(result, identity=replace(result.identity, accession_number="B-1")),
        replace(result, request_id="another"),
        replace(result, model=replace(result.model, version="9")),
        replace(result, findings=(replace(result.findings[0], evidence=(Evidence("2.25.7"),)),)),
        replace(result, findings=(replace(result.findings[0], segment_numbers=(7,)),)),
        replace(result, region=builders.lung_region(_request_for_another_study())),
    )
    for foreign in wrong:
        with pytest.raises(IntegrityError) as caught:
            ENCODERS[kind](request, foreign, builders.model_card(), CONTEXT, {})
        assert "SOMEBODY" not in str(caught.value)


def _request_for_another_study() -> InferenceRequest:
    return builders.request_for(builders.chest_ct_study(2, study_instance_uid="2.25.3003"))


def test_an_instance_of_another_study_inside_a_study_is_refused() -> None:
    study = builders.chest_ct_study(2)
    [stranger] = builders.chest_ct_study(1, study_instance_uid="2.25.3003").series
    mixed = replace(study, series=(*study.series, Series("2.25.8", "CT", stranger.instances)))
    request = builders.request_for(mixed)
    with pytest.raises(IntegrityError, match="another study"):
        all_documents(request, builders.not_assessable(request))


def test_odd_values_of_the_source_are_copied_and_never_logged(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    odd = replace(
        builders.PATIENT,
        patient_id="CANARY" * 20,
        patient_birth_date="CANARY",
        patient_sex="canary",
    )
    request = builders.request_for(builders.chest_ct_study(2, patient=odd))
    report = all_documents(request, builders.assessed(request))[DocumentKind.SR]
    assert b"CANARY" * 20 in report.content
    assert not recwarn.list
    assert not caplog.records


def test_the_time_of_a_result_is_in_utc() -> None:
    for moment in (
        builders.MADE_AT.replace(tzinfo=None),
        datetime(2026, 3, 14, 8, tzinfo=timezone(timedelta(hours=1))),
    ):
        with pytest.raises(ValueError, match="UTC"):
            EncodingContext(made_at=moment, institution_name="", software_version="")


def _study_of_files(files: list[Path]) -> Study:
    """A study of real files, as the intake reads them."""
    instances = []
    for file in files:
        transfer_syntax_uid, data_set = split_part10(file.read_bytes())
        scan = scan_header(data_set, transfer_syntax_uid)
        location = Location("segment", 0, len(data_set))
        instances.append(instance_from_header(scan, sha256="00" * 32, location=location))
    first = instances[0]
    series = Series(first.series_instance_uid, first.modality, tuple(instances))
    return replace(
        builders.chest_ct_study(1),
        key=StudyKey(first.study_instance_uid, 1),
        patient=first.patient,
        accession_number=first.accession_number,
        issuer_of_accession_number=first.issuer_of_accession_number,
        series=(series,),
    )


@pytest.mark.peers
@pytest.mark.parametrize(
    "pattern",
    ["ct-head-ge-tilt/*.dcm", "ct-chest-one-slice-all-syntaxes/*JPEG2000Transfer*"],
)
def test_results_on_real_images_are_valid_and_exact(
    pattern: str, shared_data: Path, tmp_path: Path
) -> None:
    files = sorted((shared_data / "dicom").glob(pattern))
    request = builders.request_for(_study_of_files(files))
    result = builders.assessed(request)
    documents = all_documents(request, result)
    dicom = [d for d in documents.values() if d.media_type == "application/dicom"]
    assert {d.kind: validator_errors(d, tmp_path) for d in dicom} == {d.kind: [] for d in dicom}
    assert result.region is not None
    segmentation = highdicom.seg.segread(BytesIO(documents[DocumentKind.SEG].content))
    masks = segmentation.get_pixels_by_source_instance(
        list(result.region.sop_instance_uids), assert_missing_frames_are_empty=True
    )
    labels = np.frombuffer(result.region.labels, np.uint8).reshape(masks.shape[:3])
    assert np.array_equal(masks[..., 0], labels > 0)
    assert np.array_equal(masks[..., 1], labels == 2)
