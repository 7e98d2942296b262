"""Registered models in the database: what may follow what, who did it, and what may be asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.inference import ModelKey
from hub.domain.registration import NEXT_STATES, RegistrationState
from hub.store import audit, registrations
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.registrations import (
    NoSuchModelError,
    Registration,
    RegistrationConflictError,
    RegistrationLedger,
)
from hub.store.schema import alerts
from tests.fakes import FrozenClock
from tests.migrated import migrated_sqlite

FIRST = ModelKey("nodules", "1.0.0", "1" * 64)
SECOND = ModelKey("nodules", "2.0.0", "2" * 64)
REGISTERED, ACTIVE = RegistrationState.REGISTERED, RegistrationState.ACTIVE
SUSPENDED, RETIRED = RegistrationState.SUSPENDED, RegistrationState.RETIRED


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = migrated_sqlite(tmp_path / "hub.sqlite")
    yield made
    made.close()


@pytest.fixture
def ledger(database: Database) -> RegistrationLedger:
    return RegistrationLedger(database, Journal(FrozenClock(), "user:anna"))


def add(ledger: RegistrationLedger, model: ModelKey, vendor: str = "Acme") -> Registration:
    registration, is_new = ledger.add(model, vendor=vendor, runtime_kind="onnx", reason="offered")
    assert is_new
    return registration


def refused(database: Database, model: ModelKey) -> str:
    with database.read() as connection:
        return registrations.why_not_asked(connection, model)


def state(database: Database, model: ModelKey) -> RegistrationState:
    with database.read() as connection:
        return registrations.of_version(connection, model).state


def test_every_change_stands_in_the_audit_log_with_who_and_why(
    ledger: RegistrationLedger, database: Database
) -> None:
    add(ledger, FIRST)
    for wanted in (ACTIVE, SUSPENDED, ACTIVE, RETIRED):
        changed, is_new = ledger.change(FIRST, wanted, f"because {wanted}")
        assert (changed.state, changed.reason, is_new) == (wanted, f"because {wanted}", True)
    found = [
        (event.action, event.actor, event.entity, event.detail["reason"])
        for event in audit.events(database)
    ]
    assert found == [
        ("model.registered", "user:anna", "model:nodules|1.0.0", "offered"),
        ("model.activated", "user:anna", "model:nodules|1.0.0", "because active"),
        ("model.suspended", "user:anna", "model:nodules|1.0.0", "because suspended"),
        ("model.activated", "user:anna", "model:nodules|1.0.0", "because active"),
        ("model.retired", "user:anna", "model:nodules|1.0.0", "because retired"),
    ]
    assert {event.detail["model_sha256"] for event in audit.events(database)} == {FIRST.sha256}


@pytest.mark.parametrize("first", list(RegistrationState))
@pytest.mark.parametrize("then", [ACTIVE, SUSPENDED, RETIRED])
def test_only_what_may_follow_follows(
    ledger: RegistrationLedger, first: RegistrationState, then: RegistrationState
) -> None:
    add(ledger, FIRST)
    ways = {REGISTERED: (), ACTIVE: (ACTIVE,), SUSPENDED: (ACTIVE, SUSPENDED), RETIRED: (RETIRED,)}
    for one in ways[first]:
        ledger.change(FIRST, one, "way")
    if first is then:
        assert not ledger.change(FIRST, then, "again")[1]
    elif then in NEXT_STATES[first]:
        assert ledger.change(FIRST, then, "may")[1]
    else:
        with pytest.raises(RegistrationConflictError, match=f"is {first}, and cannot become"):
            ledger.change(FIRST, then, "may not")


def test_the_same_content_is_registered_once(
    ledger: RegistrationLedger, database: Database
) -> None:
    add(ledger, FIRST)
    again, is_new = ledger.add(FIRST, vendor="Acme", runtime_kind="onnx", reason="again")
    assert (is_new, again.reason) == (False, "offered")
    assert [event.action for event in audit.events(database)] == ["model.registered"]


@pytest.mark.parametrize(
    ("model", "vendor", "said"),
    [
        (replace(FIRST, sha256="3" * 64), "Acme", "other content: give it a new version number"),
        (SECOND, "Umbrella", "another vendor's: choose another id"),
    ],
)
def test_what_is_taken_is_refused(
    ledger: RegistrationLedger, model: ModelKey, vendor: str, said: str
) -> None:
    add(ledger, FIRST)
    for ask in (
        lambda: ledger.add(model, vendor=vendor, runtime_kind="onnx", reason=""),
        lambda: ledger.known(model, vendor),
    ):
        with pytest.raises(RegistrationConflictError, match=said):
            ask()


def test_retired_is_for_good(ledger: RegistrationLedger) -> None:
    add(ledger, FIRST)
    ledger.change(FIRST, RETIRED, "wrong labels")
    with pytest.raises(RegistrationConflictError, match="wrong labels; retired is for good"):
        ledger.add(FIRST, vendor="Acme", runtime_kind="onnx", reason="")


def test_an_unknown_version_is_named(ledger: RegistrationLedger) -> None:
    with pytest.raises(NoSuchModelError, match=r"no version 1\.0\.0 of nodules"):
        ledger.change(FIRST, ACTIVE, "why")


def test_a_new_version_takes_the_place_of_the_active_one(
    ledger: RegistrationLedger, database: Database
) -> None:
    add(ledger, FIRST)
    add(ledger, SECOND)
    ledger.change(FIRST, ACTIVE, "first")
    ledger.change(SECOND, ACTIVE, "better")
    assert (state(database, FIRST), state(database, SECOND)) == (REGISTERED, ACTIVE)
    (*_, last) = audit.events(database)
    assert last.detail["replaces"] == ["1.0.0"]
    ledger.change(FIRST, ACTIVE, "back again")
    assert (state(database, FIRST), state(database, SECOND)) == (ACTIVE, REGISTERED)


def test_what_was_asked_of_a_replaced_version_may_be_answered_until_its_model_is_suspended(
    ledger: RegistrationLedger, database: Database
) -> None:
    add(ledger, FIRST)
    add(ledger, SECOND)
    assert "is not active" in refused(database, FIRST)
    ledger.change(FIRST, ACTIVE, "first")
    assert refused(database, FIRST) == ""
    ledger.change(SECOND, ACTIVE, "better")
    assert refused(database, FIRST) == refused(database, SECOND) == ""
    ledger.change(SECOND, SUSPENDED, "wrong side")
    for model in (FIRST, SECOND):
        assert refused(database, model) == "version 2.0.0 is suspended by user:anna: wrong side"
    ledger.change(SECOND, ACTIVE, "mended")
    ledger.change(FIRST, RETIRED, "old")
    assert refused(database, FIRST) == "version 1.0.0 is retired by user:anna: old"
    assert refused(database, SECOND) == ""


def test_a_model_of_the_configuration_can_be_suspended_and_stays_so_in_another_version(
    ledger: RegistrationLedger, database: Database
) -> None:
    assert refused(database, FIRST) == ""
    ledger.note_configured(FIRST, vendor="Acme", runtime_kind="onnx")
    assert refused(database, FIRST) == ""
    ledger.change(FIRST, SUSPENDED, "wrong side")
    assert "wrong side" in refused(database, FIRST)
    assert "wrong side" in refused(database, SECOND), "a changed package does not lift it"
    ledger.note_configured(SECOND, vendor="Acme", runtime_kind="onnx")
    assert state(database, SECOND) is SUSPENDED
    ledger.change(SECOND, ACTIVE, "mended")
    assert refused(database, SECOND) == ""
    assert "wrong side" in refused(database, FIRST)


def test_a_suspension_is_one_alert(ledger: RegistrationLedger, database: Database) -> None:
    add(ledger, FIRST)
    for wanted in (ACTIVE, SUSPENDED, ACTIVE):
        ledger.change(FIRST, wanted, "wrong side")
    with database.read() as connection:
        (found,) = connection.execute(sa.select(alerts)).all()
    assert (found.kind, found.entity) == ("model.suspended", "model:nodules|1.0.0")
    assert "user:anna suspended it" in found.message
    assert "wrong side" in found.message


def test_every_change_of_a_state_is_seen(ledger: RegistrationLedger, database: Database) -> None:
    def seen() -> frozenset[tuple[str, str, str]]:
        with database.read() as connection:
            return registrations.states(connection)

    looks = [seen()]
    add(ledger, FIRST)  # the clock stands still: a time would not tell
    looks.append(seen())
    for wanted in (ACTIVE, SUSPENDED, RETIRED):
        ledger.change(FIRST, wanted, "why")
        looks.append(seen())
    assert len(set(looks)) == len(looks)
