"""The main job: studies arrive by C-STORE, findings stand in a real PACS and a real FHIR server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from hub.store.overview import StudyTimeline
from tests.acceptance.studies import PhantomFiles, StudyFiles, abdomen, phantom
from tests.peers import dcmtk, find_tool
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, PACS, launch_hub, transfer_syntax_of

pytestmark = pytest.mark.peers

Json = dict[str, Any]

SR, SEG, PDF = (
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.104.1",
)
RESULT_CLASSES = {SR, SEG, PDF}
ROUTES = [
    {
        "name": "ct-of-the-trunk",
        "when": '"CT" in study.modalities_in_study',
        "series": 'series.modality == "CT" && '
        'series.body_part_examined in ["CHEST", "PARTIALBODY"]',
        "model": "lung-density",
    }
]
MEASUREMENTS = {"118565006", "112181", "LAA950"}
SAME_IN_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@dataclass(frozen=True)
class Delivered:
    """Two studies that went the whole way, and where they arrived."""

    chest: PhantomFiles
    abdomen: StudyFiles
    timelines: dict[str, StudyTimeline]
    held: dict[str, list[Dataset]]
    """Study Instance UID -> what the PACS holds of it."""
    orthanc: Orthanc
    fhir_server: FhirServer

    def results(self, study: StudyFiles) -> dict[str, Dataset]:
        """SOP class -> the hub's own object in the PACS."""
        held = self.held[study.study_instance_uid]
        found = [ds for ds in held if ds.SOPClassUID in RESULT_CLASSES]
        assert len({ds.SOPClassUID for ds in found}) == len(found)
        return {str(ds.SOPClassUID): ds for ds in found}

    def report(self, study: StudyFiles) -> Json:
        """The one DiagnosticReport of a study."""
        imaging = [
            f"ImagingStudy/{one['id']}"
            for one in self.fhir_server.search("ImagingStudy")
            if f"urn:oid:{study.study_instance_uid}"
            in [identifier["value"] for identifier in one["identifier"]]
        ]
        assert len(imaging) == 1
        reports = [
            report
            for report in self.fhir_server.search("DiagnosticReport")
            if [study["reference"] for study in report["imagingStudy"]] == imaging
        ]
        assert len(reports) == 1
        return reports[0]

    def observations(self, study: StudyFiles) -> list[Json]:
        """The Observations that a study's report leads to, members included."""
        found, waiting = [], [one["reference"] for one in self.report(study)["result"]]
        while waiting:
            found.append(self.fhir_server.read(waiting.pop()))
            waiting += [one["reference"] for one in found[-1].get("hasMember", [])]
        return found


@pytest.fixture(scope="module")
def delivered(
    tmp_path_factory: pytest.TempPathFactory,
    shared_data: Path,
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
) -> Iterator[Delivered]:
    folder = tmp_path_factory.mktemp("path")
    studies = (phantom(folder / "chest"), abdomen(shared_data, folder / "abdomen"))
    hub = launch_hub(
        folder,
        orthanc=module_orthanc,
        fhir_server=module_fhir_server,
        sections={"routes": ROUTES, "models": [{"package": "builtin:lung-density"}]},
    )
    for study in studies:
        hub.send(study.files)
        options = ["-xv"] if transfer_syntax_of(study.files[0]).endswith(".4.90") else []
        dcmtk.storescu(study.files, module_orthanc.dicom_port, aec="ORTHANC", options=options)
    timelines = {
        study.study_instance_uid: hub.wait_for_study(study.study_instance_uid) for study in studies
    }
    held = {uid: _held(module_orthanc, uid) for uid in timelines}
    yield Delivered(*studies, timelines, held, module_orthanc, module_fhir_server)
    hub.close()


def _held(orthanc: Orthanc, study_instance_uid: str) -> list[Dataset]:
    found = orthanc.instances(study_instance_uid)
    return [pydicom.dcmread(BytesIO(orthanc.file(one))) for one in found]


