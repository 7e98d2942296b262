"""What became of patients, on SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.knowledge import StoreKnowledge
from hub.store.patients import current_identity, record_change
from hub.store.schema import audit_log, patient_changes
from hub.store.segments.objects import SegmentStore
from tests.fakes import FrozenClock


def change(
    clock: FrozenClock, old: str, new: str, issuer: str = "", **fields: str
) -> PatientChange:
    clock.advance(1)
    current = PatientIdentity(new, fields.pop("new_issuer", issuer), **fields)
    change_id = f"{clock.now():%H%M%S}-{old}-{new}"
    kind = PatientChangeKind.MERGED
    return PatientChange(change_id, kind, old, issuer, current, "adt", clock.now())


def keep(database: Database, clock: FrozenClock, *changes: PatientChange) -> list[bool]:
    journal = Journal(clock, "source:adt")
    with database.write() as connection:
        return [record_change(connection, journal, one) for one in changes]


def now(database: Database, patient: PatientIdentity) -> PatientIdentity:
    with database.read() as connection:
        return current_identity(connection, patient)


def test_a_change_is_kept_once(database: Database, clock: FrozenClock) -> None:
    merge = change(clock, "A", "B")
    assert keep(database, clock, merge, merge) == [True, False]
    assert keep(database, clock, replace(merge, received_at=clock.now())) == [False]
    with database.read() as connection:
        assert len(connection.execute(sa.select(patient_changes)).all()) == 1
        audited = connection.execute(
            sa.select(audit_log).where(audit_log.c.action == "patient.changed")
        )
        (row,) = audited.all()
    assert row.actor == "source:adt"
    assert "Canary" not in str(row)


def test_a_patient_is_followed_through_merges(database: Database, clock: FrozenClock) -> None:
    first = change(clock, "A", "B", patient_name="Canary^Yellow")
    keep(database, clock, first, change(clock, "B", "C"), change(clock, "X", "Y"))
    assert now(database, PatientIdentity("A")) == PatientIdentity("C", "", "Canary^Yellow")
    assert now(database, PatientIdentity("B")) == PatientIdentity("C")
    assert now(database, PatientIdentity("C")) == PatientIdentity("C")
    assert now(database, PatientIdentity("A", "UMR")) == PatientIdentity("A", "UMR")


def test_the_order_is_that_of_arrival(database: Database, clock: FrozenClock) -> None:
    first, second = change(clock, "A", "B"), change(clock, "B", "A")
    keep(database, clock, second, first)
    assert now(database, PatientIdentity("A")).patient_id == "A"
    third = change(clock, "A", "B")
    close = replace(third, change_id="0", patient_id="B", current=PatientIdentity("D"))
    keep(database, clock, replace(close, received_at=third.received_at + timedelta(microseconds=1)))
    keep(database, clock, third)
    assert now(database, PatientIdentity("A")).patient_id == "D"


def test_a_circle_ends(database: Database, clock: FrozenClock) -> None:
    keep(database, clock, change(clock, "A", "B"), change(clock, "B", "C"), change(clock, "C", "A"))
    assert now(database, PatientIdentity("A")).patient_id == "A"
    assert now(database, PatientIdentity("B")).patient_id == "A"


def test_a_long_chain_is_followed(database: Database, clock: FrozenClock) -> None:
    keep(database, clock, *(change(clock, str(n), str(n + 1)) for n in range(60)))
    assert now(database, PatientIdentity("0")).patient_id == "60"


@pytest.mark.parametrize("name", ["Mül'ler^\"Jörg", "山田^太郎", "a\\b%_"])
def test_names_are_kept_as_they_are(database: Database, clock: FrozenClock, name: str) -> None:
    keep(database, clock, change(clock, "A", "A", patient_name=name))
    assert now(database, PatientIdentity("A")).patient_name == name


def test_sources_tell_it_by_their_knowledge(
    database: Database, clock: FrozenClock, tmp_path: Path
) -> None:
    knowledge = StoreKnowledge(database, SegmentStore(tmp_path), clock)
    merge = change(clock, "A", "B")
    for _ in range(2):
        knowledge.patient_changed(merge)
    assert now(database, PatientIdentity("A")).patient_id == "B"
