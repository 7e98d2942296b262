"""Registered models: which there are, and in which state each version is.

Every change stands with who and why in the row, and in the audit log in the same transaction. A
model of the configuration has a row once its state was changed by a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.domain.inference import ModelKey
from hub.domain.registration import NEXT_STATES, RegistrationState
from hub.errors import RejectedError
from hub.store import alerts
from hub.store.database import Database, insert_new
from hub.store.journal import Journal
from hub.store.results import OPEN_STATES, RequestState
from hub.store.schema import requests
from hub.store.schema_vendors import registrations

CONFIGURED = "configuration"
"""Who registered a model that stands in the configuration file; its package lies elsewhere."""
_ACTIONS = {
    RegistrationState.ACTIVE: "model.activated",
    RegistrationState.SUSPENDED: "model.suspended",
    RegistrationState.RETIRED: "model.retired",
}


class NoSuchModelError(RejectedError):
    """Nobody registered it."""


class RegistrationConflictError(RejectedError):
    """What is asked does not go together with the states that there are."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One version of a model, and where it stands."""

    model: ModelKey
    vendor: str
    runtime_kind: str
    """The manifest's ``runtime.kind``."""
    state: RegistrationState
    registered_by: str
    registered_at: datetime
    changed_by: str
    changed_at: datetime
    reason: str
    """Of the last change."""

    @property
    def is_configured(self) -> bool:
        """Its package is one of the configuration file."""
        return self.registered_by == CONFIGURED

    @property
    def in_words(self) -> str:
        """``suspended by user:anna: wrong units``."""
        return f"{self.state} by {self.changed_by}: {self.reason}"


# --- reading -------------------------------------------------------------------------------------


def all_of(connection: sa.Connection) -> list[Registration]:
    """Every version of every model, the last registered first."""
    order = (registrations.c.model_id, registrations.c.registered_at.desc())
    return [_row(row) for row in connection.execute(sa.select(registrations).order_by(*order))]


def of_model(connection: sa.Connection, model_id: str) -> list[Registration]:
    """Every version of one model, the last registered first; empty where nobody registered any."""
    query = (
        sa.select(registrations)
        .where(registrations.c.model_id == model_id)
        .order_by(registrations.c.registered_at.desc())
    )
    return [_row(row) for row in connection.execute(query)]


def states(connection: sa.Connection) -> frozenset[tuple[str, str, str]]:
    """(model id, SHA-256, state) of all: it differs when, and only when, a state has changed. It
    is asked for every second by every worker."""
    columns = (registrations.c.model_id, registrations.c.sha256, registrations.c.state)
    return frozenset(tuple(row) for row in connection.execute(sa.select(*columns)))


def why_not(versions: Iterable[Registration], model: ModelKey) -> str:
    """Why a version of a model must not be asked, given all versions of that model; empty when it
    may be.

    A version without a row is one of the configuration. One that another version replaced may
    still be asked what it was asked before, for as long as its successor is active: whoever
    suspends a model suspends both.
    """
    rows = {one.model.sha256: one for one in versions}
    own = rows.get(model.sha256)
    if own is not None and own.state in (RegistrationState.SUSPENDED, RegistrationState.RETIRED):
        return f"version {own.model.version} is {own.in_words}"
    if any(one.state is RegistrationState.ACTIVE for one in rows.values()):
        return ""
    suspended = [one for one in rows.values() if one.state is RegistrationState.SUSPENDED]
    if suspended:
        return f"version {suspended[0].model.version} is {suspended[0].in_words}"
    if own is not None and not own.is_configured:
        return f"version {own.model.version} is not active"
    return ""


def why_not_asked(connection: sa.Connection, model: ModelKey) -> str:
    """As ``why_not``, with one read of the database."""
    return why_not(of_model(connection, model.model_id), model)


def pinned_and_open(connection: sa.Connection) -> frozenset[str]:
    """SHA-256 of every model that an open request is pinned to."""
    still = [state.value for state in OPEN_STATES]
    query = sa.select(requests.c.model_sha256).where(requests.c.state.in_(still)).distinct()
    return frozenset(connection.execute(query).scalars())


