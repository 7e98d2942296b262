"""Health, metrics and the read-only API over a database with known contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from hub.domain.access import Scope
from hub.domain.inference import ModelKey
from hub.ports import Jobs, ModelPackage
from hub.store import schema
from hub.store.database import Database, open_database, sqlite_url
from hub.supervisor.processes import this_process
from hub.web.app import create_app
from hub.web.context import WebContext
from hub.web.door import TABLE
from tests.builders import model_card
from tests.unit.seeded import ASSESSED, DEAD, RECEIVING, UNMATCHED, FixedClock, seeded_database
from tests.unit.web.keys import client_with_key


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = seeded_database(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(database: Database) -> TestClient:
    return client_of(database)


def client_of(database: Database, scope: Scope | None = Scope.OPERATOR) -> TestClient:
    return client_with_key(create_app(context_over(database)), scope)


def context_over(database: Database, sha256: str = "f" * 64) -> WebContext:
    """With one model, whose package has that digest."""
    card = model_card()
    package = ModelPackage(ModelKey(card.id, card.version, sha256), card, Path())
    return WebContext(
        database, (package,), FixedClock(), "1.2.3", heartbeat_seconds=2.0, jobs=no_jobs
    )


def no_jobs() -> Jobs:
    raise AssertionError("nothing is written here")


# --- health --------------------------------------------------------------------------------


def test_live_answers_without_a_database(tmp_path: Path) -> None:
    client = client_of(open_database(sqlite_url(tmp_path / "not" / "there.sqlite")))
    assert client.get("/health/live").json() == {"status": "live"}


def test_ready_names_the_schema_and_the_roles(client: TestClient) -> None:
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert [check["name"] for check in answer.json()["checks"]] == [
        "database",
        "receiver",
        "indexer",
        "worker",
    ]


def test_a_role_that_has_gone_silent_degrades(client: TestClient, database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            sa.update(schema.workers).values(heartbeat_at=FixedClock().now().replace(year=2025))
        )
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"


def test_a_process_of_this_host_that_has_died_is_not_running(
    client: TestClient, database: Database
) -> None:
    died = replace(this_process("worker"), process_started="1")  # another process has its number
    with database.write() as connection:
        here = {"host_identity": died.host_identity, "pid": died.pid, "process_started": "1"}
        connection.execute(sa.update(schema.workers).values(**here))
    answer = client.get("/health/ready")
    assert answer.json()["status"] == "degraded"
    assert {check["detail"] for check in answer.json()["checks"][1:]} == {"0 running"}


def test_without_its_database_the_hub_is_not_ready(tmp_path: Path) -> None:
    client = client_of(open_database(sqlite_url(tmp_path / "not" / "there.sqlite")))
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not-ready"


def test_a_database_without_the_schema_is_not_ready(tmp_path: Path) -> None:
    client = client_of(open_database(sqlite_url(tmp_path / "empty.sqlite")))
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert "schema missing" in answer.json()["checks"][0]["detail"]


# --- metrics -------------------------------------------------------------------------------


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_what_the_database_holds(client: TestClient) -> None:
    found = samples(client)
    assert found["caidx_study_revisions", "routed"] == 2
    assert found["caidx_study_revisions", "receiving"] == 1
    assert found["caidx_requests", "done"] == 1
    assert found["caidx_requests", "failed"] == 0
    assert found["caidx_results", "assessed"] == 1
    assert found["caidx_deliveries", "results", "delivered"] == 1
    assert found["caidx_dead_letters", "delivery"] == 1
    assert found["caidx_alerts", "delivery.dead"] == 1
    assert found["caidx_oldest_undelivered_seconds",] == 600
    assert found["caidx_database_up",] == 1
    assert found["caidx_build_info", "1.2.3"] == 1
    assert found["process_resident_memory_bytes",] > 0


def test_metrics_say_when_the_database_is_away(tmp_path: Path) -> None:
    found = samples(client_of(open_database(sqlite_url(tmp_path / "not" / "there.sqlite"))))
    assert found["caidx_database_up",] == 0
    assert not any(name[0] == "caidx_requests" for name in found)


# --- API -----------------------------------------------------------------------------------


def test_studies_come_newest_first_and_in_pages(client: TestClient) -> None:
    first = client.get("/api/v1/studies", params={"limit": 2}).json()
    assert [study["study_instance_uid"] for study in first["items"]] == [RECEIVING, UNMATCHED]
    assert first["total"] == 3
    second = client.get(first["next"]).json()
    assert [study["study_instance_uid"] for study in second["items"]] == [ASSESSED]
    assert second["next"] is None


def test_lists_can_be_narrowed_by_state(client: TestClient) -> None:
    assert client.get("/api/v1/studies", params={"state": "receiving"}).json()["total"] == 1
    assert client.get("/api/v1/requests", params={"state": "failed"}).json()["total"] == 0
    assert client.get("/api/v1/results", params={"outcome": "assessed"}).json()["total"] == 1
    dead = client.get("/api/v1/deliveries", params={"state": "dead"}).json()
    assert [delivery["delivery_id"] for delivery in dead["items"]] == [DEAD]
    (alert,) = client.get("/api/v1/alerts").json()["items"]
    assert alert["entity"] == f"delivery:{DEAD}"


def test_the_timeline_says_why_ai_was_or_was_not_run(client: TestClient) -> None:
    run = client.get(f"/api/v1/studies/{ASSESSED}").json()
    assert run["explanation"] == [
        "revision 1: complete with 3 instances (association-released)",
        "revision 1: rule chest-ct matches, lung-density 1.0 was asked: assessed",
    ]
    assert run["timeline"]["requests"][0]["outcome"] == "assessed"
    assert [event["action"] for event in run["timeline"]["events"]] == [
        "study.received",
        "study.completed",
        "study.routed",
    ]
    not_run = client.get(f"/api/v1/studies/{UNMATCHED}").json()
    assert not_run["explanation"][1] == (
        "revision 1: rule chest-ct does not match, AI was not run: not true: x"
    )
    assert not_run["timeline"]["requests"] == []
    receiving = client.get(f"/api/v1/studies/{RECEIVING}").json()
    assert receiving["explanation"] == ["revision 1: still being received, 3 instances so far"]


def test_the_audit_log_is_read_on_from_where_one_was(client: TestClient) -> None:
    first = client.get("/api/v1/audit", params={"limit": 2}).json()
    assert first["last"] == 2
    rest = client.get("/api/v1/audit", params={"after": first["last"]}).json()
    assert [event["action"] for event in rest["items"]] == ["study.routed"]
    assert client.get("/api/v1/audit", params={"after": 3}).json() == {"items": [], "last": 3}


def test_models_are_listed_and_shown_whole(client: TestClient) -> None:
    card = model_card()
    assert client.get("/api/v1/models").json()[0]["id"] == card.id
    whole = client.get(f"/api/v1/models/{card.id}").json()
    assert whole["card"]["intended_use"]["purpose"] == card.intended_use.purpose


def test_no_answer_holds_the_patient(client: TestClient) -> None:
    paths = [
        "studies",
        f"studies/{ASSESSED}",
        "requests",
        "results",
        "deliveries",
        "alerts",
        "audit",
    ]
    everything = "".join(client.get(f"/api/v1/{path}").text for path in paths)
    everything += client.get("/metrics").text
    assert "CAIDX-4711" not in everything


def test_everything_is_in_the_openapi_document(client: TestClient) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    described = {f"{method.upper()} {path}" for path, of in paths.items() for method in of}
    there = {f"{method} {entry.path}" for entry in TABLE for method in entry.methods}
    assert described == {one for one in there if not one.endswith("/openapi.json")}


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/studies/9.9.9", 404),
        ("/api/v1/models/none", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/studies?limit=0", 400),
        ("/api/v1/studies?state=lost", 400),
        ("/api/v1/studies/DOE%5EJANE", 400),
    ],
)
def test_errors_are_problem_documents(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["type"] == "about:blank"


def test_a_value_that_was_refused_is_not_repeated_in_the_answer(client: TestClient) -> None:
    answer = client.get("/api/v1/deliveries", params={"limit": "DOE^JANE"}).json()
    assert answer["errors"][0]["field"] == "query.limit"
    assert "DOE" not in str(answer)


def test_a_database_that_is_away_asks_to_come_back_later(tmp_path: Path) -> None:
    client = client_of(open_database(sqlite_url(tmp_path / "not" / "there.sqlite")))
    answer = client.get("/api/v1/studies")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


def test_a_fault_tells_nothing_about_its_cause(client: TestClient, database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE requests SET reasons = 'DOE^JANE'"))
    answer = client.get("/api/v1/requests")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "DOE" not in answer.text


def test_nothing_can_be_written(client: TestClient) -> None:
    assert client.post("/api/v1/studies").status_code == 405
