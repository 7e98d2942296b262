"""Bundles of every outcome and every version, before a real FHIR server and two validators that
share no code with fhir.resources."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hub.domain.delivery import DocumentKind
from hub.errors import IntegrityError
from hub.formats.fhir import report as fhir_report
from hub.formats.fhir.checks import check_bundle
from tests import builders
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.unit.formats.fhir_bundles import CASES, Case, Json, card, context
from tests.unit.formats.test_fhir_checks import BROKEN

pytestmark = pytest.mark.peers

KINDS = (
    "Device",
    "ImagingStudy",
    "Observation",
    "DiagnosticReport",
    "Task",
    "Provenance",
    "Flag",
    "CommunicationRequest",
)


def sent(server: FhirServer, bundle: Json) -> httpx.Response:
    headers = {"Content-Type": "application/fhir+json"}
    return httpx.post(server.base_url, json=bundle, headers=headers, timeout=60)


def stand(server: FhirServer, case: Case) -> None:
    answer = sent(server, case.bundle())
    assert answer.is_success, answer.text


def held(server: FhirServer) -> dict[str, list[Json]]:
    return {kind: server.search(kind) for kind in KINDS}


def counts(server: FhirServer) -> dict[str, int]:
    return {kind: len(found) for kind, found in held(server).items()}


@pytest.mark.parametrize("name", CASES)
def test_server_and_validators_accept_every_case(
    fhir_server: FhirServer, fhir_validators: FhirValidators, name: str
) -> None:
    bundle = CASES[name].bundle()
    assert fhir_validators.errors(bundle) == []
    stand(fhir_server, CASES[name])
    stored = [resource for found in held(fhir_server).values() for resource in found]
    assert len(stored) == len(bundle["entry"])
    # once the server has put its own ids in place, references have types that can be judged
    assert [issue for resource in stored for issue in fhir_validators.objections(resource)] == []


@pytest.mark.parametrize("name", CASES)
def test_sending_again_creates_nothing(fhir_server: FhirServer, name: str) -> None:
    stand(fhir_server, CASES[name])
    before = held(fhir_server)
    stand(fhir_server, CASES[name])
    after = held(fhir_server)
    for kind in KINDS:
        assert [one["id"] for one in after[kind]] == [one["id"] for one in before[kind]]


@pytest.mark.parametrize("last", ["accepted", "rejected"])
def test_a_version_updates_what_the_one_before_made(fhir_server: FhirServer, last: str) -> None:
    stand(fhir_server, CASES["critical"])
    before = counts(fhir_server)
    stand(fhir_server, CASES[last])
    after = held(fhir_server)
    assert {kind: len(found) for kind, found in after.items()} == before | {"Provenance": 2}
    status = CASES[last].status
    assert {o["status"] for o in (*after["Observation"], *after["DiagnosticReport"])} == {status}
    flag = "active" if last == "accepted" else "entered-in-error"
    assert [one["status"] for one in after["Flag"]] == [flag]


def test_what_a_later_result_has_no_more_does_not_stand(fhir_server: FhirServer) -> None:
    stand(fhir_server, CASES["critical"])
    gone = {one["id"] for one in fhir_server.search("Observation")}
    stand(fhir_server, CASES["late-images"])
    (report,) = fhir_server.search("DiagnosticReport")
    assert report["status"] == "amended"
    named = {item["reference"].removeprefix("Observation/") for item in report["result"]}
    for observation in fhir_server.search("Observation"):
        stands = observation["status"] != "entered-in-error"
        assert stands == (observation["id"] in named)
        assert not (stands and observation["id"] in gone)
    assert [one["status"] for one in fhir_server.search("Flag")] == ["inactive"]


def test_a_failure_is_read_from_the_task(fhir_server: FhirServer) -> None:
    stand(fhir_server, CASES["failed"])
    (task,) = fhir_server.search("Task", status="failed")
    assert task["contained"][0]["issue"][0]["details"]["text"].startswith("The model stopped")
    made = fhir_server.read(task["output"][0]["valueReference"]["reference"])
    assert (made["resourceType"], made["status"]) == ("DiagnosticReport", "cancelled")


def test_two_models_of_one_study_stand_beside_each_other(fhir_server: FhirServer) -> None:
    stand(fhir_server, CASES["presence"])
    request = CASES["presence"].request
    other = replace(request, route="another", request_id="another")
    document = fhir_report.encode(other, builders.presence(other), card(), context(), {})
    assert document is not None
    assert sent(fhir_server, json.loads(document.content)).is_success
    expected = {"Device": 1, "ImagingStudy": 1, "DiagnosticReport": 2, "Task": 2}
    assert {kind: counts(fhir_server)[kind] for kind in expected} == expected


# --- broken bundles ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(fhir_validators: FhirValidators) -> dict[str, set[str]]:
    """Broken Bundle -> the independent validators that see it."""
    found = {}
    for name, (case, damage, _) in BROKEN.items():
        bundle = CASES[case].bundle()
        damage(bundle)
        found[name] = {issue["validator"] for issue in fhir_validators.errors(bundle)}
    return found


def test_our_check_catches_all_that_the_validators_miss(judged: dict[str, set[str]]) -> None:
    """Most of what makes a report wrong is valid FHIR: only our own rules see it."""
    missed = [name for name, validators in judged.items() if not validators]
    assert len(missed) >= 15
    for name in missed:
        case, damage, words = BROKEN[name]
        bundle: dict[str, Any] = deepcopy(CASES[case].bundle())
        damage(bundle)
        with pytest.raises(IntegrityError, match=words):
            check_bundle(bundle)


def test_what_is_no_fhir_is_seen_by_the_validators_too(judged: dict[str, set[str]]) -> None:
    for name in ("no status", "unknown field", "value of a wrong type"):
        assert judged[name], name


def test_an_r5_bundle_is_not_taken_for_r4(
    fhir_server: FhirServer, fhir_validators: FhirValidators
) -> None:
    bundle = CASES["critical"].bundle(DocumentKind.FHIR_R5)
    assert {issue["validator"] for issue in fhir_validators.errors(bundle)} == {
        "medplum",
        "fhir.js",
    }
    assert sent(fhir_server, bundle).is_client_error
    assert set(counts(fhir_server).values()) == {0}