def stopped_and_waited_for(connection: sa.Connection) -> frozenset[str]:
    """SHA-256 of every model that must not be asked, and that a request waits for."""
    stopped = (RegistrationState.SUSPENDED.value, RegistrationState.RETIRED.value)
    columns = (requests.c.model_id, requests.c.model_version, requests.c.model_sha256)
    ids = sa.select(registrations.c.model_id).where(registrations.c.state.in_(stopped))
    query = sa.select(*columns).distinct()
    query = query.where(
        requests.c.state == RequestState.WAITING.value, requests.c.model_id.in_(ids)
    )
    models = [ModelKey(*row) for row in connection.execute(query)]
    return frozenset(one.sha256 for one in models if why_not_asked(connection, one))


# --- changing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegistrationLedger:
    """registered -> active -> suspended -> active ... -> retired: each change with its audit
    row."""

    database: Database
    journal: Journal

    def known(self, model: ModelKey, vendor: str) -> Registration | None:
        """The version, where it is registered already; None where it can be.

        Raises:
            RegistrationConflictError: as of ``add``.
        """
        with self.database.read() as connection:
            versions = of_model(connection, model.model_id)
        return _same_or_refused(model, vendor, versions)

    def add(
        self, model: ModelKey, *, vendor: str, runtime_kind: str, reason: str
    ) -> tuple[Registration, bool]:
        """Record a version; False beside it when it is there already, and nothing has changed.

        Raises:
            RegistrationConflictError: the same version has other content, it was retired, or the
                model is another vendor's.
        """
        with self.database.write() as connection:
            same = _same_or_refused(model, vendor, _locked(connection, model.model_id))
            if same is not None:
                return same, False
            is_new = _insert(
                connection,
                _first(model, vendor, runtime_kind, self.journal, reason),
            )
            if is_new:
                self._record(
                    connection, "model.registered", model, reason, runtime_kind=runtime_kind
                )
            return of_version(connection, model), is_new

    def change(
        self, model: ModelKey, state: RegistrationState, reason: str
    ) -> tuple[Registration, bool]:
        """Move a version to another state; False beside it when it is in that state already.

        Of several versions at most one is active: activating one takes the other's place.

        Raises:
            NoSuchModelError: there is no such version.
            RegistrationConflictError: the state cannot follow; ``retired`` is for good.
        """
        with self.database.write() as connection:
            found = [one for one in _locked(connection, model.model_id) if one.model == model]
            if not found:
                raise NoSuchModelError(f"no version {model.version} of {model.model_id} is known")
            current = found[0]
            if current.state is state:
                return current, False
            if state not in NEXT_STATES[current.state]:
                message = f"{model} is {current.state}, and cannot become {state}"
                raise RegistrationConflictError(message)
            replaced = []
            if state is RegistrationState.ACTIVE:
                replaced = self._make_room(connection, model)
            self._set(connection, model, state, reason)
            self._record(
                connection, _ACTIONS[state], model, reason, was=current.state, replaces=replaced
            )
            if state is RegistrationState.SUSPENDED:
                self._tell(connection, model, reason)
            return of_version(connection, model), True

    def _tell(self, connection: sa.Connection, model: ModelKey, reason: str) -> None:
        """One alert, and none for each study that is not analysed."""
        at = self.journal.clock.now()
        alerts.raise_alert(
            connection,
            kind="model.suspended",
            entity=f"model:{model}",
            message=f"{self.journal.actor} suspended it at {at:%Y-%m-%d %H:%M:%S} UTC: {reason}; "
            "studies that it is for are not analysed by it",
            at=at,
        )

    def note_configured(self, model: ModelKey, *, vendor: str, runtime_kind: str) -> None:
        """Have a row for a model of the configuration, so that its state can be changed; a version
        that it followed is not active any more."""
        with self.database.write() as connection:
            known = _locked(connection, model.model_id)
            if any(one.model.sha256 == model.sha256 for one in known):
                return
            journal = Journal(self.journal.clock, CONFIGURED)
            row = _first(model, vendor, runtime_kind, journal, "it stands in the configuration")
            suspended = any(one.state is RegistrationState.SUSPENDED for one in known)
            state = RegistrationState.SUSPENDED if suspended else RegistrationState.ACTIVE
            self._make_room(connection, model)
            _insert(connection, row | {"state": state.value})

    def _make_room(self, connection: sa.Connection, model: ModelKey) -> list[str]:
        """Versions that were active until now."""
        others = [
            one.model
            for one in of_model(connection, model.model_id)
            if one.state is RegistrationState.ACTIVE and one.model != model
        ]
        for other in others:
            reason = f"version {model.version} took its place"
            self._set(connection, other, RegistrationState.REGISTERED, reason)
        return [other.version for other in others]

    def _set(
        self, connection: sa.Connection, model: ModelKey, state: RegistrationState, reason: str
    ) -> None:
        connection.execute(
            sa.update(registrations)
            .where(_is(model))
            .values(
                state=state.value,
                changed_by=self.journal.actor,
                changed_at=self.journal.clock.now(),
                reason=reason,
            )
        )

    def _record(
        self, connection: sa.Connection, action: str, model: ModelKey, reason: str, **detail: Any
    ) -> None:
        self.journal.record(
            connection,
            action,
            f"model:{model}",
            reason=reason,
            model_sha256=model.sha256,
            **detail,
        )


