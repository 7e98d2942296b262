"""HL7 v2 both ways through the whole hub: an ADT feed tells of patients whose reports are on their
way, and a RIS that takes results late, badly or never."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import hl7
import numpy as np
import pydicom
import pytest
from hl7.client import MLLPClient
from pydicom.dataset import Dataset

from hub.domain.identity import PatientIdentity
from hub.store.overview import DeliveryRow
from tests.acceptance.studies import StudyFiles, changed, phantom
from tests.peers import free_port
from tests.peers.faults import FaultProxy, Refuse
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import Hl7Listener, field_of, listening, problems_of
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, PACS, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

Json = dict[str, Any]

RIS = "ris"
ISSUER = "KH"
HEADER = "MSH|^~\\&|HIS|KH|CAIDX|KH|20260314||{kind}|{control_id}|P|2.5.1||||||UNICODE UTF-8\r"
MERGE = HEADER + "EVN||20260314\rPID|1||{new}^^^KH^MR||{name}\rMRG|{old}^^^KH^MR\r"
UPDATE = HEADER + "EVN||20260314\rPID|1||{new}^^^KH^MR||{name}||19601231|F\r"


def _blank(data_set: Dataset) -> None:
    data_set.PixelData = np.full_like(data_set.pixel_array, 1000).tobytes()


@dataclass
class Hospital:
    hub: RunningHub
    folder: Path
    adt_port: int
    orthanc: Orthanc
    fhir_server: FhirServer
    ris: Hl7Listener
    ways: dict[str, FaultProxy]
    """Destination -> what stands in front of it."""
    seed: int = 0

    def send(self, patient_id: str, *, is_blank: bool = False) -> StudyFiles:
        """A study of that patient; one without lungs cannot be assessed."""
        self.seed += 1
        patient = PatientIdentity(patient_id, ISSUER, f"Alt^{patient_id}", "19600101", "F")
        study = phantom(
            self.folder / f"study-{self.seed}",
            seed=self.seed,
            slices=4,
            patient=patient,
            accession_number=f"A-{self.seed}",
        )
        files = study.files
        if is_blank:
            files = changed(study, self.folder / f"blank-{self.seed}", _blank)
        self.hub.send(files)
        return StudyFiles(study.study_instance_uid, files)

    def hold(self) -> None:
        """Nobody can be reached."""
        for way in self.ways.values():
            way.fault = Refuse()

    def let_go(self) -> None:
        for way in self.ways.values():
            way.fault = None

    def is_stuck(self, study: StudyFiles) -> bool:
        """The report is made, and every destination was tried in vain."""
        rows = self.deliveries(study)
        tried = {row.destination for row in rows if row.attempts}
        return tried == set(self.ways) and all(row.state != "delivered" for row in rows)

    def deliveries(self, study: StudyFiles) -> tuple[DeliveryRow, ...]:
        timeline = self.hub.timeline(study.study_instance_uid)
        return () if timeline is None else timeline.deliveries

    def to_ris(self, study: StudyFiles) -> DeliveryRow:
        """The last document to the RIS."""
        return [row for row in self.deliveries(study) if row.destination == RIS][-1]

    def tell(self, message: str) -> str:
        """The acknowledgement code to a message of the HIS."""
        with MLLPClient("127.0.0.1", self.adt_port) as client:
            answer = client.send_message(message.encode()).strip(b"\x0b\x1c\r")
        return str(hl7.parse(answer, "utf-8").extract_field("MSA", 1, 1))

    def objects(self, study: StudyFiles) -> list[Dataset]:
        held = self.orthanc.instances(study.study_instance_uid)
        return [pydicom.dcmread(BytesIO(self.orthanc.file(one))) for one in held]

    def messages(self, study: StudyFiles) -> list[Any]:
        return [one for one in self.ris.messages if study.study_instance_uid in str(one)]

    def resources(self, study: StudyFiles) -> list[Json]:
        """Everything on the FHIR server that belongs to the study's report."""
        (images,) = (
            one
            for one in self.fhir_server.search("ImagingStudy", _count="100")
            if study.study_instance_uid in json.dumps(one)
        )
        (report,) = (
            one
            for one in self.fhir_server.search("DiagnosticReport", _count="100")
            if f"ImagingStudy/{images['id']}" in json.dumps(one)
        )
        results = [self.fhir_server.read(one["reference"]) for one in report.get("result", ())]
        return [images, report, *results]


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory,
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
) -> Iterator[Hospital]:
    folder, adt_port = tmp_path_factory.mktemp("hl7"), free_port()
    ehr_port = int(module_fhir_server.base_url.partition("127.0.0.1:")[2].partition("/")[0])
    with (
        listening() as ris,
        FaultProxy(module_orthanc.dicom_port) as to_pacs,
        FaultProxy(ehr_port) as to_ehr,
        FaultProxy(ris.port) as to_ris,
    ):
        ways = {PACS: to_pacs, EHR: to_ehr, RIS: to_ris}
        hub = launch_hub(
            folder,
            sections=_sections(ways, module_orthanc),
            further_sources=[{"name": "his", "kind": "hl7v2", "port": adt_port}],
        )
        yield Hospital(hub, folder, adt_port, module_orthanc, module_fhir_server, ris, ways)
        hub.close()


