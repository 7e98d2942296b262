"""Reports that change after they were sent, followed through a real PACS, a real FHIR server and
an HL7 listener: late images, a rejection, an acceptance, a withdrawal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from hub.domain.access import Scope
from hub.domain.report import ReportCause
from hub.store.overview import StudyTimeline
from tests.acceptance.arrivals import MAIN, SECTIONS, images, send, study_uid
from tests.peers.fhir_server import FhirServer
from tests.peers.hl7_listener import Hl7Listener, field_of, listening
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, PACS, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

Json = dict[str, Any]

SR = "1.2.840.10008.5.1.4.1.1.88.34"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
RIS = "ris"
ANNA = ("--by", "Weiß^Änne", "--identifier", "urn:oid:1.2.276.0.76.4.16|12345")


@dataclass(frozen=True)
class Hospital:
    """A hub and those who get its reports."""

    hub: RunningHub
    orthanc: Orthanc
    fhir_server: FhirServer
    ris: Hl7Listener

    def objects(self, name: str, sop_class_uid: str) -> list[Dataset]:
        """The hub's objects of a study in the PACS, the first one that it took first."""
        held = self.orthanc.instances(study_uid(name))
        read = [pydicom.dcmread(BytesIO(self.orthanc.file(one))) for one in held]
        found = [data_set for data_set in read if data_set.SOPClassUID == sop_class_uid]
        order = [row["document_id"] for row in self.delivered(name, PACS)]
        return sorted(found, key=lambda data_set: order.index(data_set.SOPInstanceUID))

    def delivered(self, name: str, destination: str) -> list[Json]:
        return self.hub.rows(
            "SELECT document_id, kind, state FROM deliveries WHERE study_instance_uid = :uid"
            " AND destination = :destination AND state = 'delivered'"
            " ORDER BY created_at, position",
            uid=study_uid(name),
            destination=destination,
        )

    def report(self, name: str) -> Json:
        """The one FHIR report about a study."""
        (found,) = [
            one
            for one in self.fhir_server.search("DiagnosticReport", _count="100")
            if study_uid(name) in json.dumps(self._with_study(one))
        ]
        return found

    def _with_study(self, report: Json) -> Json:
        key = "imagingStudy" if "imagingStudy" in report else "study"
        references = [self.fhir_server.read(one["reference"]) for one in report.get(key, ())]
        return {**report, "studies": references}

    def observations(self, report: Json) -> list[Json]:
        return [self.fhir_server.read(one["reference"]) for one in report.get("result", ())]

    def messages(self, name: str) -> list[Any]:
        return [one for one in self.ris.messages if study_uid(name) in str(one)]

    def _told(self) -> str:
        alerts = self.hub.rows("SELECT kind, message FROM alerts")
        return f"{alerts}\n{self.hub.log_text()}"

    def wait_for_version(self, request_id: str, version: int) -> StudyTimeline:
        """A version is made, and everything about its study has arrived."""

        def made() -> bool:
            rows = self.hub.rows(
                "SELECT state FROM report_versions WHERE request_id = :id AND version = :number",
                id=request_id,
                number=version,
            )
            return [row["state"] for row in rows] == ["made"]

        wait_for(made, f"version {version}", 60.0, self._told)
        (row,) = self.hub.rows(
            "SELECT study_instance_uid FROM requests WHERE request_id = :id", id=request_id
        )
        return self.hub.wait_for_study(row["study_instance_uid"])


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory,
    module_orthanc: Orthanc,
    module_fhir_server: FhirServer,
) -> Iterator[Hospital]:
    with listening() as ris:
        archive = {
            "name": PACS,
            "kind": "dicom",
            "host": "127.0.0.1",
            "port": module_orthanc.dicom_port,
            "ae_title": module_orthanc.ae_title,
            "documents": ["sr", "seg", "encapsulated_pdf", "rejection_note"],
        }
        destinations = [
            archive,
            {"name": EHR, "kind": "fhir", "url": module_fhir_server.base_url},
            {"name": RIS, "kind": "hl7v2", "host": "127.0.0.1", "port": ris.port},
        ]
        hub = launch_hub(
            tmp_path_factory.mktemp("corrections"),
            sections={
                **SECTIONS,
                "destinations": destinations,
            },
        )
        yield Hospital(hub, module_orthanc, module_fhir_server, ris)
        hub.close()


def reported(hospital: Hospital, name: str) -> str:
    """A study whose report has arrived everywhere; the identifier of its request."""
    send(hospital.hub, images(name, MAIN))
    timeline = hospital.hub.wait_for_study(study_uid(name))
    assert {row.state for row in timeline.deliveries} == {"delivered"}, timeline.alerts
    (request,) = timeline.requests
    return request.request_id