def of_version(connection: sa.Connection, model: ModelKey) -> Registration:
    """One version, which is there."""
    return _row(connection.execute(sa.select(registrations).where(_is(model))).one())


def _is(model: ModelKey) -> sa.ColumnElement[bool]:
    return sa.and_(
        registrations.c.model_id == model.model_id, registrations.c.sha256 == model.sha256
    )


def _locked(connection: sa.Connection, model_id: str) -> list[Registration]:
    """All versions of a model; two people who change it take turns."""
    if connection.dialect.name == "postgresql":
        lock = sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"model:{model_id}"))
        connection.execute(sa.select(lock))
    return of_model(connection, model_id)


def _same_or_refused(
    model: ModelKey, vendor: str, known: list[Registration]
) -> Registration | None:
    for one in known:
        if one.model.sha256 == model.sha256 and one.state is RegistrationState.RETIRED:
            message = f"{model} is {one.in_words}; retired is for good"
            raise RegistrationConflictError(message)
        if one.model.sha256 == model.sha256:
            return one
        if one.vendor != vendor:
            message = f"the model {model.model_id} is another vendor's: choose another id"
            raise RegistrationConflictError(message)
    if any(one.model.version == model.version for one in known):
        message = f"{model} is registered with other content: give it a new version number"
        raise RegistrationConflictError(message)
    return None


def _first(
    model: ModelKey, vendor: str, runtime_kind: str, journal: Journal, reason: str
) -> dict[str, Any]:
    now = journal.clock.now()
    return {
        "model_id": model.model_id,
        "sha256": model.sha256,
        "version": model.version,
        "vendor": vendor,
        "runtime_kind": runtime_kind,
        "state": RegistrationState.REGISTERED.value,
        "registered_by": journal.actor,
        "registered_at": now,
        "changed_by": journal.actor,
        "changed_at": now,
        "reason": reason,
    }


def _insert(connection: sa.Connection, values: dict[str, Any]) -> bool:
    return insert_new(connection, registrations, **values)


def _row(row: sa.Row[Any]) -> Registration:
    return Registration(
        model=ModelKey(row.model_id, row.version, row.sha256),
        vendor=row.vendor,
        runtime_kind=row.runtime_kind,
        state=RegistrationState(row.state),
        registered_by=row.registered_by,
        registered_at=row.registered_at,
        changed_by=row.changed_by,
        changed_at=row.changed_at,
        reason=row.reason,
    )
