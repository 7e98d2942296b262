"""Orders and laboratory values as messages: a whole record that is pushed, German examples, an
order as ServiceRequest, one that is taken back, what is urgent first, and a killed worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.acceptance.laboratory import (
    EGFR,
    FHIR_JSON,
    FIB4,
    SOURCE,
    SYNTHEA,
    FhirClient,
    Json,
    Person,
    as_of,
    code_of,
    load,
    people,
    sections,
    sent_bundles,
    task_of_values,
)
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.running_hub import RunningHub, StartHub, start_hub, wait_for

__all__ = ["start_hub"]
pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

GERMAN = "https://fhir.krankenhaus.example/sid/PID"
PLACER = "urn:ris:orders"
RESULTS = "urn:caidx:results"

Start = Callable[..., tuple[RunningHub, FhirClient]]


@pytest.fixture
def start(start_hub: StartHub, fhir_server: FhirServer, fhir_validators: FhirValidators) -> Start:
    """``start(trigger, supervised=..., **sections)``: a hub before the EHR, and its client."""

    def started(
        trigger: str = "order", *, supervised: bool = True, **more: object
    ) -> tuple[RunningHub, FhirClient]:
        hub = start_hub(
            fhir_server=fhir_server,
            further_sources=[SOURCE],
            supervised=supervised,
            sections=sections(fhir_server, trigger, **more),
        )
        return hub, FhirClient(hub, fhir_validators)

    return started


def settled(hub: RunningHub, number: int) -> None:
    """Wait until this many requests were answered, and their reports delivered."""
    asked = "SELECT state FROM requests UNION ALL SELECT state FROM deliveries"

    def states() -> list[str]:
        return sorted(row["state"] for row in hub.rows(asked))

    wait_for(
        lambda: states() == sorted(["done", "delivered"] * number),
        f"{number} reports to be delivered",
        explain=lambda: f"{states()}\n{hub.log_text()[-20_000:]}",
    )


def reports_at(ehr: FhirServer) -> list[Json]:
    """The reports of the hub: those of Synthea have no such identifier."""
    found = ehr.search("DiagnosticReport")
    return [o for o in found if RESULTS in {i.get("system") for i in o.get("identifier", [])}]


def scores(ehr: FhirServer, report: Json) -> dict[str, float]:
    found = [ehr.read(one["reference"]) for one in report["result"]]
    return {code_of(o): o["valueQuantity"]["value"] for o in found if "valueQuantity" in o}


def by_hand(person: Person) -> dict[str, float]:
    return {FIB4: person.fib4, EGFR: person.egfr}


def finished(hub: RunningHub) -> list[str]:
    """The requests that a model has answered, in the order of the answers."""
    rows = hub.rows(
        "SELECT entity FROM audit_log WHERE action = 'inference.finished' ORDER BY sequence"
    )
    return [row["entity"].partition(":")[2] for row in rows]


def begun(hub: RunningHub, table: str) -> None:
    """Wait until there is something in a table."""
    wait_for(lambda: hub.rows(f"SELECT 1 FROM {table}") != [], table, explain=hub.log_text)


# --- values that are pushed ------------------------------------------------------------------


def test_a_record_that_is_pushed_twice_is_scored_once(
    start: Start, fhir_server: FhirServer, shared_data: Path
) -> None:
    martina = as_of(people(shared_data)["Martina"], datetime.now(UTC))
    hub, client = start("arrival", health_records=[])
    first = client.post(martina.bundle)
    assert kept(martina, first) == {"201 Created"}, first.text[:1000]
    settled(hub, 1)
    (report,) = reports_at(fhir_server)
    assert scores(fhir_server, report) == by_hand(martina)
    (shown,) = client.found(f"DiagnosticReport?patient:identifier={SYNTHEA}|{martina.patient_id}")
    assert report["identifier"] == shown["identifier"]
    number = len(client.found(f"Observation?patient:identifier={SYNTHEA}|{martina.patient_id}"))

    again = client.post(martina.bundle)
    assert kept(martina, again) == {"200 OK"}
    reformatted = json.loads(json.dumps(martina.bundle))
    reformatted["entry"].reverse()  # the same values in another message
    assert kept(martina, client.post(reformatted)) == {"200 OK"}
    cathryn = as_of(people(shared_data)["Cathryn"], datetime.now(UTC))
    client.post(cathryn.bundle)  # came later, so whatever else there was to do is done
    settled(hub, 2)
    assert len(finished(hub)) == 2
    assert len(reports_at(fhir_server)) == 2
    assert [one for one in reports_at(fhir_server) if one["id"] == report["id"]] == [report]
    found = client.found(f"Observation?patient:identifier={SYNTHEA}|{martina.patient_id}")
    assert len(found) == number
    for bundle in sent_bundles(hub):
        client.judge(bundle)


def kept(person: Person, answer: httpx.Response) -> set[str]:
    """What a message was told of its values."""
    told = answer.json()["entry"]
    assert len(told) == len(person.bundle["entry"])
    responses = [entry["response"] for entry in told]
    return {
        one["status"] for one in responses if one.get("location", "").startswith("Observation/")
    }


def test_german_examples_are_read_and_what_they_lack_is_told(
    start: Start, fhir_server: FhirServer, shared_data: Path
) -> None:
    folder = shared_data / "fhir"
    resources = "Resources/fsh-generated/resources"
    person = folder / "isik-basis" / resources / "Patient-PatientinMusterfrau.json"
    paths = sorted((folder / "isik-labor" / resources).glob("Observation-*.json"))
    values = [json.loads(path.read_bytes()) for path in paths]
    assert len(values) == 8
    entries = [
        {
            "fullUrl": f"https://krankenhaus.example/fhir/{one['resourceType']}/{one['id']}",
            "resource": one,
            "request": {"method": "POST", "url": one["resourceType"]},
        }
        for one in (json.loads(person.read_bytes()), *values)
    ]
    hub, client = start("arrival", health_records=[], site={"patient_identifier_system": GERMAN})
    answer = client.post({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    told = [entry["response"] for entry in answer.json()["entry"]]
    assert [one["status"][:3] for one in told] == ["200"] + ["201"] * 8, answer.text
    read = [client.get(one["location"].partition("/_history")[0]) for one in told[1:]]
    found = client.found(f"Observation?patient:identifier={GERMAN}|TestPID")
    for sent, one in zip(values, read, strict=True):
        quantity = sent["valueQuantity"]
        assert one["valueQuantity"]["value"] == quantity["value"]
        assert one["valueQuantity"]["code"] == quantity["code"]
        codes = {(c["system"], c["code"]) for c in one["code"]["coding"]}
        assert codes == {(c["system"], c["code"]) for c in sent["code"]["coding"]}
        assert one["subject"]["identifier"]["value"] == "TestPID"
        assert one in found
    settled(hub, 1)  # creatinine and platelets are among them
    (report,) = client.found(f"DiagnosticReport?patient:identifier={GERMAN}|TestPID")
    assert report["status"] == "cancelled"
    assert [name for name in ("AST", "ALT") if name not in report["conclusion"]] == []
    (there,) = reports_at(fhir_server)
    assert there["conclusion"] == report["conclusion"]


# --- orders ----------------------------------------------------------------------------------


def test_orders_that_requests_of_the_ehr_led_to_are_reported_on_those(
    start: Start, fhir_server: FhirServer, shared_data: Path
) -> None:
    five = people(shared_data)
    martina, cathryn = five["Martina"], five["Cathryn"]
    load(fhir_server, (martina, cathryn))
    hub, client = start()
    there = httpx.post(
        f"{fhir_server.base_url}/ServiceRequest", json=wish(cathryn), headers=FHIR_JSON, timeout=60
    ).raise_for_status()
    url = f"{fhir_server.base_url}/ServiceRequest/{there.json()['id']}"
    of_task = client.place(task_of_values("T-1", cathryn, basedOn=[{"reference": url}]))
    order_id = client.place(wish(martina))
    assert client.over(of_task)["status"] == "completed"
    assert client.over(order_id)["status"] == "completed"
    assert client.get(f"ServiceRequest/{order_id}")["status"] == "completed"
    settled(hub, 2)
    for query, person in (
        (f"based-on=ServiceRequest/{order_id}", martina),
        (f"based-on={PLACER}|{martina.patient_id}", martina),
        (f"based-on={url}", cathryn),
    ):
        (report,) = client.found(f"DiagnosticReport?{query}")
        assert report["subject"]["identifier"]["value"] == person.patient_id, query
        (at_the_ehr,) = (
            o for o in reports_at(fhir_server) if o["identifier"] == report["identifier"]
        )
        assert scores(fhir_server, at_the_ehr) == by_hand(person)
        (based_on,) = at_the_ehr["basedOn"]
        if person is cathryn:
            assert fhir_server.read(based_on["reference"])["id"] == there.json()["id"]
        else:
            assert based_on["identifier"]["system"] == PLACER
            assert based_on["identifier"]["value"] == martina.patient_id


def wish(person: Person) -> Json:
    """A ServiceRequest that asks for AI on values that the EHR has."""
    placer = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC"}
    return {
        "resourceType": "ServiceRequest",
        "identifier": [
            {"type": {"coding": [placer]}, "system": PLACER, "value": person.patient_id}
        ],
        "status": "active",
        "intent": "order",
        "code": {"coding": [{"system": "urn:caidx:task-codes", "code": "ai-analysis"}]},
        "subject": person.reference,
        "authoredOn": person.asked_at.isoformat(),
    }


def test_urgent_orders_overtake_and_those_that_are_taken_back_ask_nothing(
    start: Start, fhir_server: FhirServer, shared_data: Path
) -> None:
    five = people(shared_data)
    martina, cathryn = five["Martina"], five["Cathryn"]
    hub, client = start(supervised=False, health_records=[])  # nothing is waited for but the hub
    for person in (martina, cathryn):
        assert client.post(person.bundle).status_code == 200
    hub.kill("worker-1")  # orders pile up
    routine = [place_with_patient(client, martina, f"T-{n}") for n in range(12)]
    stat = place_with_patient(client, cathryn, "T-stat", priority="stat")
    back = task_of_values("T-back", five["Cathryn"])
    taken_back = client.place(back)
    headers = {**FHIR_JSON, **client.headers}
    answer = httpx.put(
        f"{hub.http_url}/fhir/Task/{taken_back}",
        json=back | {"status": "cancelled"},
        headers=headers,
        timeout=60,
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    assert {client.task(one)["status"] for one in (*routine, stat)} == {"accepted"}
    hub.restart("worker-1")
    for one in (stat, *routine):
        assert client.over(one)["status"] == "completed", json.dumps(client.task(one))
    settled(hub, 13)
    assert len(reports_at(fhir_server)) == 13
    (request,) = hub.rows("SELECT request_id FROM requests WHERE order_id = :o", o=stat)
    assert finished(hub).index(request["request_id"]) <= 5, "of 13, placed last"
    assert client.task(taken_back)["status"] == "cancelled"
    assert hub.rows("SELECT request_id FROM requests WHERE order_id = :o", o=taken_back) == []
    assert client.found(f"DiagnosticReport?based-on=Task/{taken_back}") == []
    late = httpx.put(
        f"{hub.http_url}/fhir/Task/{stat}",
        json=task_of_values("T-stat", five["Cathryn"], status="cancelled"),
        headers=headers,
        timeout=60,
    )
    assert late.status_code == 409
    client.judge(late.json())


def place_with_patient(client: FhirClient, person: Person, number: str, **more: str) -> str:
    """Send a Task together with the Patient; the id of the hub's own."""
    (sent,) = (e for e in person.bundle["entry"] if e["resource"]["resourceType"] == "Patient")
    asked = task_of_values(number, person, **more) | {"for": {"reference": sent["fullUrl"]}}
    entry = {"resource": asked, "request": {"method": "POST", "url": "Task"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [sent, entry]}
    answer = client.post(bundle)
    assert answer.status_code == 200, answer.text
    location = answer.json()["entry"][1]["response"]["location"]
    return str(location.removeprefix("Task/").partition("/")[0])


def test_a_worker_that_is_killed_between_order_and_report_leaves_one_report(
    start: Start, fhir_server: FhirServer, shared_data: Path
) -> None:
    five = people(shared_data)
    load(fhir_server, (five["Martina"], five["Cathryn"]))
    hub, client = start(supervised=False)
    persons = [five["Martina"], five["Cathryn"]] * 3
    placed = [client.place(task_of_values(f"T-{n}", person)) for n, person in enumerate(persons)]
    begun(hub, "requests")
    hub.kill("worker-1")
    assert "accepted" in {client.task(one)["status"] for one in placed}, "nothing was left to do"
    hub.restart("worker-1")
    begun(hub, "results")
    hub.kill("worker-1")
    hub.restart("worker-1")
    for order_id in placed:
        assert client.over(order_id)["status"] == "completed", json.dumps(client.task(order_id))
    settled(hub, len(placed))
    found = reports_at(fhir_server)
    assert len(found) == len(placed)
    told = sorted(sorted(scores(fhir_server, one).items()) for one in found)
    assert told == sorted(sorted(by_hand(person).items()) for person in persons)
    assert len(finished(hub)) == len(set(finished(hub))) == len(placed)
    for order_id in placed:
        assert len(client.reports_of(client.task(order_id))) == 1
