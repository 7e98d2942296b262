"""The whole hub and orders: on a study that it has, that it fetches, that is still to come; of
another patient; across a kill; and on laboratory values that an EHR's FHIR server keeps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest

from hub.domain.access import Scope
from hub.formats.images.ct_phantom import PHANTOM_PATIENT
from tests.acceptance.models import densities
from tests.acceptance.test_archives import CURRENT, fill, study
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc
from tests.running_hub import RunningHub, StartHub, start_hub, wait_for

__all__ = ["start_hub"]

PATIENTS = "urn:oid:1.2.276.0.76.3.1"
SYNTHEA = "https://github.com/synthetichealth/synthea"
FHIR_JSON = {"Content-Type": "application/fhir+json"}
FHIR = {"name": "ris", "kind": "fhir"}
Json = dict[str, Any]


def sections(package: Path, **more: Any) -> Json:
    """A hub that takes orders, with one model that only orders ask."""
    route = {
        "name": "ct",
        "when": '"CT" in study.modalities_in_study',
        "model": "densities",
        "trigger": "order",
    }
    return {
        "site": {"patient_identifier_system": PATIENTS},
        "models": [{"package": str(package)}],
        "routes": [route],
        **more,
    }


def task(
    number: str, uid: str, patient_id: str = PHANTOM_PATIENT.patient_id, **study_fields: Any
) -> Json:
    """A Task that asks for AI on a study; the ImagingStudy is contained."""
    study = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "status": "available",
        "subject": {"identifier": {"system": PATIENTS, "value": patient_id}},
    }
    contained = [study | study_fields.pop("study", {}), *study_fields.pop("also", [])]
    return {
        "resourceType": "Task",
        "contained": contained,
        "identifier": [{"system": "urn:ris:tasks", "value": number}],
        "status": "requested",
        "intent": "order",
        "for": {"identifier": {"system": PATIENTS, "value": patient_id}},
        "focus": {"reference": "#study"},
        **study_fields,
    }


def inside(url: str) -> Json:
    """An Endpoint that a Task contains."""
    return {
        "resourceType": "Endpoint",
        "id": "pacs",
        "status": "active",
        "connectionType": {"code": "dicom-wado-rs"},
        "payloadType": [{"text": "DICOM"}],
        "address": url,
    }


def place(hub: RunningHub, resource: Json) -> str:
    """Send a Task; the id of the hub's own."""
    headers = {**FHIR_JSON, **hub.headers(Scope.SYSTEM)}
    answer = httpx.post(f"{hub.http_url}/fhir/Task", json=resource, headers=headers, timeout=60)
    assert answer.status_code in (200, 201), answer.text
    return answer.headers["Location"].partition("/Task/")[2].partition("/")[0]


def status(hub: RunningHub, task_id: str) -> Json:
    return dict(hub.get(f"/fhir/Task/{task_id}", Scope.SYSTEM).raise_for_status().json())


def over(hub: RunningHub, task_id: str, expected: str) -> Json:
    """Wait until the Task has this status; the Task."""
    wait_for(lambda: status(hub, task_id)["status"] in (expected, "failed", "rejected"), task_id)
    found = status(hub, task_id)
    assert found["status"] == expected, found.get("statusReason")
    return found


def reports_of(hub: RunningHub, found: Json) -> list[Json]:
    """What the outputs of a Task lead to."""
    references = [one["valueReference"]["reference"] for one in found.get("output", [])]
    wanted = [one for one in references if one.startswith("DiagnosticReport/")]
    return [hub.get(f"/fhir/{one}", Scope.SYSTEM).raise_for_status().json() for one in wanted]


