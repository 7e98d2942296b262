"""Keys to the hub's doors: ``caidx_<key id>_<secret>``.

The secret is 256 random bits, so its plain SHA-256 is enough to know it again: there is nothing to
guess that a slow hash would protect. The key itself is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from hub.domain.access import Principal, Scope
from hub.domain.audit import AuditOutcome
from hub.errors import RejectedError
from hub.store.database import Database, refusing
from hub.store.journal import Journal
from hub.store.schema_vendors import api_keys

PREFIX = "caidx"
USE_IS_NOTED_EVERY = timedelta(minutes=1)
"""How exact ``last_used_at`` is: each note is a transaction."""

_KEY = re.compile(r"caidx_(?P<key_id>[0-9a-f]{16})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_ID_BYTES, _SECRET_BYTES = 8, 32
_LONGEST_VENDOR, _LONGEST_REASON = 255, 1000
_NO_DIGEST = "0" * 64
"""Of no secret; an unknown key is compared all the same, and takes as long."""


class KeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; not the key."""

    key_id: str
    """16 hexadecimal digits; no secret."""
    name: str
    scope: Scope
    vendor: str
    """Of scope ``vendor``: as ``vendor.name`` in its model cards; else empty."""
    state: KeyState
    """At the time it was asked for."""
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    revoked_by: str | None

    @property
    def principal(self) -> Principal:
        """Whoever holds it."""
        return Principal(self.name, self.scope, self.vendor)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys, made and revoked in the name of one actor."""

    database: Database
    journal: Journal

    def create(
        self, name: str, scope: Scope, vendor: str = "", valid_for: timedelta | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key; returns what is known of it, and the key itself, which cannot be had again.

        Args:
            name: of whoever holds it, for the audit log: lower-case letters, digits, hyphens.
                Several keys may have it, so that one can follow another, but only with the same
                scope and vendor.
            scope: what it opens.
            vendor: for scope ``vendor``, and only there: the name in its model cards.
            valid_for: it expires after so long; None: never.

        Raises:
            RejectedError: one of these cannot be.
        """
        _must_be_valid(name, scope, vendor, valid_for)
        key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        now = self.journal.clock.now()
        expires_at = None if valid_for is None else now + valid_for
        with self.database.write() as connection, refusing():
            _must_agree(connection, name, scope, vendor)
            connection.execute(
                sa.insert(api_keys).values(
                    key_id=key_id,
                    name=name,
                    scope=scope.value,
                    vendor=vendor,
                    secret_sha256=_digest(secret),
                    created_by=self.journal.actor,
                    created_at=now,
                    expires_at=expires_at,
                )
            )
            self.journal.record(
                connection,
                "key.created",
                f"key:{key_id}",
                name=name,
                scope=scope.value,
                vendor=vendor,
                expires_at=None if expires_at is None else expires_at.isoformat(),
            )
            row = connection.execute(_of(key_id)).one()
        return _api_key(row, now), f"{PREFIX}_{key_id}_{secret}"

    def revoke(self, key_id: str, reason: str) -> ApiKey:
        """A key opens nothing any more, in every process within seconds; for good.

        Raises:
            RejectedError: there is none with this identifier, it is revoked already, or the reason
                is missing or too long.
        """
        if not reason.strip() or len(reason) > _LONGEST_REASON:
            raise RejectedError(f"a reason is needed, of at most {_LONGEST_REASON} characters")
        now = self.journal.clock.now()
        revoked = (
            sa.update(api_keys)
            .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now, revoked_by=self.journal.actor)
        )
        with self.database.write() as connection, refusing():
            changed = connection.execute(revoked).rowcount
            row = connection.execute(_of(key_id)).one_or_none()
            if row is None:
                raise RejectedError(f"no key has the identifier {key_id}")
            if not changed:
                raise RejectedError(f"key {key_id} is revoked already")
            self.journal.record(
                connection, "key.revoked", f"key:{key_id}", name=row.name, reason=reason
            )
        return _api_key(row, now)

    def all(self) -> Sequence[ApiKey]:
        """Every key that there ever was, the newest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        now = self.journal.clock.now()
        return [_api_key(row, now) for row in rows]

    def key_of(self, text: str) -> ApiKey | None:
        """The key that somebody showed, whatever its state; None: it is none of ours.

        Raises:
            TransientError: the database is away.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        with self.database.read() as connection:
            row = connection.execute(_of(match["key_id"])).one_or_none()
        kept = _NO_DIGEST if row is None else row.secret_sha256
        is_right = hmac.compare_digest(_digest(match["secret"]), kept)  # in constant time
        if row is None or not is_right:
            return None
        return _api_key(row, self.journal.clock.now())

    def note_use(self, key_id: str) -> None:
        """The key was used now; written at most once a minute.

        Raises:
            TransientError: the database is away.
        """
        now = self.journal.clock.now()
        last = api_keys.c.last_used_at
        used = (
            sa.update(api_keys)
            .where(
                api_keys.c.key_id == key_id,
                sa.or_(last.is_(None), last <= now - USE_IS_NOTED_EVERY),
            )
            .values(last_used_at=now)
        )
        with self.database.write() as connection:
            connection.execute(used)

    def note_refusal(self, key: ApiKey, reason: str, place: str, attempts: int) -> None:
        """A key of ours was shown where, or when, it opens nothing.

        Args:
            key: the key.
            reason: ``revoked-key``, ``expired-key`` or ``wrong-scope``.
            place: method and path as in the table of the door, without values.
            attempts: how often, since this was last written.

        Raises:
            TransientError: the database is away.
        """
        journal = replace(self.journal, actor=key.principal.actor)
        with self.database.write() as connection:
            journal.record(
                connection,
                "key.refused",
                f"key:{key.key_id}",
                outcome=AuditOutcome.MINOR_FAILURE,
                reason=reason,
                place=place,
                attempts=attempts,
            )


def _must_be_valid(name: str, scope: Scope, vendor: str, valid_for: timedelta | None) -> None:
    if not _NAME.fullmatch(name):
        raise RejectedError(
            "the name of a key must be lower-case letters, digits and hyphens, at most 63 of them"
        )
    if (scope is Scope.VENDOR) != bool(vendor.strip()):
        raise RejectedError(
            "a key of scope vendor needs the vendor's name, as in its model cards; others have none"
        )
    if len(vendor) > _LONGEST_VENDOR:
        raise RejectedError(f"the vendor's name has more than {_LONGEST_VENDOR} characters")
    if valid_for is not None and valid_for <= timedelta(0):
        raise RejectedError("a key cannot expire before it is made")


def _must_agree(connection: sa.Connection, name: str, scope: Scope, vendor: str) -> None:
    """The audit log knows whoever acts by the key's name: it means one holder, for ever."""
    query = sa.select(api_keys.c.scope, api_keys.c.vendor).where(api_keys.c.name == name)
    for row in connection.execute(query):
        if (row.scope, row.vendor) != (scope.value, vendor):
            of = f" of {row.vendor}" if row.vendor else ""
            raise RejectedError(
                f"there is a key {name} of scope {row.scope}{of}: choose another name"
            )


def _of(key_id: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(api_keys).where(api_keys.c.key_id == key_id)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _api_key(row: sa.Row[tuple[object, ...]], now: datetime) -> ApiKey:
    state = KeyState.ACTIVE
    if row.expires_at is not None and row.expires_at <= now:
        state = KeyState.EXPIRED
    if row.revoked_at is not None:
        state = KeyState.REVOKED
    return ApiKey(
        key_id=row.key_id,
        name=row.name,
        scope=Scope(row.scope),
        vendor=row.vendor,
        state=state,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
    )
