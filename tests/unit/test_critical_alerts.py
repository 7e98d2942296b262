"""What is critical goes first; who gets alerts alone is never flooded; everybody else gets all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hub.domain.critical import CriticalRule
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Priority
from hub.domain.routing import RouteMode
from hub.ports import Job
from hub.registry import RunningDestination
from hub.store.schema import alerts, critical_alerts, deliveries, requests
from tests.fakes import FakeDestination
from tests.unit.test_pipeline import Bench, _finding, _route, make_bench

RULE = CriticalRule(finding="lungs", above=4000.0)
LIMIT = 2


def notice(
    request: InferenceRequest, result: InferenceResult, _card: object, _context: object, _: object
) -> Document:
    """Stands for the encoder of notices."""
    content = json.dumps({"event": "result", "findings": len(result.findings)}).encode()
    return Document(
        f"notice-{request.request_id}",
        DocumentKind.NOTICE,
        request.request_id,
        request.study.identity,
        content,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """As in the pipeline's tests, with a pager that gets alerts alone."""
    made = make_bench(tmp_path)
    pager = FakeDestination()
    made.destinations["pager"] = pager
    running = RunningDestination(
        pager,
        (DocumentKind.NOTICE,),
        made.pipeline.registry.destination("ehr").retry,
        2,
        critical_only=True,
    )
    registry = made.pipeline.registry
    destinations = {**registry.destinations, "pager": running}
    route = _route(deliver_to=("pacs", "ehr", "pager"), critical=(RULE,), alerts_per_hour=LIMIT)
    made.pipeline = replace(
        made.pipeline,
        registry=replace(registry, destinations=destinations),
        routes=(route,),
        encoders={**made.pipeline.encoders, DocumentKind.NOTICE: notice},
    )
    yield made
    made.store.close()
    made.pipeline.database.close()


def events(bench: Bench) -> list[str]:
    """What the pager got."""
    return [json.loads(d.content)["event"] for d in bench.destinations["pager"].delivered]


def harmless(request: InferenceRequest) -> InferenceResult:
    result = _finding(request)
    return replace(result, findings=(replace(result.findings[0], value=3999.0),))


def delivery_jobs(bench: Bench) -> list[Job]:
    return [job for job in bench.jobs.enqueued if job.kind == "delivery"]


def test_a_critical_finding_is_delivered_first_and_to_the_pager(bench: Bench) -> None:
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    assert {job.priority for job in delivery_jobs(bench)} == {int(Priority.STAT)}
    bench.finish()
    assert events(bench) == ["result"]
    assert bench.column(critical_alerts.c.state) == ["sent"]
    assert "critical.raised" in bench.actions()


def test_any_other_finding_is_delivered_as_ever_and_not_to_the_pager(bench: Bench) -> None:
    bench.adapter.answers = [harmless]
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    bench.run()
    assert {job.priority for job in delivery_jobs(bench)} == {int(Priority.ROUTINE)}
    bench.finish()
    assert events(bench) == []
    assert len(bench.destinations["ehr"].delivered) == 1
    assert bench.column(critical_alerts.c.state) == []


def test_the_models_own_rules_hold_where_the_route_has_none(bench: Bench) -> None:
    route = replace(bench.pipeline.routes[0], critical=None)
    running = bench.pipeline.registry.models["lung-density"]
    card = running.package.card
    card = replace(card, output=replace(card.output, critical=(RULE,)))
    running = replace(running, package=replace(running.package, card=card))
    registry = replace(bench.pipeline.registry, models={"lung-density": running})
    bench.pipeline = replace(bench.pipeline, routes=(route,), registry=registry)
    bench.receive()
    bench.finish()
    assert events(bench) == ["result"]


def test_too_many_escalate_once_and_the_reports_go_out_as_ever(bench: Bench) -> None:
    for seed in range(1, 6):
        bench.receive(seed=seed)
        bench.finish()
    assert events(bench) == ["result", "result", "escalation"]
    assert len(bench.destinations["ehr"].delivered) == 5
    assert len(bench.destinations["pacs"].delivered) == 5
    assert bench.column(alerts.c.kind) == ["critical.flood"]
    assert bench.column(requests.c.state) == ["done"] * 5
    said = json.loads(bench.destinations["pager"].delivered[-1].content)
    assert (said["route"], said["critical_in_last_hour"], said["alerts_per_hour"]) == (
        "chest",
        3,
        2,
    )
    assert "PHANTOM" not in json.dumps(said)


def test_an_hour_later_the_pager_is_alerted_again(bench: Bench) -> None:
    for seed in range(1, 5):
        bench.receive(seed=seed)
        bench.finish()
    bench.clock.advance(3600)
    bench.receive(seed=9)
    bench.finish()
    assert events(bench) == ["result", "result", "escalation", "result"]


def test_where_nobody_takes_notices_the_hub_alone_alerts(bench: Bench) -> None:
    registry = bench.pipeline.registry
    others = {name: d for name, d in registry.destinations.items() if name != "pager"}
    bench.pipeline = replace(bench.pipeline, registry=replace(registry, destinations=others))
    for seed in range(1, 5):
        bench.receive(seed=seed)
        bench.finish()
    assert events(bench) == []
    assert bench.column(alerts.c.kind).count("critical.flood") == 1
    assert len(bench.destinations["ehr"].delivered) == 4


def test_a_route_in_shadow_mode_alerts_nobody(bench: Bench) -> None:
    route = replace(bench.pipeline.routes[0], mode=RouteMode.SHADOW)
    bench.pipeline = replace(bench.pipeline, routes=(route,))
    bench.receive()
    bench.finish()
    assert bench.column(critical_alerts.c.state) == []
    assert bench.column(deliveries.c.state) == []
