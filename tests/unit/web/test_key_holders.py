"""What the door remembers of keys, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hub.domain.access import Scope
from hub.store import audit
from hub.store.api_keys import ApiKey, KeyRing, KeyState
from hub.store.journal import Journal
from hub.web.key_holders import CACHE_SECONDS, REFUSALS_ARE_NOTED_EVERY, KeyHolders
from hub.web.refusals import Refusal
from tests.fakes import FrozenClock
from tests.migrated import migrated_sqlite


@dataclass
class Hall:
    """Holders over a database, whose clocks can be set."""

    ring: KeyRing
    clock: FrozenClock
    now: float = 0.0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.holders = KeyHolders(self.ring, lambda: self.now)

    def key_of(self, text: str) -> ApiKey | None:
        return asyncio.run(self.holders.key_of(text))


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    database = migrated_sqlite(tmp_path / "caidx.sqlite")
    clock = FrozenClock()
    made = Hall(KeyRing(database, Journal(clock, "web")), clock)
    real = KeyRing.key_of

    def counted(ring: KeyRing, text: str) -> ApiKey | None:
        made.asked.append(text)
        return real(ring, text)

    monkeypatch.setattr(KeyRing, "key_of", counted)
    yield made
    made.holders.close()
    database.close()


def test_a_good_key_is_looked_up_once_in_two_seconds(hall: Hall) -> None:
    made, text = hall.ring.create("orthanc", Scope.SYSTEM)
    for now, lookups in ((0.0, 1), (1.9, 1), (2.0, 2), (3.9, 2), (4.0, 3)):
        hall.now = now
        found = hall.key_of(text)
        assert found is not None
        assert (found.key_id, len(hall.asked)) == (made.key_id, lookups)
    assert CACHE_SECONDS <= 2.0


def test_a_key_that_was_revoked_meanwhile_is_over_with_the_cache(hall: Hall) -> None:
    made, text = hall.ring.create("orthanc", Scope.SYSTEM)
    assert _state(hall, text) is KeyState.ACTIVE
    hall.ring.revoke(made.key_id, "stolen")
    hall.now = CACHE_SECONDS
    assert _state(hall, text) is KeyState.REVOKED


def test_a_key_that_expires_meanwhile_is_over_at_once(hall: Hall) -> None:
    _, text = hall.ring.create("orthanc", Scope.SYSTEM, valid_for=timedelta(seconds=1))
    assert _state(hall, text) is KeyState.ACTIVE
    hall.clock.moment += timedelta(seconds=1)
    assert (_state(hall, text), len(hall.asked)) == (KeyState.EXPIRED, 1)


def test_a_bad_key_is_never_remembered(hall: Hall) -> None:
    made, text = hall.ring.create("orthanc", Scope.SYSTEM)
    wrong = text[:-3] + "xyz"
    assert hall.key_of(wrong) is None
    assert hall.key_of(wrong) is None
    hall.ring.revoke(made.key_id, "stolen")
    assert _state(hall, text) is KeyState.REVOKED
    assert _state(hall, text) is KeyState.REVOKED
    assert len(hall.asked) == 4
    assert not any(text in repr(value) for value in vars(hall.holders).values())


def test_what_is_remembered_is_not_the_key(hall: Hall) -> None:
    _, text = hall.ring.create("orthanc", Scope.SYSTEM)
    hall.key_of(text)
    remembered = repr(vars(hall.holders))
    assert "orthanc" in remembered
    assert text.split("_", 2)[2] not in remembered


def test_use_is_noted(hall: Hall) -> None:
    _, text = hall.ring.create("orthanc", Scope.SYSTEM)
    for now in range(0, 60, 2):
        hall.now = float(now)
        hall.key_of(text)
    hall.holders.close()  # which waits for what is to be written
    assert hall.ring.all()[0].last_used_at == hall.clock.moment


def test_a_key_that_keeps_trying_is_audited_once_an_hour_with_its_attempts(hall: Hall) -> None:
    made, _ = hall.ring.create("orthanc", Scope.SYSTEM)
    for _ in range(100):
        hall.holders.note_refusal(made, Refusal.WRONG_SCOPE, "GET /metrics")
    hall.now = REFUSALS_ARE_NOTED_EVERY
    hall.holders.note_refusal(made, Refusal.WRONG_SCOPE, "GET /metrics")
    hall.holders.note_refusal(made, Refusal.REVOKED_KEY, "GET /metrics")
    hall.holders.close()
    refused = [e for e in audit.events(hall.ring.database) if e.action == "key.refused"]
    attempts: list[Any] = [(e.detail["reason"], e.detail["attempts"]) for e in refused]
    assert attempts == [("wrong-scope", 1), ("wrong-scope", 100), ("revoked-key", 1)]


def _state(hall: Hall, text: str) -> KeyState | None:
    key = hall.key_of(text)
    return None if key is None else key.state