def test_every_delivery_is_confirmed_by_its_destination(delivered: Delivered) -> None:
    for study, kinds in {
        delivered.chest: {"sr", "seg", "encapsulated_pdf"},
        delivered.abdomen: {"sr", "encapsulated_pdf"},
    }.items():
        timeline = delivered.timelines[study.study_instance_uid]
        assert {delivery.state for delivery in timeline.deliveries} == {"delivered"}
        assert {d.kind for d in timeline.deliveries if d.destination == PACS} == kinds
        assert {d.kind for d in timeline.deliveries if d.destination == EHR} == {"fhir"}


def test_the_pacs_holds_the_results_in_the_same_study_as_the_images(delivered: Delivered) -> None:
    assert delivered.orthanc.count("studies") == 2
    assert delivered.orthanc.count("patients") == 2
    assert set(delivered.results(delivered.chest)) == {SR, SEG, PDF}
    assert set(delivered.results(delivered.abdomen)) == {SR, PDF}
    for study in (delivered.chest, delivered.abdomen):
        results = delivered.results(study)
        held = delivered.held[study.study_instance_uid]
        assert len(held) == len(study.files) + len(results)


def test_results_have_the_patient_and_study_of_their_images(delivered: Delivered) -> None:
    for study in (delivered.chest, delivered.abdomen):
        image = study.headers[0]
        for result in delivered.results(study).values():
            for keyword in SAME_IN_STUDY:
                assert (result.get(keyword) or None) == (image.get(keyword) or None), keyword


def test_an_independent_validator_finds_no_error_in_the_objects_that_the_pacs_holds(
    delivered: Delivered, tmp_path: Path
) -> None:
    checked = 0
    for study in (delivered.chest, delivered.abdomen):
        for uid, result in delivered.results(study).items():
            file = tmp_path / f"{checked}-{uid}.dcm"
            result.save_as(file)
            assert dcmtk.dciodvfy(file) == []
            checked += 1
    assert checked == 5


def test_structured_reports_are_readable_by_others_and_refer_to_images_of_the_study(
    delivered: Delivered, tmp_path: Path
) -> None:
    for study in (delivered.chest, delivered.abdomen):
        report = delivered.results(study)[SR]
        file = tmp_path / f"{study.study_instance_uid}.dcm"
        report.save_as(file)
        assert "AI result" in dcmtk.dsrdump(file)
        images = {str(header.SOPInstanceUID) for header in study.headers}
        evidence = report.CurrentRequestedProcedureEvidenceSequence
        referenced = {
            str(item.ReferencedSOPInstanceUID)
            for of_study in evidence
            for series in of_study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        }
        held = {str(ds.SOPInstanceUID) for ds in delivered.held[study.study_instance_uid]}
        assert images <= referenced <= held
        assert {one.StudyInstanceUID for one in evidence} == {study.study_instance_uid}


def test_the_segmentation_lies_in_the_frame_of_reference_of_its_images(
    delivered: Delivered,
) -> None:
    segmentation = delivered.results(delivered.chest)[SEG]
    image = delivered.chest.headers[0]
    assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
    lungs = segmentation.SegmentSequence[0]
    assert lungs.SegmentAlgorithmType == "AUTOMATIC"
    assert segmentation.pixel_array.any()


def test_the_numbers_are_those_of_the_phantom(delivered: Delivered) -> None:
    truth = delivered.chest.truth
    measured = {
        one["code"]["coding"][0]["code"]: one["valueQuantity"]["value"]
        for one in delivered.observations(delivered.chest)
        if "valueQuantity" in one
    }
    assert measured == {
        "118565006": pytest.approx(truth.lung_volume_ml, rel=0.001),
        "112181": pytest.approx(truth.mean_lung_density_hu, abs=0.1),
        "LAA950": pytest.approx(truth.laa_950_percent, abs=0.01),
    }
    text = str(delivered.results(delivered.chest)[SR])
    for value in measured.values():
        assert f"{value:g}" in text