def _sections(ways: dict[str, FaultProxy], orthanc: Orthanc) -> Json:
    def at(name: str) -> Json:
        return {"name": name, "host": "127.0.0.1", "port": ways[name].port}

    return {
        "site": {"identifier_systems": {ISSUER: "urn:oid:1.2.276.0.76.4.1"}},
        "routes": [{"name": "all", "when": "true", "model": "lung-density"}],
        "destinations": [
            {**at(PACS), "kind": "dicom", "ae_title": orthanc.ae_title},
            {"name": EHR, "kind": "fhir", "url": f"http://127.0.0.1:{ways[EHR].port}/fhir"},
            {**at(RIS), "kind": "hl7v2", "response_timeout": 2},
        ],
        "delivery": {"first_delay": 0.5, "max_delay": 0.5, "attempts": 1000},
    }


# --- patients who change while their report is on its way ----------------------------------------


@dataclass(frozen=True)
class Followed:
    """A report that was held back while its patient changed, and then delivered."""

    hospital: Hospital
    study: StudyFiles
    old: str
    now: PatientIdentity


@pytest.fixture(scope="module")
def followed(hospital: Hospital) -> dict[str, Followed]:
    """A merge (A40), another ID (A47) and another name (A08), all between report and delivery."""
    old = {"ADT^A40": "MERGED-1", "ADT^A47": "RENUMBERED-1", "ADT^A08": "RENAMED-1"}
    new = {**old, "ADT^A40": "MERGED-2", "ADT^A47": "RENUMBERED-2"}
    hospital.hold()
    studies = {kind: hospital.send(patient_id) for kind, patient_id in old.items()}
    for study in studies.values():
        wait_for(lambda s=study: hospital.is_stuck(s), "deliveries in vain", 120)  # type: ignore[misc]
    for number, kind in enumerate(old):
        names = {"old": old[kind], "new": new[kind], "name": f"Neu^{number}"}
        form = UPDATE if kind == "ADT^A08" else MERGE
        assert hospital.tell(form.format(kind=kind, control_id=f"adt-{number}", **names)) == "AA"
    hospital.let_go()
    for study in studies.values():
        wait_for(lambda s=study: _is_followed(hospital, s), "the report as it is now", 60)  # type: ignore[misc]
    return {
        kind: Followed(
            hospital, study, old[kind], PatientIdentity(new[kind], ISSUER, f"Neu^{number}")
        )
        for number, (kind, study) in enumerate(studies.items())
    }


def _is_followed(hospital: Hospital, study: StudyFiles) -> bool:
    timeline = hospital.hub.wait_for_study(study.study_instance_uid, timeout=60)
    return [(row.cause, row.state) for row in timeline.reports[1:]] == [("patient-changed", "made")]


KINDS = ("ADT^A40", "ADT^A47", "ADT^A08")


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_in_the_archive_is_of_the_patient_as_he_is_now(
    followed: dict[str, Followed], kind: str
) -> None:
    case = followed[kind]
    objects = case.hospital.objects(case.study)
    assert {one.Modality for one in objects} >= {"SR", "DOC"}
    for one in objects:
        found = (one.PatientID, one.IssuerOfPatientID, one.PatientName)
        assert found == (case.now.patient_id, ISSUER, case.now.patient_name)
        if case.old != case.now.patient_id:
            assert case.old not in str(one)
        assert f"Alt^{case.old}" not in str(one)


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_names_the_patient_as_he_is_now(
    followed: dict[str, Followed], kind: str
) -> None:
    case = followed[kind]
    images, report, *results = case.hospital.resources(case.study)
    assert results
    for one in (images, report, *results):
        assert one["subject"]["identifier"]["value"] == case.now.patient_id
        assert f"Alt^{case.old}" not in json.dumps(one)
        if case.old != case.now.patient_id:
            assert case.old not in json.dumps(one)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ris_gets_the_patient_as_he_is_now(
    followed: dict[str, Followed], kind: str, tmp_path: Path
) -> None:
    case = followed[kind]
    messages = case.hospital.messages(case.study)
    assert messages
    for message in messages:
        assert problems_of(str(message), tmp_path / "report") == []
        assert field_of(message, "PID", 3) == case.now.patient_id
        assert field_of(message, "PID", 3, 4) == ISSUER
        family, _, given = case.now.patient_name.partition("^")
        assert (field_of(message, "PID", 5), field_of(message, "PID", 5, 2)) == (family, given)


