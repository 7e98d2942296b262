"""A Task on an imaging study: the hub has the images sent by the service that the ImagingStudy
names, and asks the model; for another patient's Task it asks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub.formats.images.ct_phantom import PHANTOM_PATIENT
from tests.acceptance.laboratory import FhirClient, Json, code_of
from tests.acceptance.studies import PhantomFiles, phantom
from tests.acceptance.test_orders import PATIENTS, inside, task
from tests.peers.dcmtk import storescu
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.peers.orthanc import Orthanc
from tests.running_hub import EHR, StartHub, start_hub, wait_for

__all__ = ["start_hub"]
pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

DENSITY, VALUE = "112181", "valueQuantity"
STATUSES = ("accepted", "in-progress", "completed")


def wish(number: str, study: PhantomFiles, orthanc: Orthanc, patient_id: str) -> Json:
    return task(
        number,
        study.study_instance_uid,
        patient_id,
        study={"endpoint": [{"reference": "#pacs"}], "numberOfInstances": len(study.files)},
        also=[inside(orthanc.dicomweb_url)],
    )


def configuration(**more: Any) -> Json:
    route = {
        "name": "chest",
        "when": '"CT" in study.modalities_in_study',
        "model": "lung-density",
        "trigger": "order",
        "deliver_to": [EHR],
    }
    return {
        "site": {"patient_identifier_system": PATIENTS},
        "models": [{"package": "builtin:lung-density"}],
        "routes": [route],
        "outbound": {"private_networks": ["127.0.0.1/32"]},
        **more,
    }


def test_a_study_is_fetched_from_its_endpoint_for_its_patient_alone(
    orthanc: Orthanc,
    fhir_server: FhirServer,
    fhir_validators: FhirValidators,
    start_hub: StartHub,
    tmp_path: Path,
) -> None:
    his, others = phantom(tmp_path / "a", seed=1), phantom(tmp_path / "b", seed=2)
    for study in (his, others):
        storescu(study.files, orthanc.dicom_port, aec=orthanc.ae_title)
    hub = start_hub(
        fhir_server=fhir_server,
        sections=configuration(),
        further_sources=[{"name": "ris", "kind": "fhir"}],
    )
    client = FhirClient(hub, fhir_validators)
    stranger = client.place(wish("T-1", others, orthanc, "SOMEBODY-ELSE"))
    placed = client.place(wish("T-2", his, orthanc, PHANTOM_PATIENT.patient_id))

    seen: list[str] = []

    def is_over() -> bool:
        seen.append(client.task(placed)["status"])
        return seen[-1] not in STATUSES[:2]

    wait_for(is_over, "the order to be over", explain=hub.log_text)
    assert list(dict.fromkeys(seen)) in (list(STATUSES), ["accepted", "completed"])

    (report,) = client.reports_of(client.task(placed))
    found = [client.get(result["reference"]) for result in report["result"]]
    members = [client.get(m["reference"]) for one in found for m in one.get("hasMember", [])]
    values = {code_of(one): one["valueQuantity"]["value"] for one in members if VALUE in one}
    assert values[DENSITY] == pytest.approx(his.truth.mean_lung_density_hu, abs=0.1)
    (shown,) = client.found(f"DiagnosticReport?based-on=Task/{placed}")
    assert shown == report
    hub.wait_for_study(his.study_instance_uid)
    token = f"{report['identifier'][0]['system']}|{report['identifier'][0]['value']}"
    assert len(fhir_server.search("DiagnosticReport", identifier=token)) == 1

    refused = client.over(stranger)
    assert refused["status"] == "rejected"
    assert "PatientID" in json.dumps(refused["statusReason"])
    assert "output" not in refused
    asked = hub.rows("SELECT study_instance_uid AS uid FROM requests")
    assert asked == [{"uid": his.study_instance_uid}]
    assert client.found(f"DiagnosticReport?based-on=Task/{stranger}") == []
    assert "SOMEBODY" not in hub.log_text()