def test_an_order_on_a_study_that_the_hub_has_and_one_of_another_patient(
    start_hub: StartHub, tmp_path: Path
) -> None:
    package = densities(tmp_path / "model")
    hub = start_hub(sections=sections(package), further_sources=[FHIR])
    hub.send(study(tmp_path / "files", CURRENT, "20260101"))
    timeline = hub.wait_for_study(CURRENT)
    assert [d.reasons for d in timeline.decisions] == [["it is applied where an order asks for it"]]

    stranger = place(hub, task("T-1", CURRENT, "SOMEBODY-ELSE"))
    refused = over(hub, stranger, "rejected")
    assert "PatientID" in json.dumps(refused["statusReason"])
    assert hub.rows("SELECT request_id FROM requests") == []
    assert "order.mismatched" in hub.caidx("alert", "list").stdout

    asked = task("T-2", CURRENT, priority="stat")
    task_id = place(hub, asked)
    assert place(hub, asked) == task_id, "the same Task again is the same order"
    (report,) = reports_of(hub, over(hub, task_id, "completed"))
    assert report["status"] in ("preliminary", "registered", "partial")
    (request,) = hub.rows("SELECT order_id, priority, state FROM requests")
    assert request == {"order_id": task_id, "priority": 1, "state": "done"}

    endpoint = inside("http://localhost:1/dicom-web")  # a name: looked at when it is connected to
    hostile = task(
        "T-3", f"{CURRENT}.9", study={"endpoint": [{"reference": "#pacs"}]}, also=[endpoint]
    )
    unsafe = over(hub, place(hub, hostile), "failed")
    assert "not public" in json.dumps(unsafe["statusReason"])

    shown = hub.caidx("order", "show", task_id).stdout
    assert ("completed" in shown, "densities" in shown) == (True, True)
    listed = json.loads(hub.caidx("order", "list", "--json").stdout)
    assert {one["order_id"]: one["state"] for one in listed} == {
        task_id: "completed",
        stranger: "rejected",
        unsafe["id"]: "failed",
    }
    late = hub.caidx("order", "cancel", task_id, "--reason", "x", check=False)
    assert (late.returncode, "is over" in late.stderr) == (1, True)
    for private in (PHANTOM_PATIENT.patient_id, "SOMEBODY"):
        assert private not in hub.log_text()
        assert private not in hub.caidx("audit", "list").stdout


@pytest.mark.peers
@pytest.mark.parametrize("way", ["archive", "endpoint"])
def test_an_order_has_its_study_fetched(
    orthanc: Orthanc, start_hub: StartHub, tmp_path: Path, way: str
) -> None:
    more: Json = {"outbound": {"private_networks": ["127.0.0.1/32"]}}
    named: Json = {"endpoint": [{"reference": "#pacs"}], "numberOfInstances": 4}
    also = [inside(orthanc.dicomweb_url)]
    if way == "archive":
        archive = {"name": "archive", "kind": "dicomweb", "url": orthanc.dicomweb_url}
        more, named, also = {"archives": [archive]}, {}, []
    package = densities(tmp_path / "model")
    hub = start_hub(sections=sections(package, **more), further_sources=[FHIR])
    fill(orthanc, None, study(tmp_path / "files", CURRENT, "20260101"))
    asked = task("T-1", CURRENT, study=named, also=also)
    task_id = place(hub, asked)
    assert len(reports_of(hub, over(hub, task_id, "completed"))) == 1
    timeline = hub.timeline(CURRENT)
    assert timeline is not None
    actions = [event.action for event in timeline.events]
    assert actions.index("order.placed") < actions.index("fetch.started")
    assert actions.index("fetch.started") < actions.index("study.routed")
    assert actions.count("inference.finished") == 1
    if way == "endpoint":
        assert timeline.revisions[0].evidence == "expected-count"


def test_an_order_before_the_images_survives_a_kill_and_is_answered_once(
    start_hub: StartHub, tmp_path: Path
) -> None:
    package = densities(tmp_path / "model")
    hub = start_hub(sections=sections(package), further_sources=[FHIR], supervised=False)
    task_id = place(hub, task("T-1", CURRENT, study={"numberOfInstances": 4}))
    wait_for(lambda: "waits until" in json.dumps(status(hub, task_id)), task_id)
    hub.kill("worker-1")
    second = place(hub, task("T-2", CURRENT))  # nobody is there to look at it
    hub.send(study(tmp_path / "files", CURRENT, "20260101"))
    hub.restart("worker-1")
    reports = [reports_of(hub, over(hub, one, "completed")) for one in (task_id, second)]
    assert reports[0] == reports[1]
    assert len(hub.rows("SELECT request_id FROM requests")) == 1
    timeline = hub.timeline(CURRENT)
    assert timeline is not None
    assert timeline.revisions[0].evidence == "expected-count"
    assert [event.action for event in timeline.events].count("inference.finished") == 1


