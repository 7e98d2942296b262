"""Cases of measured values: what people see of them, and their deletion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.order import OrderState
from hub.domain.routing import RouteTrigger
from hub.errors import RejectedError
from hub.store import audit, forgetting
from hub.store.database import Database
from hub.store.overview import list_studies, study_timeline
from hub.store.retention import RetentionPolicy, StudyKeeper
from hub.store.schema import studies
from hub.store.schema_orders import case_observations, observations, orders
from tests.unit.ordering import (
    ALT,
    AST,
    PATIENT,
    OrderBench,
    lab_route,
    make_order_bench,
    order,
    value,
)
from tests.unit.store.test_retention import DAY, POLICY, Site

BOTH = (value(AST, 40), value(ALT, 30))


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[OrderBench]:
    made = make_order_bench(tmp_path, database)
    made.use(lab_route(trigger=RouteTrigger.ORDER))
    yield made
    made.bench.store.close()


def case(parts: OrderBench) -> str:
    """A case that was reported; its UID."""
    placed = parts.orders.place(order(observations=BOTH, resource='{"name": "Doe"}'))
    parts.finish()
    assert parts.placed().state is OrderState.COMPLETED
    return placed.order.study_instance_uid


def test_a_case_is_shown_by_codes_and_ages_and_not_by_whose_it_is(parts: OrderBench) -> None:
    uid = case(parts)
    timeline = study_timeline(parts.bench.pipeline.database, uid)
    assert timeline is not None
    told = {(row.code, row.value, row.unit, row.age_days) for row in timeline.values}
    assert told == {("1920-8", 40.0, "U/L", 0.8), ("1742-6", 30.0, "U/L", 0.8)}
    assert timeline.explanation[0] == "revision 1: complete with 2 measured values (ordered-values)"
    assert "lab-score 1.0.0 was asked: assessed" in timeline.explanation[1]
    assert PATIENT.patient_id not in repr(timeline)
    assert [row.state for row in list_studies(parts.bench.pipeline.database).items] == ["routed"]


def test_values_go_in_their_time_and_the_order_with_the_results(parts: OrderBench) -> None:
    uid = case(parts)
    site = Site(parts.bench)
    parts.bench.clock.advance(10 * DAY - 1)
    site.housekeeper().turn()
    assert column(parts, case_observations.c.purged_at) == [None]
    parts.bench.clock.advance(1)
    site.housekeeper().turn()
    assert column(parts, case_observations.c.purged_at) == [parts.bench.clock.now()]
    assert column(parts, case_observations.c["values"]) == [[]]
    assert column(parts, case_observations.c.patient) == [{}]
    assert column(parts, studies.c.purged_at) == [parts.bench.clock.now()]
    assert column(parts, orders.c.order_id) == ["a" * 32]
    with pytest.raises(RejectedError, match="the values of this case were deleted"):
        parts.study(uid)

    parts.bench.clock.advance(10 * DAY)
    site.housekeeper().turn()
    assert column(parts, orders.c.order_id) == []
    parts.bench.clock.advance(DAY)
    site.housekeeper().turn()
    assert column(parts, observations.c.observation_id) == [], "what the source sent, too"
    purges = site.purges()
    assert [(p["values"], p["orders"]) for p in purges] == [(2, 0), (0, 1)]


def test_a_hold_keeps_the_values_of_a_case(parts: OrderBench) -> None:
    uid = case(parts)
    site = Site(parts.bench)
    site.keeper.hold(uid, "a lawsuit")
    parts.bench.clock.advance(100 * DAY)
    site.housekeeper().turn()
    assert column(parts, case_observations.c.purged_at) == [None]
    assert column(parts, orders.c.order_id) == ["a" * 32]


def test_a_person_deletes_a_case(parts: OrderBench) -> None:
    uid = case(parts)
    pipeline = parts.bench.pipeline
    keeper = StudyKeeper(pipeline.database, pipeline.documents, pipeline.journal)
    purged = keeper.purge_by_hand(uid, "asked for", force=False)
    assert (purged.values, purged.orders, purged.documents > 0) == (2, 1, True)
    assert column(parts, case_observations.c["values"]) == [[]]
    assert audit.verify(pipeline.database)[1] is None


def test_a_study_that_an_order_waits_for_is_kept(parts: OrderBench) -> None:
    uid = case(parts)
    with parts.bench.pipeline.database.write() as connection:
        connection.execute(sa.update(orders).values(state="waiting"))
    keeper = Site(parts.bench).keeper
    with pytest.raises(RejectedError, match="an order waits for it"):
        keeper.purge_by_hand(uid, "asked for", force=True)


def test_a_full_disk_does_not_cost_values(parts: OrderBench) -> None:
    case(parts)
    site = Site(parts.bench)
    parts.bench.clock.advance(2 * DAY)
    site.housekeeper(RetentionPolicy(POLICY.general, minimum_free_bytes=1 << 40)).turn()
    assert column(parts, case_observations.c.purged_at) == [None]


def test_orders_that_came_to_nothing_are_forgotten(parts: OrderBench) -> None:
    parts.orders.place(order("1.2.3", route="lab"))
    parts.finish()
    before = parts.bench.clock.now() + timedelta(seconds=1)
    with parts.bench.pipeline.database.write() as connection:
        forgetting.forget_orders(connection, before)
    assert column(parts, orders.c.state) == ["waiting"], "somebody may still wait for it"
    parts.orders.cancel("a" * 32, "")
    with parts.bench.pipeline.database.write() as connection:
        forgetting.forget_orders(connection, before)
    assert column(parts, orders.c.order_id) == []


def column(parts: OrderBench, of: sa.Column[object]) -> list[object]:
    return parts.bench.column(of)
