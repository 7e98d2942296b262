"""Keys on both databases: made, known again, over, taken back; and never kept themselves."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hub.domain.access import Principal, Scope
from hub.errors import RejectedError, TransientError
from hub.store import audit
from hub.store.api_keys import KeyRing, KeyState
from hub.store.database import Database, migrate, open_database, sqlite_url
from hub.store.journal import Journal
from tests.fakes import FrozenClock


@pytest.fixture
def ring(database: Database, clock: FrozenClock) -> KeyRing:
    return KeyRing(database, Journal(clock, "user:anna"))


def events(ring: KeyRing) -> list[tuple[str, str, str, object]]:
    found = audit.events(ring.database)
    return [(e.action, e.entity, e.actor, e.detail.get("reason")) for e in found]


def test_a_key_is_known_again_and_says_who_holds_it(ring: KeyRing, clock: FrozenClock) -> None:
    made, text = ring.create("acme-1", Scope.VENDOR, "ACME GmbH")
    assert re.fullmatch(rf"caidx_{made.key_id}_[A-Za-z0-9_-]{{43}}", text)
    assert re.fullmatch(r"[0-9a-f]{16}", made.key_id)
    assert len(base64.urlsafe_b64decode(text.split("_", 2)[2] + "=")) == 32
    assert ring.key_of(text) == made
    assert made.principal == Principal("acme-1", Scope.VENDOR, "ACME GmbH")
    assert made.principal.actor == "key:acme-1"
    assert (made.state, made.created_by, made.created_at) == (
        KeyState.ACTIVE,
        "user:anna",
        clock.moment,
    )
    assert ring.all() == [made]


def test_no_two_keys_are_alike(ring: KeyRing) -> None:
    texts = {ring.create("orthanc", Scope.SYSTEM)[1] for _ in range(50)}
    assert len({text.split("_", 2)[1] for text in texts}) == 50
    assert len({text.split("_", 2)[2] for text in texts}) == 50


def test_anything_but_the_whole_key_is_unknown(ring: KeyRing) -> None:
    _, text = ring.create("orthanc", Scope.SYSTEM)
    _, other = ring.create("orthanc", Scope.SYSTEM)
    key_id, secret = text.split("_", 2)[1:]
    wrong = [
        "",
        "caidx",
        text[:-1],
        text + "A",
        text + "\n",
        f" {text}",
        text.upper(),
        text.replace("caidx_", ""),
        f"caidx_{key_id}_" + ("B" if secret[0] == "A" else "A") + secret[1:],
        f"caidx_{key_id}_" + other.split("_", 2)[2],
        f"caidx_{'0' * 16}_{secret}",
        f"caidx_{key_id}_{'Ä' * 43}",
    ]
    assert [one for one in wrong if ring.key_of(one) is not None] == []


def test_secrets_are_compared_in_constant_time_also_where_there_is_none(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that ends at the first difference would tell how far a guess is right, and one
    that is left out which identifiers exist."""
    _, text = ring.create("orthanc", Scope.SYSTEM)
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def recording(first: str, second: str) -> bool:
        compared.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    ring.key_of(text)
    ring.key_of(text[:-2] + "xx")
    ring.key_of(f"caidx_{'0' * 16}_{'A' * 43}")
    assert compared == [(64, 64)] * 3


def test_a_key_expires_at_its_moment(ring: KeyRing, clock: FrozenClock) -> None:
    _, text = ring.create("orthanc", Scope.SYSTEM, valid_for=timedelta(days=1))
    clock.moment += timedelta(days=1) - timedelta(microseconds=1)
    assert _state(ring, text) is KeyState.ACTIVE
    clock.moment += timedelta(microseconds=1)
    assert _state(ring, text) is KeyState.EXPIRED
    assert [key.state for key in ring.all()] == [KeyState.EXPIRED]