def test_the_fhir_server_holds_linked_resources(delivered: Delivered) -> None:
    server = delivered.fhir_server
    assert server.counts("DiagnosticReport", "ImagingStudy", "Provenance", "Device") == {
        "DiagnosticReport": 2,
        "ImagingStudy": 2,
        "Provenance": 2,
        "Device": 1,
    }
    device = f"Device/{server.search('Device')[0]['id']}"
    provenances = server.search("Provenance")
    for study in (delivered.chest, delivered.abdomen):
        report = delivered.report(study)
        observations = delivered.observations(study)
        assert observations
        assert {one["device"]["reference"] for one in observations} == {device}
        assert report["presentedForm"][0]["contentType"] == "application/pdf"
        targets = [[t.get("reference") for t in one["target"]] for one in provenances]
        mine = [one for one in targets if f"DiagnosticReport/{report['id']}" in one]
        assert len(mine) == 1
        assert {f"Observation/{one['id']}" for one in observations} <= set(mine[0])
        identifier = study.headers[0].PatientID
        for one in (report, *observations):
            assert one["subject"]["identifier"]["value"] == identifier


def test_two_independent_validators_accept_what_the_fhir_server_holds(
    delivered: Delivered, fhir_validators: FhirValidators
) -> None:
    kinds = ("Device", "ImagingStudy", "Observation", "DiagnosticReport", "Provenance")
    held = [one for kind in kinds for one in delivered.fhir_server.search(kind)]
    assert len(held) > 9
    assert [fhir_validators.objections(one) for one in held] == [[] for _ in held]


# --- not assessable ---------------------------------------------------------------------------


def test_an_abdomen_is_recorded_as_not_assessable(delivered: Delivered) -> None:
    timeline = delivered.timelines[delivered.abdomen.study_instance_uid]
    (result,) = timeline.results
    assert result.outcome == "not-assessable"
    assert result.reasons == ["no image shows 50 cm2 of aerated lung"]
    assert result.findings == [] or all(f["value"] is None for f in result.findings)
    assert any("not-assessable" in line for line in timeline.explanation)


def test_an_abdomen_gets_no_number_in_fhir(delivered: Delivered) -> None:
    observations = delivered.observations(delivered.abdomen)
    assert all("valueQuantity" not in one and "component" not in one for one in observations)
    assert all("dataAbsentReason" in one for one in observations if "hasMember" not in one)
    assert "NOT ASSESSABLE" in delivered.report(delivered.abdomen)["conclusion"]


def test_an_abdomen_gets_no_number_in_the_structured_report(
    delivered: Delivered, tmp_path: Path
) -> None:
    report = delivered.results(delivered.abdomen)[SR]
    assert _measurements(report) == set()
    assert _measurements(delivered.results(delivered.chest)[SR]) == MEASUREMENTS
    file = tmp_path / "sr.dcm"
    report.save_as(file)
    assert "not assess" in dcmtk.dsrdump(file).lower()


def test_an_abdomen_is_not_assessable_in_the_report_for_people(delivered: Delivered) -> None:
    page = _text_of_pdf(delivered.results(delivered.abdomen)[PDF])
    assert "NOT ASSESSABLE" in page
    for sentence in ("of the lung in view", "lung in view,"):
        assert sentence not in page
    page = _text_of_pdf(delivered.results(delivered.chest)[PDF])
    assert "NOT ASSESSABLE" not in page
    for sentence in ("of the lung in view", "lung in view,"):
        assert sentence in page


def _measurements(item: Dataset) -> set[str]:
    """Which of the model's measurements stand in a report, at any depth."""
    code = (
        str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""
    )
    own = {code} & MEASUREMENTS if item.ValueType == "NUM" else set()
    return own.union(*(_measurements(child) for child in item.get("ContentSequence", [])))


def _text_of_pdf(data_set: Dataset) -> str:
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [find_tool("pdftotext", "poppler-utils"), "-layout", "-", "-"],
        input=data_set.EncapsulatedDocument,
        check=True,
        capture_output=True,
    )
    return done.stdout.decode()
