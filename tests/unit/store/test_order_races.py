"""What comes while an order is being worked on, or after it was over: on SQLite and on
PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.order import Order, OrderState
from hub.domain.report import Person
from hub.domain.routing import RouteTrigger
from hub.store import observation_versions, studies
from hub.store.database import Database, migrate, open_database, sqlite_url
from hub.store.observation_versions import Told
from hub.store.order_rows import ORDER_JOB
from hub.store.quarantine import Quarantine
from hub.store.schema import alerts, requests
from hub.store.schema_orders import orders
from tests.unit.ordering import (
    ALT,
    AST,
    FakeRecord,
    OrderBench,
    lab_route,
    make_order_bench,
    order,
    value,
)
from tests.unit.test_fetching import phantom
from tests.unit.test_pipeline import _route

ON_ORDER = {"trigger": RouteTrigger.ORDER}
TWO = (value(AST, 40), value(ALT, 30))


@dataclass
class SlowRecord(FakeRecord):
    """Something happens while it is asked, once."""

    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def observations(
        self, patient: PatientIdentity, codes: Sequence[Code], not_before: datetime | None
    ) -> Sequence[Observation]:
        while self.meanwhile:
            self.meanwhile.pop()()
        return FakeRecord.observations(self, patient, codes, not_before)


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[OrderBench]:
    made = make_order_bench(tmp_path, database)
    made.record = SlowRecord()
    yield made
    made.bench.store.close()


def numbers(parts: OrderBench) -> list[list[float]]:
    """What each request was asked about."""
    asked = parts.bench.adapter.asked
    return [sorted(o.value or 0.0 for o in one.observations) for one in asked]


# --- values that are corrected -----------------------------------------------------------------


def test_a_correction_that_comes_while_the_values_are_gathered_is_not_lost(
    parts: OrderBench,
) -> None:
    parts.use(lab_route(**ON_ORDER))
    assert isinstance(parts.record, SlowRecord)
    corrected = value(AST, 400, status="corrected")
    parts.record.meanwhile = [lambda: parts.orders.observed([corrected], "late")]
    parts.orders.place(order(observations=TWO))
    parts.finish()
    assert numbers(parts) == [[30.0, 400.0]]
    assert parts.placed().state is OrderState.COMPLETED


def test_a_second_correction_is_not_lost_in_the_first(
    parts: OrderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.use(lab_route(**ON_ORDER))
    parts.orders.place(order(observations=TWO))
    parts.finish()
    parts.orders.observed([value(AST, 41, status="corrected")], "first")
    second = [value(AST, 42, status="corrected")]
    decide = type(parts.steps.steps).decide

    def decided(*arguments: object, **options: object) -> object:
        while second:
            parts.orders.observed([second.pop()], "second")
        return decide(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(parts.steps.steps), "decide", decided)
    parts.finish()
    assert numbers(parts)[-1] == [30.0, 42.0]
    assert parts.placed().state is OrderState.COMPLETED


def test_every_case_that_holds_a_corrected_value_is_made_again(parts: OrderBench) -> None:
    parts.use(lab_route(**ON_ORDER))
    for number in "ab":
        parts.orders.place(order(order_id=number * 32, observations=TWO))
    parts.finish()
    parts.orders.observed([value(AST, 400, status="corrected")], "bundle")
    parts.finish()
    assert numbers(parts) == [[30.0, 40.0]] * 2 + [[30.0, 400.0]] * 2
    assert len({one.study.study_instance_uid for one in parts.bench.adapter.asked}) == 2


def test_what_a_record_said_is_not_corrected_by_what_had_been_sent_before(
    parts: OrderBench,
) -> None:
    parts.use(lab_route(**ON_ORDER))
    parts.record.values = [value(AST, 44, source="ehr")]
    parts.orders.place(order(observations=TWO))
    parts.finish()
    parts.bench.clock.advance(1)
    parts.orders.observed([value(ALT, 31, status="corrected")], "bundle")
    parts.finish()
    parts.bench.clock.advance(1)
    parts.orders.observed([value(AST, 45, status="corrected")], "bundle")
    parts.finish()
    assert numbers(parts) == [[30.0, 44.0], [31.0, 44.0], [31.0, 45.0]]


def test_a_value_is_found_by_an_index_however_many_there_are(tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path / "plans.db"))
    migrate(database)
    told = replace(value(AST, 40), identifier=("urn:lab", "7"))
    later = replace(value(AST, 41), identifier=("urn:lab", "7"))
    plans: list[str] = []

    def explain(raw: sa.Connection, _c: object, text: str, values: object, *_: object) -> None:
        if text.startswith(("UPDATE", "SELECT")):
            asked = raw.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)  # type: ignore[arg-type]
            plans.extend(str(row[-1]) for row in asked)

    with database.write() as connection:
        sa.event.listen(connection, "before_cursor_execute", explain)
        for one in (told, later):
            at = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
            observation_versions.keep(connection, Told.of([one]), at)
    database.close()
    assert any("ix_observations_reference" in plan for plan in plans), plans
    assert any("ix_observations_identifier_sha256" in plan for plan in plans), plans
    assert not any("SCAN" in plan for plan in plans), plans


def test_values_are_found_by_their_identifiers(parts: OrderBench) -> None:
    old = replace(value(AST, 40, "Observation/1"), identifier=("urn:lab", "7"))
    new = replace(value(AST, 41, "Observation/2"), identifier=("urn:lab", "7"))
    other = replace(value(ALT, 30, "Observation/3"), identifier=("urn:other", "7"))
    parts.orders.observed([old, new, other], "bundle")

    def found(system: str) -> list[float | None]:
        by = parts.orders.observations(identifier=(system, "7"))
        return sorted((one.value for one in by), key=lambda v: v or 0)

    assert (found("urn:lab"), found("urn:other"), found("")) == ([41.0], [30.0], [30.0, 41.0])
    assert found("urn:no") == []


def test_orders_are_found_by_what_they_are_called_and_based_on(parts: OrderBench) -> None:
    called = json.dumps({"identifier": [{"system": "urn:ris", "value": "7|8"}, {"value": "A"}]})
    based_on = (
        json.dumps({"reference": "ServiceRequest/5"}),
        json.dumps({"identifier": {"system": "urn:orders", "value": "ü"}}),
    )
    for number in "abc":
        told = {"resource": called, "based_on": based_on} if number == "b" else {}
        parts.orders.place(order(order_id=number * 32, observations=TWO, **told))

    def found(**asked: object) -> str:
        return "".join(one.order.order_id[0] for one in parts.orders.search(**asked))  # type: ignore[arg-type]

    hits = ("urn:ris", "7|8"), ("", "7|8"), ("", "A"), ("urn:orders", "ü"), ("", "ü")
    misses = ("urn:ris", "7"), ("", "8"), ("urn:ris", "A"), ("urn:ris|7", "9"), ("", "")
    assert [found(identifier=one) for one in hits] == ["b"] * 5
    assert [found(identifier=one) for one in misses] == [""] * 5
    for name in ("ServiceRequest/5", "urn:orders|ü", "urn:ris|7|8", "|A"):
        assert found(based_on=name) == "b", name
    for name in ("ServiceRequest/55", "ServiceRequest", "ü"):
        assert found(based_on=name) == "", name


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"identifier": ("urn:ris", "7")}, "ix_order_names_name_sha256"),
        ({"identifier": ("", "7")}, "ix_order_names_value_sha256"),
        ({"based_on": "ServiceRequest/5"}, "ix_order_names_name_sha256"),
        ({"patient": PatientIdentity("P-1")}, "ix_orders_patient_id"),
    ],
)
def test_orders_are_found_by_an_index_however_many_there_are(
    parts: OrderBench, asked: dict[str, object], index: str
) -> None:
    engine = parts.bench.pipeline.database.engine
    is_sqlite = engine.dialect.name == "sqlite"
    plans: list[str] = []

    def explain(raw: sa.Connection, _c: object, text: str, values: object, *_: object) -> None:
        if text.startswith("SELECT"):
            if not is_sqlite:  # a table that is empty is read as a whole
                raw.exec_driver_sql("SET LOCAL enable_seqscan = off")
            words = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
            told = raw.exec_driver_sql(f"{words} {text}", values)  # type: ignore[arg-type]
            plans.extend(str(row[-1]) for row in told)

    sa.event.listen(engine, "before_cursor_execute", explain)
    parts.orders.search(**asked)  # type: ignore[arg-type]
    sa.event.remove(engine, "before_cursor_execute", explain)
    assert any(index in plan for plan in plans), plans
    assert not any("SCAN" in plan or "Seq Scan" in plan for plan in plans), plans


# --- orders that are over ----------------------------------------------------------------------


def test_late_images_are_not_for_an_order_that_was_taken_back_before_it_began(
    parts: OrderBench,
) -> None:
    parts.use(_route(**ON_ORDER))
    uid, files = phantom(3)
    parts.bench.send(files[:2])
    parts.bench.clock.advance(2)
    parts.finish()
    parts.orders.place(order(uid, patient=parts.study(uid).patient))
    parts.look()
    parts.orders.cancel("a" * 32, "")
    parts.bench.send(files[2:])
    parts.bench.clock.advance(2)
    parts.finish()
    assert parts.bench.adapter.asked == []


def test_late_images_amend_a_report_after_the_deadline_of_its_order(parts: OrderBench) -> None:
    parts.use(_route(**ON_ORDER))
    uid, files = phantom(3)
    parts.bench.send(files[:2])
    parts.bench.clock.advance(2)
    parts.finish()
    deadline = parts.bench.clock.now() + timedelta(minutes=1)
    parts.orders.place(order(uid, patient=parts.study(uid).patient, deadline=deadline))
    parts.finish()
    parts.bench.clock.advance(100)
    parts.bench.send(files[2:])
    parts.bench.clock.advance(2)
    parts.finish()
    assert [r.study.key.revision for r in parts.bench.adapter.asked] == [1, 2]
    assert parts.placed().state is OrderState.COMPLETED
    assert parts.bench.column(alerts.c.kind) == []


def test_a_correction_amends_a_report_after_the_deadline_of_its_order(parts: OrderBench) -> None:
    parts.use(lab_route(**ON_ORDER))
    deadline = parts.bench.clock.now() + timedelta(minutes=1)
    parts.orders.place(order(observations=TWO, deadline=deadline))
    parts.finish()
    parts.bench.clock.advance(100)
    parts.orders.observed([value(AST, 400, status="corrected")], "bundle")
    parts.finish()
    assert numbers(parts) == [[30.0, 40.0], [30.0, 400.0]]
    assert parts.placed().state is OrderState.COMPLETED


@pytest.mark.parametrize("released", [True, False])
def test_what_a_person_decides_about_a_result_is_put_on_record_for_its_order(
    parts: OrderBench, *, released: bool
) -> None:
    pipeline = parts.bench.pipeline
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    parts.orders.place(order(uid, patient=parts.study(uid).patient))
    parts.look()
    with pipeline.database.write() as connection:
        content = replace(parts.placed().order, patient=PatientIdentity("SOMEBODY-ELSE"))
        kept = TypeAdapter(Order).dump_python(content, mode="json")
        connection.execute(sa.update(orders).values(content=kept))
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["quarantined"]
    (request_id,) = parts.bench.column(requests.c.request_id)
    quarantine = Quarantine(
        pipeline.database, pipeline.documents, parts.bench.jobs, pipeline.journal
    )
    person = Person("Anna")
    decide = quarantine.release if released else quarantine.discard
    decide(str(request_id), person, "seen")
    state = OrderState.COMPLETED if released else OrderState.FAILED
    assert parts.bench.column(orders.c.state) == [state.value]


# --- models that are not there ------------------------------------------------------------------


def test_nobody_says_of_a_model_that_cannot_be_read_that_it_reads_nothing(
    parts: OrderBench,
) -> None:
    pipeline = parts.bench.pipeline
    registry = replace(pipeline.registry, models={}, broken_models={"lab-score": "no memory"})
    parts.bench.pipeline = replace(pipeline, registry=registry)
    parts.use(lab_route())
    parts.orders.place(order(observations=TWO))
    parts.orders.observed([value(AST, 41, "Observation/9")], "bundle")
    parts.finish()
    assert parts.placed().state is OrderState.FAILED
    assert "no memory" in parts.placed().reasons[0]
    assert set(parts.bench.column(orders.c.state)) == {OrderState.FAILED.value}
    assert set(parts.bench.column(alerts.c.kind)) == {"route.error"}


def test_a_study_that_is_asked_about_again_meanwhile_keeps_its_order_waiting(
    parts: OrderBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.use(_route(**ON_ORDER))
    uid = parts.bench.receive()
    parts.finish()
    parts.orders.place(order(uid, patient=parts.study(uid).patient))
    told = iter([studies.ROUTED, studies.COMPLETE])
    monkeypatch.setattr(studies, "state_of", lambda *_: next(told))
    parts.look()
    assert parts.placed().state is OrderState.WAITING
    assert [j.kind for j in parts.bench.jobs.enqueued] == [ORDER_JOB], "it is looked at again"
