"""The one door: every route of the real application, with no key, each wrong one, and the right
one; what is in no table is closed."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from httpx import Response
from starlette.routing import Mount

from hub.domain.access import Principal, Scope
from hub.errors import TransientError
from hub.ports import HttpEndpoint
from hub.registry import discover
from hub.store.api_keys import ApiKey, KeyState
from hub.store.database import Database
from hub.web.app import create_app
from hub.web.door import TABLE, Proof
from hub.web.refusals import Refusal, Refusals
from tests.contracts.recording import RecordingIntake
from tests.dicomweb_server import MemoryHoldings
from tests.fhir_source import MemoryOrders, MemoryReports
from tests.unit.seeded import seeded_database
from tests.unit.web.keys import KnownKeys, api_key, behind_the_door, keys_of_all_scopes
from tests.unit.web.test_app import context_over

READERS, MODELS = "auditor operator", "auditor operator vendor"
OPENED_BY: Mapping[str, str] = {
    "GET /health/live": "nothing",
    "GET /health/ready": "nothing",
    "GET /metrics": READERS,
    "GET /api/openapi.json": "auditor operator system vendor",
    "HEAD /api/openapi.json": "auditor operator system vendor",
    "GET /api/v1/studies": READERS,
    "GET /api/v1/studies/{study_instance_uid}": READERS,
    "GET /api/v1/requests": MODELS,
    "GET /api/v1/requests/{request_id}/dicom-web/studies/{study}": "retrieval-token",
    "GET /api/v1/requests/{request_id}/dicom-web/studies/{study}/series/{series}": (
        "retrieval-token"
    ),
    "GET /api/v1/requests/{request_id}/dicom-web/studies/{study}/series/{series}"
    "/instances/{instance}": "retrieval-token",
    "POST /api/v1/callbacks/{request_id}": "signature",
    "GET /api/v1/results": MODELS,
    "GET /api/v1/results/{request_id}": READERS,
    "POST /api/v1/results/{request_id}/assessments": "operator",
    "GET /api/v1/deliveries": READERS,
    "GET /api/v1/alerts": READERS,
    "GET /api/v1/audit": READERS,
    "GET /api/v1/models": MODELS,
    "GET /api/v1/models/{model_id}": MODELS,
    "POST /api/v1/models": "operator vendor",
    "POST /api/v1/models/{model_id}/activate": "operator",
    "POST /api/v1/models/{model_id}/suspend": "operator vendor",
    "POST /api/v1/models/{model_id}/retire": "operator vendor",
}
"""What opens each route: written a second time, so that nobody opens one by a slip."""
MOUNTED = "system"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BELOW = ("", "/", "/studies", "/metadata", "/studies/1.2/series", "/DiagnosticReport?patient=1")
SAMPLES = {"study_instance_uid": "1.2.3", "study": "1.2.3", "series": "1.2.4", "instance": "1.2.5"}
SIGNED = {"webhook-id": "m1", "webhook-timestamp": "1", "webhook-signature": "v1,AA=="}
TOKEN = {"Authorization": "Bearer r.abc"}


@dataclass
class Building:
    """The application behind the door, and what came through."""

    application: FastAPI
    endpoints: Sequence[HttpEndpoint]
    keys: KnownKeys = field(default_factory=keys_of_all_scopes)
    refusals: Refusals = field(default_factory=Refusals)
    entered: list[Principal | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def inside(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.entered.append(scope["state"]["principal"])
            await self.application(scope, receive, send)

        door = behind_the_door(inside, self.endpoints, self.keys, self.refusals)
        self.client = TestClient(door, raise_server_exceptions=False)

    def ask(self, method: str, path: str, **headers: str) -> tuple[Response, bool]:
        """The answer, and whether the application was asked."""
        before = len(self.entered)
        answer = self.client.request(method, path, headers=headers, follow_redirects=False)
        return answer, len(self.entered) > before

    def routes(self) -> Iterator[tuple[str, str, str]]:
        """(method, path, what should open it) of every route that there is."""
        for route in iter_route_contexts(self.application.routes):
            if isinstance(route.route, Mount):
                for below in BELOW:
                    yield from ((m, f"{route.path}{below}", MOUNTED) for m in METHODS)
                continue
            for method in route.methods or ():
                opened_by = OPENED_BY.get(f"{method} {route.path}", "")
                yield method, re.sub(r"\{(\w+)\}", _sample, route.path or ""), opened_by


def _sample(found: re.Match[str]) -> str:
    return SAMPLES.get(found[1], "a" * 32)


@pytest.fixture
def building(tmp_path: Path) -> Iterator[Building]:
    database = seeded_database(tmp_path)
    endpoints = list(_endpoints())
    yield Building(create_app(context_over(database), endpoints), endpoints)
    database.close()


def _endpoints() -> Iterator[HttpEndpoint]:
    """Every installed source that is part of the HTTP server."""
    intake = RecordingIntake()
    for kind, connector in discover().connectors.items():
        if connector.build_endpoint is not None and connector.source_config is not None:
            context = replace(intake.context(kind), orders=MemoryOrders(), reports=MemoryReports())
            options = connector.source_config()
            yield connector.build_endpoint(options, context, MemoryHoldings(intake))


def bearer(scope: Scope) -> dict[str, str]:
    return {"Authorization": f"Bearer {scope.value}"}


# --- every route -----------------------------------------------------------------------------


def test_every_route_is_known_here_and_in_the_table(building: Building) -> None:
    routes = list(building.routes())
    assert len(routes) > len(OPENED_BY), "the routes of the application are found, mounts too"
    assert [f"{method} {path}" for method, path, opened_by in routes if not opened_by] == []
    there = {f"{method} {entry.path}" for entry in TABLE for method in entry.methods}
    assert there == set(OPENED_BY)


def test_without_a_key_every_route_but_health_is_closed(building: Building) -> None:
    wrong = []
    for method, path, opened_by in building.routes():
        answer, entered = building.ask(method, path)
        if opened_by == "nothing":
            assert entered
            assert answer.status_code == 200
        elif answer.status_code != 401 or entered:
            wrong.append((method, path, answer.status_code))
        else:
            assert answer.headers["www-authenticate"] == 'Bearer realm="caidx"'
    assert wrong == []


@pytest.mark.parametrize("scope", Scope)
def test_every_route_with_a_key_of_each_scope(building: Building, scope: Scope) -> None:
    wrong = []
    for method, path, opened_by in building.routes():
        if opened_by in {"nothing", "signature", "retrieval-token"}:
            continue
        answer, entered = building.ask(method, path, **bearer(scope))
        if scope.value in opened_by.split():
            is_right = entered and answer.status_code not in {401, 403}
        else:
            is_right = not entered and answer.status_code == 403
        if not is_right:
            wrong.append((method, path, answer.status_code))
    assert wrong == []


def test_what_has_a_proof_of_its_own_is_not_opened_by_a_key(building: Building) -> None:
    proofs = {"signature": SIGNED, "retrieval-token": TOKEN}
    found = [route for route in building.routes() if route[2] in proofs]
    assert found
    for method, path, opened_by in found:
        for scope in Scope:
            answer, entered = building.ask(method, path, **bearer(scope))
            assert (answer.status_code, entered) == (401, False)
        assert building.ask(method, path, **proofs[opened_by])[1], "the handler checks it"
        assert building.entered[-1] is None
        for name in SIGNED:
            if opened_by == "signature":
                rest = {other: value for other, value in SIGNED.items() if other != name}
                assert building.ask(method, path, **rest)[0].status_code == 401


def test_a_route_without_an_entry_is_closed_to_everybody(building: Building) -> None:
    building.application.get("/api/v1/studies/{uid}/new")(lambda: {"secret": 1})
    building.application.get("/new")(lambda: {"secret": 1})
    for path in ("/api/v1/studies/1.2/new", "/new"):
        assert ("GET", re.sub("1.2", "a" * 32, path), "") in building.routes()
        assert building.ask("GET", path)[0].status_code == 401
        for scope in Scope:
            answer, entered = building.ask("GET", path, **bearer(scope))
            assert (answer.status_code, entered) == (404, False)


@pytest.mark.parametrize(
    "path",
    [
        "/health/live/",
        "/health/live%0a",
        "/health/live%2F..%2F..%2Fmetrics",
        "//api/v1/audit",
        "/api/v1/audit/",
        "/API/v1/audit",
        "/health/../api/v1/audit",
        "/health/ready;/api/v1/audit",
        "/dicom-web%2Fstudies",
        "/docs",
        "/",
    ],
)
def test_other_ways_to_write_a_path_do_not_lead_around_the_door(
    building: Building, path: str
) -> None:
    answer, entered = building.ask("GET", path)
    assert (answer.status_code, entered) == (401, False)
    assert not building.ask("GET", path, **bearer(Scope.VENDOR))[1]


def test_what_is_mounted_answers_at_its_own_path_too(building: Building) -> None:
    """FHIR posts transactions to the base URL, without a slash: a redirect would lose them."""
    for endpoint in building.endpoints:
        for path in (endpoint.path, f"{endpoint.path}/"):
            answer, entered = building.ask("POST", path, **bearer(Scope.SYSTEM))
            assert entered
            assert answer.status_code not in {307, 308}
            assert "location" not in answer.headers
    answer, _ = building.ask("POST", "/fhir", **bearer(Scope.SYSTEM))
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_a_method_that_a_route_does_not_have_is_not_let_in(building: Building) -> None:
    answer, entered = building.ask("DELETE", "/api/v1/studies", **bearer(Scope.OPERATOR))
    assert (answer.status_code, entered) == (405, False)
    assert answer.headers["allow"] == "GET"


# --- who comes in ----------------------------------------------------------------------------


def test_the_application_is_told_who_asks(building: Building) -> None:
    building.ask("GET", "/api/v1/models", **bearer(Scope.VENDOR))
    (principal,) = building.entered
    assert principal is not None
    assert (principal.scope, principal.actor) == (Scope.VENDOR, "key:test-vendor")


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer operator", 200),
        ("bearer operator", 200),
        ("BEARER  operator ", 200),
        (f"Basic {base64.b64encode(b'anybody:operator').decode()}", 200),
        (f"basic {base64.b64encode(b':operator').decode()}", 200),
        (f"Basic {base64.b64encode(b'operator').decode()}", 401),
        (f"Basic {base64.b64encode(b'operator:').decode()}", 401),
        ("Basic operator", 401),
        ("Basic ÄÄ==", 401),
        (f"Basic {base64.b64encode(bytes([0xFF, 0x3A]) + b'operator').decode()}", 401),
        ("operator", 401),
        ("Digest operator", 401),
        ("Bearer", 401),
        ("Bearer operator x", 401),
        ("Bearer " + "x" * 5000, 401),
        ("", 401),
    ],
)
def test_the_forms_of_a_key(building: Building, authorization: str, status: int) -> None:
    headers = {"Authorization": authorization.encode("latin-1")}
    assert building.client.get("/api/v1/studies", headers=headers).status_code == status


def test_of_two_keys_none_counts(building: Building) -> None:
    headers = [("Authorization", "Bearer operator"), ("Authorization", "Bearer operator")]
    assert building.client.get("/api/v1/studies", headers=headers).status_code == 401


def test_a_key_is_taken_from_nowhere_else(building: Building) -> None:
    for headers in ({"X-API-Key": "operator"}, {"Cookie": "key=operator"}):
        assert building.client.get("/api/v1/studies", headers=headers).status_code == 401
    assert building.client.get("/api/v1/studies?access_token=operator").status_code == 401


@pytest.mark.parametrize("state", [KeyState.EXPIRED, KeyState.REVOKED])
def test_a_key_that_is_over_opens_nothing_and_is_noted(building: Building, state: KeyState) -> None:
    building = replace(building, keys=KnownKeys([("old", api_key(Scope.OPERATOR, state=state))]))
    answer, entered = building.ask("GET", "/api/v1/studies", Authorization="Bearer old")
    assert (answer.status_code, entered) == (401, False)
    assert answer.json()["detail"] == f"the key is {state}"
    assert building.keys.noted == [("test-operator", f"{state}-key", "GET /api/v1/studies")]


def test_a_wrong_scope_is_noted_without_the_values_in_the_path(building: Building) -> None:
    building.ask("GET", "/api/v1/studies/1.2.3.4711", **bearer(Scope.SYSTEM))
    place = "GET /api/v1/studies/{study_instance_uid}"
    assert building.keys.noted == [("test-system", "wrong-scope", place)]
    assert building.refusals.counts[Refusal.WRONG_SCOPE] == 1


def test_a_database_that_is_away_is_told_and_is_no_wrong_key(building: Building) -> None:
    class Away(KnownKeys):
        async def key_of(self, text: str) -> ApiKey | None:
            raise TransientError("database: OperationalError")

    building = replace(building, keys=Away([]))
    answer, _ = building.ask("GET", "/api/v1/studies", **bearer(Scope.OPERATOR))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert building.ask("GET", "/api/v1/studies")[0].status_code == 401, "nobody was asked"
    for path in ("/health/live", "/health/ready"):
        assert building.ask("GET", path, **bearer(Scope.OPERATOR))[1]
    assert set(building.refusals.counts.values()) == {0, 1}


# --- how it is told --------------------------------------------------------------------------


def test_a_refusal_is_told_in_the_protocol_of_the_path() -> None:
    def outcome(status: int, detail: str, path: str) -> tuple[str, bytes]:
        return "application/fhir+json", f"{status} {detail} {path}".encode()

    endpoint = HttpEndpoint("/fhir", None, refuse=outcome)
    client = TestClient(behind_the_door(_nobody, [endpoint]))
    answer = client.get("/fhir/Task")
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.text.startswith("401 a key is needed")
    answer = client.get("/fhir/Task", headers=bearer(Scope.AUDITOR))
    text = "403 a key of scope auditor does not open this; one of system does /fhir/Task"
    assert answer.text == text
    answer = client.head("/fhir/Task")
    assert (answer.status_code, answer.content) == (401, b"")


async def _nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("it was let in")


def test_dicomweb_refuses_as_problem_details(building: Building) -> None:
    answer, _ = building.ask("POST", "/dicom-web/studies")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "a key is needed: `Authorization: Bearer caidx_...`, or Basic with the key as "
        "password",
        "instance": "/dicom-web/studies",
    }


def test_refusals_are_counted_by_reason_and_shown_in_the_metrics(tmp_path: Path) -> None:
    database = seeded_database(tmp_path)
    context = context_over(database)
    building = Building(create_app(context), (), refusals=context.refusals)
    building.ask("GET", "/metrics")
    building.ask("GET", "/metrics")
    building.ask("GET", "/metrics", **bearer(Scope.SYSTEM))
    text = building.ask("GET", "/metrics", **bearer(Scope.AUDITOR))[0].text
    assert 'caidx_http_refused_total{reason="no-key"} 2.0' in text
    assert 'caidx_http_refused_total{reason="wrong-scope"} 1.0' in text
    assert 'caidx_http_refused_total{reason="wrong-key"} 0.0' in text
    database.close()


def test_a_flood_of_refusals_is_one_line_of_the_log_in_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    for _ in range(1000):
        refusals.count(Refusal.NO_KEY, "10.0.0.1")
    refusals.count(Refusal.WRONG_KEY, "10.0.0.1")
    now[0] = 61.0
    refusals.count(Refusal.NO_KEY, "10.0.0.1")
    lines = [line for line in capsys.readouterr().out.splitlines() if "request refused" in line]
    assert len(lines) == 3
    assert "requests" in lines[-1]
    assert "1000" in lines[-1]
    assert refusals.counts["no-key"] == 1001


# --- vendors -----------------------------------------------------------------------------------


def test_details_of_health_are_for_those_who_run_the_hub(building: Building) -> None:
    for headers in ({}, bearer(Scope.SYSTEM), bearer(Scope.VENDOR)):
        answer, _ = building.ask("GET", "/health/ready", **headers)
        assert answer.json() == {"status": "ready"}
    for scope in (Scope.OPERATOR, Scope.AUDITOR):
        assert len(building.ask("GET", "/health/ready", **bearer(scope))[0].json()["checks"]) == 4


@pytest.mark.parametrize(("vendor", "count"), [("Beispiel Medizintechnik GmbH", 1), ("Other", 0)])
def test_a_vendor_sees_its_own_models_and_what_they_were_asked(
    tmp_path: Path, vendor: str, count: int
) -> None:
    database = seeded_database(tmp_path)
    context = context_over(database, sha256=_asked_sha256(database))
    building = Building(create_app(context), (), keys_of_all_scopes(vendor))
    model_id = context.models[0].key.model_id

    def seen(path: str) -> Any:
        return building.ask("GET", f"/api/v1/{path}", **bearer(Scope.VENDOR))[0]

    assert len(seen("models").json()) == count
    assert seen(f"models/{model_id}").status_code == (200 if count else 404)
    for path in ("requests", "results"):
        page = seen(path).json()
        assert (len(page["items"]), page["total"]) == (count, count)
        everything = building.ask("GET", f"/api/v1/{path}", **bearer(Scope.AUDITOR))[0].json()
        assert everything["total"] == 1
    database.close()


def _asked_sha256(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("SELECT model_sha256 FROM requests").scalar_one())


def test_every_entry_says_what_opens_it() -> None:
    for entry in TABLE:
        scopes = {scope for of_method in entry.methods.values() for scope in of_method}
        assert bool(scopes) == (entry.proof is Proof.KEY), entry.path