def test_who_was_followed_is_on_record_without_a_name(followed: dict[str, Followed]) -> None:
    hub = next(iter(followed.values())).hospital.hub
    audit = json.dumps(hub.rows("SELECT action, detail FROM audit_log"))
    assert "patient-changed" in audit
    for text in (audit, hub.log_text()):
        assert "MERGED-" not in text
        assert "Alt^" not in text
        assert "Neu^" not in text


def test_a_message_about_somebody_else_changes_nothing(hospital: Hospital) -> None:
    names = {"old": "SOMEBODY", "new": "ANYBODY", "name": "Wer^Anders"}
    assert hospital.tell(MERGE.format(kind="ADT^A40", control_id="other", **names)) == "AA"
    study = hospital.send("STAYS-1")
    timeline = hospital.hub.wait_for_study(study.study_instance_uid)
    assert [row.cause for row in timeline.reports] == ["model"]
    assert {one.PatientID for one in hospital.objects(study)} == {"STAYS-1"}


def test_what_is_no_admission_message_is_refused(hospital: Hospital) -> None:
    message = HEADER.format(kind="ORM^O01", control_id="order") + "PID|1||P^^^KH^MR\r"
    assert hospital.tell(message) == "AR"


# --- what the RIS gets, and what it answers ------------------------------------------------------


@pytest.mark.parametrize("outcome", ["assessed", "not-assessable"])
def test_assessed_or_not_the_message_is_valid_and_says_which(
    hospital: Hospital, tmp_path: Path, outcome: str
) -> None:
    is_assessed = outcome == "assessed"
    study = hospital.send(f"OUTCOME-{outcome}", is_blank=not is_assessed)
    (request,) = hospital.hub.wait_for_study(study.study_instance_uid).requests
    assert request.outcome == outcome
    (message,) = hospital.messages(study)
    assert problems_of(str(message), tmp_path / "report") == []
    numbers = [obx for obx in message.segments("OBX") if str(obx[2]) == "NM"]
    assert bool(numbers) is is_assessed
    assert {str(obx[11]) for obx in numbers} == ({"P"} if is_assessed else set())
    notes = " ".join(str(one) for one in message.segments("NTE")).lower()
    assert ("not assess" in notes) is not is_assessed


@pytest.mark.parametrize("answer", ["AE", "AE/207", "AR/206", "nothing", "garbage", "other"])
def test_what_may_succeed_later_is_tried_again(hospital: Hospital, answer: str) -> None:
    hospital.ris.answers[:] = [answer]
    study = hospital.send(f"LATER-{answer.replace('/', '-')}")
    hospital.hub.wait_for_study(study.study_instance_uid)
    row = hospital.to_ris(study)
    assert (row.state, row.attempts) == ("delivered", 2)
    first, second = hospital.messages(study)
    assert str(first) == str(second), "a receiver can tell that it gets it again"


@pytest.mark.parametrize("answer", ["AR", "AE/204", "AR/101"])
def test_what_is_refused_is_a_dead_letter_that_can_be_sent_again(
    hospital: Hospital, answer: str
) -> None:
    hospital.ris.answers[:] = [answer]
    study = hospital.send(f"DEAD-{answer.replace('/', '-')}")
    hospital.hub.wait_for_study(study.study_instance_uid)
    row = hospital.to_ris(study)
    code, _, error = answer.partition("/")
    assert (row.state, row.attempts) == ("dead", 1)
    assert f"HL7 {code}" in row.detail
    assert error in row.detail
    assert "CANARY" not in row.detail
    others = {r.state for r in hospital.deliveries(study) if r.destination != RIS}
    assert others == {"delivered"}
    hospital.hub.caidx("delivery", "retry", row.delivery_id)
    wait_for(lambda: hospital.to_ris(study).state == "delivered", "the dead letter", 30)
    assert len(hospital.messages(study)) == 2