def test_a_key_is_revoked_once_by_somebody_for_a_reason(ring: KeyRing, clock: FrozenClock) -> None:
    made, text = ring.create("orthanc", Scope.SYSTEM, valid_for=timedelta(days=1))
    for reason in ("", "  ", "x" * 1001):
        with pytest.raises(RejectedError, match="a reason is needed"):
            ring.revoke(made.key_id, reason)
    assert _state(ring, text) is KeyState.ACTIVE
    revoked = ring.revoke(made.key_id, "the laptop was stolen")
    assert (revoked.state, revoked.revoked_at, revoked.revoked_by) == (
        KeyState.REVOKED,
        clock.moment,
        "user:anna",
    )
    clock.moment += timedelta(days=2)
    assert _state(ring, text) is KeyState.REVOKED, "not only expired"
    with pytest.raises(RejectedError, match="revoked already"):
        ring.revoke(made.key_id, "again")
    with pytest.raises(RejectedError, match="no key has the identifier 4711"):
        ring.revoke("4711", "again")
    assert events(ring) == [
        ("key.created", f"key:{made.key_id}", "user:anna", None),
        ("key.revoked", f"key:{made.key_id}", "user:anna", "the laptop was stolen"),
    ]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (("", Scope.SYSTEM), "name of a key"),
        (("Orthanc", Scope.SYSTEM), "name of a key"),
        (("o" * 64, Scope.SYSTEM), "name of a key"),
        (("acme", Scope.VENDOR), "needs the vendor's name"),
        (("acme", Scope.VENDOR, "  "), "needs the vendor's name"),
        (("acme", Scope.OPERATOR, "ACME"), "others have none"),
        (("acme", Scope.VENDOR, "A" * 256), "more than 255"),
        (("acme", Scope.SYSTEM, "", timedelta(0)), "expire before"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(ring: KeyRing, wanted: tuple[Any, ...], why: str) -> None:
    with pytest.raises(RejectedError, match=why):
        ring.create(*wanted)
    assert (list(ring.all()), events(ring)) == ([], [])


def test_a_name_means_one_holder_for_ever(ring: KeyRing) -> None:
    made, _ = ring.create("acme", Scope.VENDOR, "ACME GmbH")
    ring.create("acme", Scope.VENDOR, "ACME GmbH")  # the next key of the same
    ring.revoke(made.key_id, "replaced")
    for scope, vendor in ((Scope.OPERATOR, ""), (Scope.VENDOR, "Other")):
        with pytest.raises(RejectedError, match="of scope vendor of ACME GmbH: choose another"):
            ring.create("acme", scope, vendor)


def test_use_is_noted_at_most_once_a_minute(ring: KeyRing, clock: FrozenClock) -> None:
    made, _ = ring.create("orthanc", Scope.SYSTEM)
    first = clock.moment
    noted = []
    for seconds in (0, 30, 59, 60, 61):
        clock.moment = first + timedelta(seconds=seconds)
        ring.note_use(made.key_id)
        at = ring.all()[0].last_used_at
        assert at is not None
        noted.append((at - first).total_seconds())
    assert noted == [0, 0, 0, 60, 60]


def test_a_refused_key_is_in_the_audit_log_under_its_name(ring: KeyRing) -> None:
    made, _ = ring.create("orthanc", Scope.SYSTEM)
    ring.note_refusal(made, "wrong-scope", "GET /metrics", attempts=3)
    event = list(audit.events(ring.database))[-1]
    assert (event.action, event.entity) == ("key.refused", f"key:{made.key_id}")
    assert (event.actor, event.outcome.value) == ("key:orthanc", "minor-failure")
    assert event.detail == {"reason": "wrong-scope", "place": "GET /metrics", "attempts": 3}


def test_without_its_database_no_key_is_called_wrong(tmp_path: Path, clock: FrozenClock) -> None:
    away = KeyRing(
        open_database(sqlite_url(tmp_path / "not" / "there.sqlite")), Journal(clock, "web")
    )
    with pytest.raises(TransientError):
        away.key_of(f"caidx_{'0' * 16}_{'A' * 43}")


@pytest.fixture
def on_disk(tmp_path: Path, clock: FrozenClock) -> Iterator[KeyRing]:
    database = open_database(sqlite_url(tmp_path / "caidx.sqlite"))
    migrate(database)
    yield KeyRing(database, Journal(clock, "user:anna"))
    database.close()


def test_the_key_is_nowhere_in_the_database(on_disk: KeyRing, tmp_path: Path) -> None:
    made, text = on_disk.create("orthanc", Scope.SYSTEM)
    on_disk.key_of(text)
    on_disk.note_use(made.key_id)
    on_disk.note_refusal(made, "wrong-scope", "GET /metrics", attempts=1)
    on_disk.revoke(made.key_id, "over")
    on_disk.database.close()
    secret = text.split("_", 2)[2]
    forms = [secret.encode(), base64.urlsafe_b64decode(secret + "=")]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    kept = b"".join(file.read_bytes() for file in files)
    assert made.key_id.encode() in kept
    assert [form for form in forms if form in kept or form.hex().encode() in kept] == []


def _state(ring: KeyRing, text: str) -> KeyState | None:
    key = ring.key_of(text)
    return None if key is None else key.state
