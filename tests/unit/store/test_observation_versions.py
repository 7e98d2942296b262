"""The values of a message are recorded all at once, and mean what they mean one by one: on SQLite
and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.routing import RouteTrigger
from hub.errors import RejectedError, TransientError
from hub.store import database as database_module
from hub.store import observation_versions
from hub.store.database import Database, insert_new, migrate, open_database
from hub.store.journal import Journal
from hub.store.observation_versions import Told
from hub.store.observations import digest_of
from hub.store.order_rows import look_of
from hub.store.orders import StoredOrders
from hub.store.schema_orders import observations
from tests.fakes import FrozenClock, RecordingJobs
from tests.unit.ordering import AST, lab_route, make_order_bench, order, value

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 3_000
Keep = Callable[[sa.Connection, Sequence[Observation], datetime], list[Observation]]


def all_at_once(
    connection: sa.Connection, values: Sequence[Observation], at: datetime
) -> list[Observation]:
    return observation_versions.keep(connection, Told.of(values), at)


# --- what it means, one value after the other ---------------------------------------------------


def one_by_one(
    connection: sa.Connection, values: Sequence[Observation], at: datetime
) -> list[Observation]:
    return [one for one in values if _kept(connection, one, at)]


def _kept(connection: sa.Connection, told: Observation, at: datetime) -> bool:
    is_new = insert_new(
        connection,
        observations,
        observation_id=told.observation_id,
        patient_id=told.patient.patient_id,
        issuer_of_patient_id=told.patient.issuer_of_patient_id,
        source=told.source,
        reference=told.reference,
        identifier_sha256=digest_of(told.identifier),
        content=TypeAdapter(Observation).dump_python(told, mode="json"),
        effective_at=told.effective_at,
        received_at=at,
    )
    table = observations.c
    is_itself = table.observation_id == told.observation_id
    if not is_new:
        again = sa.update(observations).where(is_itself, table.replaced_at.is_not(None))
        if connection.execute(again.values(replaced_at=None, received_at=at)).rowcount == 0:
            return False
    of_patient = sa.and_(
        table.patient_id == told.patient.patient_id,
        table.issuer_of_patient_id == told.patient.issuer_of_patient_id,
    )
    alike = []
    if told.reference:
        alike.append(table.reference == told.reference)
    if told.identifier is not None:
        same_value = table.identifier_sha256 == digest_of(told.identifier)
        system = table.content[("identifier", 0)].as_string()
        alike.append(sa.and_(same_value, system == told.identifier[0]))
    for is_alike in alike:
        connection.execute(
            sa.update(observations)
            .where(
                is_alike,
                sa.or_(table.source == told.source, of_patient),
                ~is_itself,
                table.replaced_at.is_(None),
            )
            .values(replaced_at=at)
        )
    return True


TOLD = st.builds(
    lambda number, reference, identifier, source, patient: replace(
        value(AST, number),
        observation_id=f"{number:032x}",
        reference=reference,
        identifier=identifier,
        source=source,
        patient=patient,
    ),
    st.integers(0, 6),
    st.sampled_from(["", "http://lis/1", "http://lis/2"]),
    st.sampled_from([None, ("urn:lab", "7"), ("urn:other", "7"), ("", "7"), ("urn:lab", "ü")]),
    st.sampled_from(["lis", "ris"]),
    st.sampled_from(
        [PatientIdentity("P-1", "", ""), PatientIdentity("P-1", "X", ""), PatientIdentity("P-2")]
    ),
)
MESSAGES = st.lists(st.lists(TOLD, max_size=8), min_size=1, max_size=4)


def outcome(database: Database, keep: Keep, messages: Sequence[Sequence[Observation]]) -> Any:
    """What each message is said to have changed, and what stands after it; nothing is kept."""
    found = []
    with database.engine.connect() as connection, connection.begin() as transaction:
        for number, message in enumerate(messages):
            changed = keep(connection, message, BEGIN + timedelta(seconds=number))
            rows = connection.execute(sa.select(observations).order_by("observation_id")).all()
            found.append((changed, [tuple(row) for row in rows]))
        transaction.rollback()
    return found


@pytest.mark.parametrize("at_once", [2, 1000])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(messages=MESSAGES)
def test_all_at_once_is_as_one_by_one(
    database: Database, at_once: int, messages: list[list[Observation]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "_AT_ONCE", at_once)
        once = outcome(database, all_at_once, messages)
    assert once == outcome(database, one_by_one, messages)


# --- other writers wait for it ------------------------------------------------------------------


@pytest.fixture
def orders(database: Database, clock: FrozenClock) -> StoredOrders:
    jobs = RecordingJobs()
    return StoredOrders(database=database, jobs=lambda: jobs, journal=Journal(clock, "source:lis"))


def many(number: float) -> list[Observation]:
    """Of a hundred patients."""
    return [
        replace(
            value(
                AST,
                number,
                f"http://lis/Observation/{n}",
                patient=PatientIdentity(f"P-{n % 100}"),
            ),
            identifier=("urn:lab", str(n)),
        )
        for n in range(MANY)
    ]


def counted(database: Database, work: Callable[[], object]) -> int:
    """How many statements it takes; those of a batch count one by one."""
    seen: list[str] = []

    def note(_r: object, _c: object, text: str, *_: object) -> None:
        seen.append(text)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(database.engine, "before_cursor_execute", note)
    return len(seen)


def test_thousands_of_values_are_a_few_statements(orders: StoredOrders, clock: FrozenClock) -> None:
    for message, number, changed in (("new", 40, MANY), ("again", 40, 0), ("corrected", 41, MANY)):
        told = many(number)
        new: list[str] = []
        took = counted(
            orders.database,
            lambda: new.extend(orders.observed(told, message)),  # noqa: B023
        )
        assert (len(new), took < 40) == (changed, True), (message, took)
        clock.advance(1)
    with orders.database.read() as connection:
        holding = sa.select(sa.func.count()).where(observations.c.replaced_at.is_(None))
        assert connection.execute(holding).scalar() == MANY


def test_a_message_that_is_refused_leaves_no_value(orders: StoredOrders) -> None:
    nowhere = order(route="no-such-route", observations=(value(AST, 40),))
    with pytest.raises(RejectedError):
        orders.take([nowhere], [value(AST, 41)], "message")
    assert orders.observations() == []


def test_a_value_that_is_deleted_while_it_is_told_again_is_not_lost(
    orders: StoredOrders, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [value(AST, 40)]
    orders.observed(told, "first")
    look = observation_versions._known

    def deleted(connection: sa.Connection, ids: set[str]) -> Any:
        connection.execute(sa.delete(observations))
        return look(connection, ids)

    monkeypatch.setattr(observation_versions, "_known", deleted)
    with pytest.raises(TransientError):
        orders.observed(told, "again")


def test_two_messages_with_the_same_values_wait_for_each_other_in_one_order(
    request: pytest.FixtureRequest, clock: FrozenClock
) -> None:
    opened = open_database(request.getfixturevalue("postgres_database"))
    migrate(opened)
    told = many(40)[:200]
    began = threading.Barrier(2)
    changed: list[int] = []

    def tell(values: Sequence[Observation]) -> None:
        with opened.write() as connection:
            began.wait()
            new = observation_versions.keep(connection, Told.of(values), clock.now())
            changed.append(len(new))

    for _ in range(5):
        threads = [threading.Thread(target=tell, args=[values]) for values in (told, told[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        with opened.write() as connection:
            connection.execute(sa.delete(observations))
    opened.close()
    assert sorted(changed) == [0] * 5 + [len(told)] * 5


def test_of_many_patients_only_those_are_asked_about_again_whose_values_changed(
    database: Database, tmp_path: Path
) -> None:
    parts = make_order_bench(tmp_path, database)
    parts.use(lab_route(trigger=RouteTrigger.ORDER))
    patients = [PatientIdentity(f"P-{n}", "", "", "19600101", "F") for n in range(4)]

    def told(number: float, n: int) -> Observation:
        return value(AST, number, f"http://lis/{n}", patient=patients[n])

    for n, patient in enumerate(patients):
        parts.record.known = patient
        parts.orders.place(
            order(order_id=str(n) * 32, patient=patient, observations=(told(40, n),))
        )
        parts.finish()
    parts.orders.observed([told(40, 0), told(41, 1), told(42, 2)], "corrections")
    looked_at = {look_of(job.argument).order_id[0] for job in parts.bench.jobs.enqueued}
    parts.bench.store.close()
    assert looked_at == {"1", "2"}
