"""The FHIR service before real messages, a client of others, and validators that share no code
with fhir.resources."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task

from hub.domain.order import OrderState, OrderSubject
from tests.fhir_source import FhirSource, fhir_source
from tests.peers.fhir_server import FhirValidators
from tests.unit.connectors.fhir.messages import (
    PERSON,
    VALUE,
    WISH,
    bundle,
    observation,
    order_bundle,
    patient,
    posted,
    service_request,
    task,
    value_input,
)
from tests.unit.connectors.fhir.reports import ISSUERS, hold
from tests.unit.formats.fhir_bundles import CASES

pytestmark = pytest.mark.peers

Json = dict[str, Any]

SYNTHEA = "http://hospital.smarthealthit.org"
MODELS = {"Bundle": Bundle, "OperationOutcome": OperationOutcome, "Task": Task}
MODELS |= {"ServiceRequest": ServiceRequest, "CapabilityStatement": CapabilityStatement}


@pytest.fixture
def source() -> Iterator[FhirSource]:
    issuers = {
        **ISSUERS,
        SYNTHEA: "SYNTHEA",
        "https://hospital.example/patients": "UMR",
    }
    with fhir_source(issuers=issuers) as running:
        yield running


def valid(validators: FhirValidators, answer: httpx.Response) -> Json:
    """The body, when fhir.resources and both others have nothing against it."""
    body: Json = answer.json()
    MODELS[body["resourceType"]].model_validate(body)
    assert validators.errors(body) == []
    return body


def synthea(shared_data: Path) -> list[Path]:
    found = sorted((shared_data / "fhir" / "synthea-r4").glob("*.json"))
    assert len(found) == 5
    return found


# --- real messages -----------------------------------------------------------------------


def test_the_records_of_synthetic_patients(
    source: FhirSource, shared_data: Path, fhir_validators: FhirValidators
) -> None:
    for path in synthea(shared_data):
        message = json.loads(path.read_bytes())
        kinds = Counter(entry["resource"]["resourceType"] for entry in message["entry"])
        answer = source.raw(path.read_bytes())
        assert answer.status_code == 200, answer.text[:500]
        body = valid(fhir_validators, answer)
        assert len(body["entry"]) == len(message["entry"])
        for asked, told in zip(message["entry"], body["entry"], strict=True):
            kind, response = asked["resource"]["resourceType"], told["response"]
            kept = response["status"].startswith("201")
            assert kept == (kind == "Observation"), (kind, response)
            assert kept or response["outcome"]["issue"][0]["severity"] == "information"
        of_patient = [
            one
            for one in source.orders.values.values()
            if one.patient.patient_id == message["entry"][0]["resource"]["identifier"][1]["value"]
        ]
        assert 0 < len(of_patient) <= kinds["Observation"]
    assert len(source.knowledge.expectations) == 11
    assert source.knowledge.changes == []
    creatinine = [
        one for one in source.orders.values.values() if one.codes[0].code_value == "38483-4"
    ]
    assert {one.unit.code_value for one in creatinine if one.unit} == {"mg/dL"}


def test_an_order_on_the_values_of_a_record(source: FhirSource, shared_data: Path) -> None:
    """Sent once as a record, ordered then by the ids that the hub gave."""
    message = json.loads(synthea(shared_data)[0].read_bytes())
    body = source.post(message).json()
    codes = {"1920-8", "1742-6", "777-3"}
    references = [
        value_input({"reference": told["response"]["location"].split("/_history")[0]})
        for asked, told in zip(message["entry"], body["entry"], strict=True)
        if asked["resource"]["resourceType"] == "Observation"
        and asked["resource"]["code"]["coding"][0]["code"] in codes
    ]
    person = message["entry"][0]["resource"]["identifier"][1]
    wish = task(**{"for": {"identifier": {k: person[k] for k in ("system", "value")}}})
    del wish["focus"]
    answer = source.post(wish | {"input": references})
    assert answer.status_code == 201, answer.text
    (placed,) = source.orders.placed.values()
    assert placed.order.subject is OrderSubject.OBSERVATIONS
    assert {one.codes[0].code_value for one in placed.order.observations} == codes


def test_laboratory_values_of_german_hospitals(
    source: FhirSource, shared_data: Path, fhir_validators: FhirValidators
) -> None:
    folders = [
        shared_data / "fhir" / name / "Resources" / "fsh-generated" / "resources"
        for name in ("isik-basis", "isik-labor")
    ]
    person = json.loads((folders[0] / "Patient-PatientinMusterfrau.json").read_bytes())
    values = [json.loads(p.read_bytes()) for p in sorted(folders[1].glob("Observation-*.json"))]
    assert len(values) == 8
    alone = source.post(values[0])
    assert alone.status_code == 422, "whose it is cannot be told without the Patient"
    valid(fhir_validators, alone)
    system = next(
        one["system"]
        for one in person["identifier"]
        if one.get("type", {}).get("coding") and one["type"]["coding"][0]["code"] == "MR"
    )
    with fhir_source(issuers={system: "ISIK"}) as hospital:
        answer = hospital.post(bundle([posted(one) for one in (person, *values)]))
        body = valid(fhir_validators, answer)
        assert [e["response"]["status"][:3] for e in body["entry"]] == ["200"] + ["201"] * 8
        units = {
            one.codes[0].code_value: (one.value, one.unit.code_value if one.unit else "")
            for one in hospital.orders.values.values()
        }
    assert units["1988-5"] == (7.4, "mg/L")
    assert len(units) == 8


def test_examples_of_the_standard(source: FhirSource, shared_data: Path) -> None:
    """Each is judged: taken, or refused with a reason; none is a fault."""
    told = Counter[int]()
    for path in sorted((shared_data / "fhir" / "r4-examples").glob("*.json")):
        resource = json.loads(path.read_bytes())
        kind = resource.get("resourceType")
        if kind not in ("Task", "ServiceRequest", "Observation", "ImagingStudy", "Patient"):
            continue
        if kind not in ("Task", "Patient"):
            resource["subject"] = {"identifier": {"system": SYNTHEA, "value": "P-1"}}
        answer = source.post(resource)
        told[answer.status_code] += 1
        assert answer.status_code in (200, 201, 422), (path.name, answer.text)
        if kind in ("Observation", "ImagingStudy", "Patient"):
            assert answer.is_success, (path.name, answer.text)
    assert told[201] >= 50
    assert source.orders.placed == {}, "none of them asks for AI"


def test_messages_that_another_library_makes(source: FhirSource) -> None:
    made = Task.model_validate(task(priority="stat", authoredOn="2026-11-22T08:00:00+01:00"))
    answer = source.raw(made.model_dump_json(exclude_none=True).encode(), "/Task")
    assert answer.status_code == 201, answer.text
    whole = Bundle.model_validate(order_bundle())
    answer = source.raw(whole.model_dump_json(exclude_none=True).encode())
    assert answer.status_code == 200, answer.text
    assert len(source.orders.placed) == 1


# --- every answer is FHIR ----------------------------------------------------------------


@pytest.mark.parametrize("state", OrderState)
def test_orders_are_valid_in_every_state(
    source: FhirSource, fhir_validators: FhirValidators, state: OrderState
) -> None:
    wish = task(
        restriction={"period": {"end": "2026-11-23T00:00:00Z"}},
        basedOn=[{"reference": "ServiceRequest/1"}],
        input=[
            {"type": {"text": "route"}, "valueString": "chest"},
            value_input({"reference": VALUE}),
        ],
    )
    source.post(bundle([posted(observation(), VALUE), posted(wish, WISH)]))
    source.post(service_request())
    for order_id, placed in list(source.orders.placed.items()):
        source.orders.placed[order_id] = replace(
            placed, state=state, reasons=("the images are missing",)
        )
        hold(source, "critical", order_id=order_id)
        shown = valid(fhir_validators, source.get(f"Task/{order_id}"))
        assert fhir_validators.objections(shown) == []
        if source.get(f"ServiceRequest/{order_id}").is_success:
            asked = valid(fhir_validators, source.get(f"ServiceRequest/{order_id}"))
            assert fhir_validators.objections(asked) == []


@pytest.mark.parametrize("case", CASES)
def test_reports_are_valid_as_resources_of_their_own(
    source: FhirSource, fhir_validators: FhirValidators, case: str
) -> None:
    hold(source, case, version=2)
    for kind in ("DiagnosticReport", "Observation", "Device", "Provenance", "Task", "ImagingStudy"):
        body = valid(fhir_validators, source.get(f"{kind}?_count=200"))
        assert body["entry"], kind
        for entry in body["entry"]:
            assert fhir_validators.objections(entry["resource"]) == []


def test_sent_values_are_valid(source: FhirSource, fhir_validators: FhirValidators) -> None:
    absent = observation(dataAbsentReason={"text": "haemolytic"})
    del absent["valueQuantity"]
    words = observation(valueString="positive")
    del words["valueQuantity"]
    limit = observation()
    limit["valueQuantity"]["comparator"] = "<"
    plain = observation()
    plain["code"] = {"text": "a value"}
    for one in (observation(), absent, words, limit, plain):
        answer = source.post(one)
        assert answer.status_code == 201, answer.text
        assert fhir_validators.errors(answer.json()) == []
        assert fhir_validators.objections(answer.json()) == []


def test_batches_outcomes_and_the_statement_are_valid(
    source: FhirSource, fhir_validators: FhirValidators
) -> None:
    entries = [
        posted(patient(), PERSON),
        posted(task(status="draft")),
        posted(task()),
        {"request": {"method": "GET", "url": "Task?identifier=T-1"}},
        {"request": {"method": "GET", "url": "Task/none"}},
        {"request": {"method": "DELETE", "url": "Task/none"}},
    ]
    valid(fhir_validators, source.post(bundle(entries, "batch")))
    valid(fhir_validators, source.post(bundle([], "transaction")))
    valid(fhir_validators, source.post(bundle(entries)))
    valid(fhir_validators, source.get("metadata"))
    valid(fhir_validators, source.get("Encounter/1"))
    valid(fhir_validators, source.raw(b"{", "/Task"))
    valid(fhir_validators, source.raw(b"<Task/>", "/Task", Content_Type="application/fhir+xml"))
    valid(fhir_validators, source.get("Task?_summary=count"))
    valid(fhir_validators, source.get("Task?colour=red"))