@pytest.mark.peers
def test_an_order_of_values_is_answered_from_the_health_record(
    fhir_server: FhirServer, start_hub: StartHub, tmp_path: Path, shared_data: Path
) -> None:
    people = {name: load(fhir_server, shared_data, name) for name in ("Martina", "Chet")}
    hub = start_hub(
        further_sources=[FHIR],
        sections={
            "site": {"patient_identifier_system": SYNTHEA},
            "health_records": [{"name": "ehr", "kind": "fhir", "url": fhir_server.base_url}],
            "models": [{"package": "builtin:liver-kidney-scores"}],
            "routes": [
                {
                    "name": "scores",
                    "when": "study.is_case",
                    "model": "liver-kidney-scores",
                    "trigger": "order",
                }
            ],
        },
    )
    task_id = place(hub, of_values("T-1", people["Martina"], "2020-12-20T00:00:00Z"))
    found = over(hub, task_id, "completed")
    (report,) = reports_of(hub, found)
    (row,) = hub.rows("SELECT findings FROM results")
    fib4 = next(f for f in json.loads(row["findings"]) if "FIB" in json.dumps(f["code"]).upper())
    by_hand = 67 * 34.258926554803104 / (319.5779595993911 * math.sqrt(31.038270376347036))
    assert fib4["value"] == round(by_hand, 2)
    assert "Murazik" not in hub.log_text()

    lacking = place(hub, of_values("T-2", people["Chet"], "1967-05-01T00:00:00Z"))
    reasons = json.dumps(over(hub, lacking, "rejected")["statusReason"])
    assert all(name in reasons for name in ("AST", "ALT", "creatinine"))
    unknown = place(hub, of_values("T-3", "nobody", "2020-05-13T00:00:00Z"))
    assert "knows no patient" in json.dumps(over(hub, unknown, "rejected")["statusReason"])

    (case,) = hub.rows("SELECT study_instance_uid FROM orders WHERE order_id = :o", o=task_id)
    shown = hub.caidx("study", "show", case["study_instance_uid"]).stdout
    assert ("ordered-values" in shown, "1920-8" in shown) == (True, True)
    assert "Murazik" not in shown
    assert report["resourceType"] == "DiagnosticReport"


def of_values(number: str, patient_id: str, authored_on: str) -> Json:
    """A Task that asks for AI on values which it does not name."""
    return {
        "resourceType": "Task",
        "identifier": [{"system": "urn:ris:tasks", "value": number}],
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "urn:caidx:task-codes", "code": "ai-analysis"}]},
        "for": {"identifier": {"system": SYNTHEA, "value": patient_id}},
        "authoredOn": authored_on,
    }


def load(server: FhirServer, shared_data: Path, name: str) -> str:
    """Put a Synthea patient and the values into the EHR; the patient's identifier."""
    (path,) = (shared_data / "fhir" / "synthea-r4").glob(f"{name}*.json")
    entries = json.loads(path.read_bytes())["entry"]
    kept = [e for e in entries if e["resource"]["resourceType"] in ("Patient", "Observation")]
    (patient,) = (e["resource"] for e in kept if e["resource"]["resourceType"] == "Patient")
    posted = httpx.post(
        f"{server.base_url}/Patient", json=without_id(patient), headers=FHIR_JSON, timeout=60
    )
    reference = f"Patient/{posted.raise_for_status().json()['id']}"
    batch = []
    for entry in kept:
        resource = entry["resource"]
        if resource["resourceType"] == "Observation":
            told = without_id(resource) | {"subject": {"reference": reference}}
            told = {k: v for k, v in told.items() if k not in ("encounter", "hasMember")}
            request = {"method": "POST", "url": "Observation"}
            batch.append({"resource": told, "request": request})
    body = {"resourceType": "Bundle", "type": "batch", "entry": batch}
    answer = httpx.post(server.base_url, json=body, headers=FHIR_JSON, timeout=60)
    done = [entry["response"]["status"] for entry in answer.raise_for_status().json()["entry"]]
    assert set(done) == {"201"}
    return str(next(i["value"] for i in patient["identifier"] if i.get("system") == SYNTHEA))


def without_id(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if name not in ("id", "meta")}
