"""The FHIR service over the store's orders: what it promises holds on real databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa

from hub.domain.order import OrderState
from hub.domain.routing import RouteTrigger
from hub.store.database import Database, migrate, open_database, sqlite_url
from hub.store.report_bundles import StoredReports
from hub.store.schema_orders import observations, orders
from tests.fhir_source import FhirSource, fhir_source
from tests.unit.connectors.fhir.messages import (
    VALUE,
    WISH,
    bundle,
    identified,
    observation,
    posted,
    service_request,
    study_by_uid,
    task,
    value_input,
)
from tests.unit.ordering import OrderBench, make_order_bench
from tests.unit.test_pipeline import _route

pytestmark = pytest.mark.peers

Json = dict[str, Any]


@dataclass
class Stored:
    """The service, and the bench under it."""

    source: FhirSource
    parts: OrderBench
    database: Database

    def count(self, table: sa.Table) -> int:
        with self.database.read() as connection:
            return int(
                connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            )


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    url = (
        sqlite_url(tmp_path / "hub.sqlite")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    database = open_database(url)
    migrate(database)
    parts = make_order_bench(tmp_path, database)
    reports = StoredReports(database, parts.bench.pipeline.documents)
    with fhir_source(stored=(parts.orders, reports)) as source:
        yield Stored(source, parts, database)
    parts.bench.store.close()
    database.close()


def test_a_transaction_is_all_or_nothing(stored: Stored) -> None:
    wrong = task(
        identifier=[{"value": "T-2"}],
        input=[{"type": {"text": "route"}, "valueString": "no-such-route"}],
    )
    message = bundle([posted(observation(), VALUE), posted(task(), WISH), posted(wrong)])
    answer = stored.source.post(message)
    assert answer.status_code == 422, answer.text
    assert (stored.count(orders), stored.count(observations)) == (0, 0)
    message["entry"].pop()
    answer = stored.source.post(message)
    assert [e["response"]["status"][:3] for e in answer.json()["entry"]] == ["201", "201"]
    again = stored.source.post(deepcopy(message))
    assert [e["response"]["status"][:3] for e in again.json()["entry"]] == ["200", "200"]
    assert stored.count(observations) == 1


def test_the_same_order_from_many_at_once_is_one_order(stored: Stored) -> None:
    found: list[int] = []

    def send() -> None:
        answer = httpx.post(
            f"{stored.source.url}/Task",
            json=task(),
            timeout=60,
            headers={"Content-Type": "application/fhir+json"},
        )
        found.append(answer.status_code)

    threads = [Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200] * 7 + [201]
    assert stored.count(orders) == 1


def test_orders_are_found_by_what_names_them(stored: Stored) -> None:
    source = stored.source
    source.post(task(basedOn=[{"reference": "ServiceRequest/12"}]))
    source.post(service_request())
    source.post(
        task(identifier=[{"system": "urn:other", "value": "T-9"}], **{"for": identified("P-8")})
    )

    def found(query: str) -> int:
        answer = source.get(query)
        assert answer.status_code == 200, answer.text
        return len(answer.json().get("entry", []))

    assert found("Task") == 3
    assert found("ServiceRequest") == 1
    assert found("Task?identifier=https://ehr.example/tasks|T-1") == 1
    assert found("Task?identifier=T-9") == 1
    assert found("Task?identifier=urn:wrong|T-9") == 0
    assert found("Task?patient:identifier=https://hospital.example/patients|P-7") == 2
    assert found("Task?based-on=ServiceRequest/12") == 1
    assert found("ServiceRequest?identifier=https://ehr.example/orders|PL-9") == 1
    assert found("Task?status=accepted&_count=1") == 1


def test_conditional_create_meets_what_is_stored(stored: Stored) -> None:
    condition = "identifier=https://ehr.example/tasks|T-1"
    assert stored.source.post(task(), If_None_Exist=condition).status_code == 201
    changed = task(identifier=[{"value": "another"}])
    answer = stored.source.post(changed, If_None_Exist=condition)
    assert answer.status_code == 200, answer.text
    assert stored.count(orders) == 1
    stored.source.post(task(identifier=[{"system": "urn:b", "value": "T-1"}]))
    answer = stored.source.post(task(), If_None_Exist="identifier=T-1")
    assert answer.status_code == 412


def test_another_order_with_the_same_identifier_is_refused(stored: Stored) -> None:
    assert stored.source.post(task()).status_code == 201
    other = stored.source.post(task(focus=study_by_uid("1.2.3.4")))
    assert other.status_code == 422
    assert stored.count(orders) == 1


def test_values_are_read_back_and_meant_by_their_ids(stored: Stored) -> None:
    source = stored.source
    first = source.post(observation(identifier=[{"system": "urn:lab", "value": "L-1"}]))
    name = first.headers["Location"].split("/fhir/")[1].split("/_history")[0]
    shown = source.get(name)
    assert (shown.status_code, shown.json()["valueQuantity"]["value"]) == (200, 21.9)
    assert len(source.get("Observation?identifier=urn:lab|L-1").json()["entry"]) == 1
    wish = task(input=[value_input({"reference": name})])
    del wish["focus"]
    answer = source.post(wish)
    assert answer.status_code == 201, answer.text
    order_id = answer.json()["id"]
    (value,) = stored.parts.placed(order_id).order.observations
    assert value.observation_id == name.removeprefix("Observation/")


def test_a_task_follows_its_order_to_the_report(stored: Stored) -> None:
    """On a study that is here; the Task's output leads to the report, and all of it is read."""
    source, parts = stored.source, stored.parts
    parts.use(_route(trigger=RouteTrigger.ORDER))
    parts.bench.pipeline = replace(parts.bench.pipeline, shows_reports=True)
    uid = parts.bench.receive()
    parts.finish()
    patient = parts.study(uid).patient
    assert patient.issuer_of_patient_id == ""
    named = {"for": {"identifier": {"value": patient.patient_id}}}
    wish = task(focus=study_by_uid(uid), basedOn=[{"reference": "ServiceRequest/12"}], **named)
    answer = source.post(wish)
    assert answer.status_code == 201, answer.text
    location = answer.headers["Location"].split("/_history")[0]
    states = [source.client.get(location).json()["status"]]
    parts.look()
    states.append(source.client.get(location).json()["status"])
    parts.finish()
    shown = source.client.get(location).json()
    assert [*states, shown["status"]] == ["accepted", "in-progress", "completed"]
    (output,) = shown["output"]
    report = source.get(output["valueReference"]["reference"]).json()
    assert report["resourceType"] == "DiagnosticReport"
    for reference in report["result"]:
        assert source.get(reference["reference"]).status_code == 200
    order_id = shown["id"]
    for query in (
        f"based-on=Task/{order_id}",
        "based-on=ServiceRequest/12",
        f"patient:identifier={patient.patient_id}",
        f"identifier={report['identifier'][0]['system']}|{report['identifier'][0]['value']}",
        f"_id={report['id']}",
    ):
        found = source.get(f"DiagnosticReport?{query}").json().get("entry", [])
        assert [one["resource"] for one in found] == [report], query
    device = source.get(f"Device?identifier={_quoted(source)}").json()["entry"]
    assert len(device) == 1
    stranger = source.get("DiagnosticReport?patient:identifier=nobody").json()
    assert "entry" not in stranger


def _quoted(source: FhirSource) -> str:
    """The identifier of the report's model, as a token."""
    (device,) = source.get("Device").json()["entry"]
    named = device["resource"]["identifier"][1]
    value = named["value"].replace("|", "\\|")
    return quote(f"{named['system']}|{value}", safe="")


def test_an_order_is_taken_back(stored: Stored) -> None:
    location = stored.source.post(task()).headers["Location"].split("/_history")[0]
    headers = {"Content-Type": "application/fhir+json"}
    body = json.dumps(task(status="cancelled")).encode()
    answer = stored.source.client.put(location, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "cancelled"
    order_id = location.rpartition("/")[2]
    assert stored.parts.placed(order_id).state is OrderState.CANCELLED
    again = stored.source.client.put(location, content=body, headers=headers)
    assert again.status_code == 409
