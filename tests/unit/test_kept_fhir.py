"""The report as FHIR that is kept to be read from the hub, whoever else gets what."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from hub.bootstrap.worker import Worker
from hub.domain.assessment import Decision
from hub.domain.delivery import DocumentKind
from hub.domain.order import OrderState
from hub.domain.report import Person, ReportCause
from hub.domain.routing import RouteMode
from hub.errors import RejectedError, UnsuitableError
from hub.order_values import OrderValues
from hub.registry import RunningModel
from hub.store import report_versions
from hub.store.order_rows import ORDER_JOB
from hub.store.retention import StudyKeeper
from hub.store.schema import deliveries, documents, requests
from hub.store.schema_orders import fhir_resources
from tests.unit.ordering import make_order_bench, order
from tests.unit.test_pipeline import Bench, _route, make_bench

FHIR = DocumentKind.FHIR.value


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    made.pipeline = replace(made.pipeline, shows_reports=True)
    yield made
    made.store.close()
    made.pipeline.database.close()


def use(bench: Bench, **fields: object) -> None:
    bench.pipeline = replace(bench.pipeline, routes=(_route(**fields),))


def kept(bench: Bench) -> list[tuple[int, dict[str, object]]]:
    """(version, Bundle) of each kept document, in their order."""
    columns = (documents.c.version, documents.c.sha256)
    query = sa.select(*columns).where(documents.c.kind == FHIR).order_by(documents.c.version)
    with bench.pipeline.database.read() as connection:
        rows = connection.execute(query).all()
    return [(version, json.loads(bench.pipeline.documents.get(sha))) for version, sha in rows]


def shown(bench: Bench) -> set[tuple[str, str]]:
    """Type and id of the resources that are found by them."""
    columns = (fhir_resources.c.resource_type, fhir_resources.c.resource_id)
    with bench.pipeline.database.read() as connection:
        return {(one, other) for one, other in connection.execute(sa.select(*columns))}


def test_a_report_is_kept_as_fhir_though_no_destination_gets_it_so(bench: Bench) -> None:
    use(bench, deliver_to=("pacs",))
    bench.receive()
    bench.finish()
    ((version, bundle),) = kept(bench)
    assert (version, bundle["resourceType"]) == (1, "Bundle")
    assert {resource for resource, _ in shown(bench)} >= {"DiagnosticReport", "Observation"}
    assert bench.column(deliveries.c.kind) == [DocumentKind.PDF.value], "and is sent to nobody"


def test_it_is_made_once_for_those_who_get_it_and_those_who_read_it(bench: Bench) -> None:
    bench.receive()
    bench.finish()
    assert len(kept(bench)) == 1
    (sent,) = bench.destinations["ehr"].delivered
    assert json.loads(sent.content) == kept(bench)[0][1]


def test_without_anybody_who_reads_reports_none_is_kept(bench: Bench) -> None:
    bench.pipeline = replace(bench.pipeline, shows_reports=False)
    use(bench, deliver_to=("pacs",))
    bench.receive()
    bench.finish()
    assert (kept(bench), shown(bench)) == ([], set())
    assert DocumentKind.FHIR in bench.pipeline.encoders_in_use, "the other destination's"


def test_a_route_in_shadow_mode_shows_nothing(bench: Bench) -> None:
    use(bench, mode=RouteMode.SHADOW)
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]
    assert (kept(bench), shown(bench)) == ([], set())


@pytest.mark.parametrize("cause", [ReportCause.ACCEPTED, ReportCause.REJECTED])
def test_every_version_is_kept(bench: Bench, cause: ReportCause) -> None:
    use(bench, deliver_to=("pacs",))
    bench.receive()
    bench.finish()
    (request_id,) = bench.column(requests.c.request_id)
    pipeline = bench.pipeline
    decision = Decision(cause, person=Person("Anna"), reason="seen")
    pipeline.corrections.ledger.decide(str(request_id), decision)
    bench.finish()
    assert [version for version, _ in kept(bench)] == [1, 2]
    with pipeline.database.read() as connection:
        states = [v.state for v in report_versions.versions_of(connection, str(request_id))]
    assert states == ["made", "made"]


def test_a_failure_is_shown_too(bench: Bench) -> None:
    use(bench, deliver_to=("pacs",))
    bench.adapter.answers = [RejectedError("broken")]
    bench.receive()
    bench.finish()
    assert len(kept(bench)) == 1


def test_a_report_that_is_only_read_keeps_no_study_from_being_deleted(bench: Bench) -> None:
    use(bench, deliver_to=())
    bench.adapter.answers = [UnsuitableError(("too few slices",))]
    uid = bench.receive()
    bench.finish()
    assert len(kept(bench)) == 1
    pipeline = bench.pipeline
    keeper = StudyKeeper(pipeline.database, pipeline.documents, pipeline.journal)
    assert keeper.purge_by_hand(uid, "test", force=False).documents == 3


def test_a_look_at_an_order_finds_the_model_that_was_just_activated(tmp_path: Path) -> None:
    parts = make_order_bench(tmp_path)
    uid = parts.bench.receive()
    parts.finish()
    pipeline = parts.bench.pipeline
    models = dict(pipeline.registry.models)
    running: dict[str, RunningModel] = {}
    registry = replace(pipeline.registry, models=running, look=lambda: running.update(models))
    pipeline = replace(pipeline, registry=registry, routes=(_route(name="late"),))
    parts.bench.pipeline = pipeline
    worker = Worker(
        **{name: Mock() for name in ("hub", "life", "takeover", "engine", "jobs", "adapters")},
        **{name: Mock() for name in ("housekeeper", "archives", "images")},
        pipeline=pipeline,
        order_values=OrderValues(pipeline.database),
        _stopping=threading.Event(),
    )
    parts.orders.place(order(uid, patient=parts.study(uid).patient))
    (job,) = parts.bench.jobs.enqueued
    worker._order_jobs()[ORDER_JOB](job.argument)
    assert parts.placed().state is OrderState.IN_PROGRESS
    parts.bench.store.close()
    pipeline.database.close()
