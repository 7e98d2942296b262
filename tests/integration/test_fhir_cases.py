"""Reports on measured values before a real FHIR server and two validators that share no code with
fhir.resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hub.domain.delivery import DocumentKind
from tests.integration.test_fhir_destination import destination
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.unit.formats.case_reports import CASE_REPORTS, CaseReport

pytestmark = pytest.mark.peers

Json = dict[str, Any]
KINDS = ("Device", "Observation", "DiagnosticReport", "Task", "Provenance")


def sent(server: FhirServer, bundle: Json) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    answer = httpx.post(server.base_url, json=bundle, headers=headers, timeout=60)
    assert answer.is_success, answer.text


def stand(server: FhirServer) -> dict[str, str]:
    """Have the order and the values in the server; returns their references by what the reports of
    the tests call them."""
    made = {}
    patient = {"identifier": {"value": "P-7"}}
    order = {"intent": "order", "subject": patient, "resourceType": "ServiceRequest"}
    made["ServiceRequest/77"] = created(server, {"status": "active", **order})
    for value in CaseReport().request.observations:
        code = value.codes[0].code_value
        made[f"Observation/{code}"] = created(
            server,
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "valueQuantity": {"value": value.value},
            },
        )
    return made


def created(server: FhirServer, body: Json) -> str:
    kind = body["resourceType"]
    headers = {"Content-Type": "application/fhir+json"}
    answer = httpx.post(f"{server.base_url}/{kind}", json=body, headers=headers, timeout=60)
    assert answer.is_success, answer.text
    return f"{kind}/{answer.json()['id']}"


def standing(bundle: Json, made: Mapping[str, str]) -> Json:
    """The bundle, with the references that the server gave."""
    text = json.dumps(bundle)
    for ours, theirs in made.items():
        text = text.replace(f'"{ours}"', f'"{theirs}"')
    return dict(json.loads(text))


def held(server: FhirServer) -> list[Json]:
    return [resource for kind in KINDS for resource in server.search(kind)]


@pytest.mark.parametrize("name", CASE_REPORTS)
def test_server_and_validators_accept_every_case(
    fhir_server: FhirServer, fhir_validators: FhirValidators, name: str
) -> None:
    made = stand(fhir_server)
    bundle = standing(CASE_REPORTS[name].bundle(), made)
    assert fhir_validators.errors(bundle) == []
    sent(fhir_server, bundle)
    known = set(made.values())
    stored = [o for o in held(fhir_server) if f"{o['resourceType']}/{o['id']}" not in known]
    assert len(stored) == len(bundle["entry"])
    found = [issue for resource in stored for issue in fhir_validators.objections(resource)]
    # medplum cannot tell the type of what stands at another server
    assert [issue for issue in found if 'got "https:"' not in issue["text"]] == []


def test_a_report_leads_to_the_values_that_the_server_has(fhir_server: FhirServer) -> None:
    made = stand(fhir_server)
    sent(fhir_server, standing(CaseReport().bundle(), made))
    (report,) = fhir_server.search("DiagnosticReport")
    assert report["basedOn"][0]["reference"] == made["ServiceRequest/77"]
    made_of: list[str] = []
    for item in report["result"]:
        observation = fhir_server.read(item["reference"])
        made_of += [one["reference"] for one in observation["derivedFrom"]]
    assert set(made_of) == set(made.values()) - {made["ServiceRequest/77"]}
    assert fhir_server.read(made_of[0])["valueQuantity"]["value"] == 31


def test_sending_again_creates_nothing(fhir_server: FhirServer) -> None:
    bundle = standing(CaseReport().bundle(), stand(fhir_server))
    sent(fhir_server, bundle)
    before = [one["id"] for one in held(fhir_server)]
    sent(fhir_server, bundle)
    assert [one["id"] for one in held(fhir_server)] == before


def test_each_server_is_told_of_its_own_values_alone(fhir_server: FhirServer) -> None:
    """The same document at the server that has the values, and at one that has not."""
    document = CaseReport().documents()[DocumentKind.FHIR]
    made = stand(fhir_server)
    absolute = {ours: f"{fhir_server.base_url}/{theirs}" for ours, theirs in made.items()}
    bundle = standing(json.loads(document.content), absolute)
    document = replace(document, content=json.dumps(bundle).encode())
    destination(fhir_server.base_url).deliver(document, "key-1")
    (report,) = fhir_server.search("DiagnosticReport")
    assert report["basedOn"][0]["reference"] == made["ServiceRequest/77"]
    found = [fhir_server.read(item["reference"]) for item in report["result"]]
    named = {one["reference"] for observation in found for one in observation["derivedFrom"]}
    assert named == set(made.values()) - {made["ServiceRequest/77"]}

    fhir_server.reset()
    destination(fhir_server.base_url.replace("127.0.0.1", "localhost")).deliver(document, "key-2")
    (report,) = fhir_server.search("DiagnosticReport")
    found = [fhir_server.read(item["reference"]) for item in report["result"]]
    derived = [one for observation in found for one in observation["derivedFrom"]]
    assert derived
    assert not [one for one in (*derived, report["basedOn"][0]) if "reference" in one]
    assert {one["identifier"]["value"] for one in derived} == {
        "1920-8-0", "1742-6-0", "777-3-0", "2160-0-0",
    }  # fmt: skip