def predecessors(report: Dataset) -> list[str]:
    """SOP Instance UIDs in the Predecessor Documents Sequence (PS3.3 C.17.2)."""
    return [
        item.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def rejected(note: Dataset) -> set[str]:
    """What a rejection note names in its content (TID 2010)."""
    return {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in note.ContentSequence
        if "ReferencedSOPSequence" in item
    }


def result_statuses(message: Any) -> set[str]:
    """OBR-25 and every OBX-11."""
    found = {str(obx[11]) for obx in message.segments("OBX")}
    return found | {field_of(message, "OBR", 25)}


def test_late_images_amend_the_report_everywhere(hospital: Hospital) -> None:
    every = images("late", MAIN)
    send(hospital.hub, every[:6])
    hospital.hub.wait_for_study(study_uid("late"))
    before = hospital.report("late")
    send(hospital.hub, every[6:])
    timeline = hospital.hub.wait_for_study(study_uid("late"), revision=2)
    assert [(row.version, row.status) for row in timeline.reports] == [
        (1, "preliminary"),
        (1, "amended"),
    ]
    first, second = hospital.objects("late", SR)
    assert first.SOPInstanceUID in predecessors(second)
    assert not predecessors(first)
    after = hospital.report("late")
    assert after["id"] == before["id"]
    assert (before["status"], after["status"]) == ("preliminary", "amended")
    one, two = hospital.messages("late")
    assert field_of(one, "OBR", 3) == field_of(two, "OBR", 3)
    assert result_statuses(one) != result_statuses(two)


def test_a_report_that_a_person_accepts_is_final_and_names_the_person(
    hospital: Hospital,
) -> None:
    request_id = reported(hospital, "accepted")
    before = hospital.report("accepted")
    done = hospital.hub.caidx("result", "assess", request_id, "--accept", *ANNA)
    assert "version 2" in done.stdout
    hospital.wait_for_version(request_id, 2)
    after = hospital.report("accepted")
    assert (after["id"], after["status"]) == (before["id"], "final")
    assert {one["status"] for one in hospital.observations(after)} == {"final"}
    first, second = hospital.objects("accepted", SR)
    assert (first.VerificationFlag, second.VerificationFlag) == ("UNVERIFIED", "VERIFIED")
    assert second.VerifyingObserverSequence[0].VerifyingObserverName == "Weiß^Änne"
    assert len(hospital.objects("accepted", SEG)) == 1
    assert field_of(hospital.messages("accepted")[-1], "OBR", 25) == "F"
    again = hospital.hub.caidx("result", "assess", request_id, "--accept", *ANNA)
    assert "already final" in again.stdout
    assert len(hospital.messages("accepted")) == 2


@pytest.mark.parametrize("cause", [ReportCause.REJECTED, ReportCause.RETRACTED])
def test_what_is_withdrawn_is_withdrawn_everywhere(hospital: Hospital, cause: ReportCause) -> None:
    name = cause.value
    request_id = reported(hospital, name)
    before = hospital.report(name)
    if cause is ReportCause.REJECTED:
        answer = httpx.post(
            f"{hospital.hub.http_url}/api/v1/results/{request_id}/assessments",
            json={
                "assessment": "reject",
                "reason": "not a lung",
                "person": {"name": "Weiß^Änne"},
            },
            headers=hospital.hub.headers(Scope.OPERATOR),
            timeout=60,
        )
        assert answer.status_code == 201, answer.text
    else:
        hospital.hub.caidx("result", "retract", request_id, "--reason", "not a lung", *ANNA)
    hospital.wait_for_version(request_id, 2)

    after = hospital.report(name)
    assert (after["id"], after["status"]) == (before["id"], "entered-in-error")
    statuses = {one["status"] for one in hospital.observations(before)}
    assert statuses == {"entered-in-error"}

    first, second = hospital.objects(name, SR)
    assert first.SOPInstanceUID in predecessors(second)
    (segmentation,) = hospital.objects(name, SEG)
    (note,) = hospital.objects(name, KEY_OBJECTS)
    assert {first.SOPInstanceUID, segmentation.SOPInstanceUID} <= rejected(note)
    assert second.SOPInstanceUID not in rejected(note)
    assert "not a lung" in str(second)

    one, two = hospital.messages(name)
    assert field_of(one, "OBR", 3) == field_of(two, "OBR", 3)
    assert "P" in result_statuses(one)
    assert "W" in result_statuses(two)  # table 0085: post original as wrong
    assert "P" not in result_statuses(two)
    shown = hospital.hub.caidx("result", "show", request_id).stdout
    assert "entered-in-error" in shown


def test_names_of_patients_stand_in_no_answer_of_the_command_line(hospital: Hospital) -> None:
    (row, *_) = hospital.hub.rows("SELECT patient_id FROM studies")
    said = hospital.hub.caidx("result", "list", "--json").stdout
    assert row["patient_id"] not in said
    assert json.loads(said)["results"]["total"] >= 4
    assert "Weiß" not in hospital.hub.log_text()
