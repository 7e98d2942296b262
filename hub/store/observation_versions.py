"""Which of the values that sources sent hold.

The values of a message are recorded in few statements, however many they are: other writers wait
for them. What each of them replaces is found out in memory, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.observation import Observation
from hub.errors import TransientError
from hub.store.database import insert_new_rows, parts
from hub.store.observations import Name, digest_of, names_of
from hub.store.schema_orders import observations

_VALUE = TypeAdapter(Observation)


@dataclass(frozen=True, slots=True)
class Told:
    """The values of a message, made ready before the transaction in which they are kept."""

    values: Sequence[Observation]
    names: Sequence[tuple[Name, ...]]
    """Of each of them."""
    rows: Mapping[str, Mapping[str, object]]
    """By identifier, in the order in which everybody writes and locks them; of several with the
    same one the first counts."""

    @classmethod
    def of(cls, values: Sequence[Observation]) -> Told:
        """Of a whole message, in its order."""
        first = {value.observation_id: value for value in reversed(values)}
        rows = {name: _row_of(first[name]) for name in sorted(first)}
        return cls(values, [names_of(value) for value in values], rows)


def keep(connection: sa.Connection, told: Told, at: datetime) -> list[Observation]:
    """Record values, one after the other; what the same resource said before is replaced. Returns
    those that were not on record just so.

    A resource that says again what it said before something else holds again.

    Raises:
        TransientError: one of them, so old that nobody keeps it, is being deleted just now.
    """
    missing = told.rows.keys() - _present(connection, told.rows)
    rows = [{**row, "received_at": at} for name, row in told.rows.items() if name in missing]
    # Before anything else is looked for: who inserts the same at this moment is waited for.
    new = {key for (key,) in insert_new_rows(connection, observations, rows)}
    versions = _Versions()
    for one in _known(connection, (told.rows.keys() | _alike(connection, told)) - new):
        versions.add(one)
    if told.rows.keys() - new - versions.rows.keys():
        raise TransientError("values that are told again are being deleted")
    changing = [
        value
        for value, names in zip(told.values, told.names, strict=True)
        if versions.tell(value, names)
    ]
    _write(connection, versions.changed.values(), at)
    return changing


@dataclass(slots=True)
class _Version:
    """A row, as the message finds it or has changed it so far."""

    observation_id: str
    patient: tuple[str, str]
    source: str
    names: tuple[Name, ...]
    """Two values with one of these in common are versions of one thing."""
    holds: bool
    is_told_again: bool = False

    def is_told_by_the_same(self, value: Observation) -> bool:
        """Of the same sender, whoever the patient was said to be; or of the same patient."""
        return self.source == value.source or self.patient == value.patient.key


@dataclass(slots=True)
class _Versions:
    """What holds, while the values of a message are told."""

    rows: dict[str, _Version] = field(default_factory=dict)
    holding: dict[Name, dict[str, _Version]] = field(default_factory=dict)
    changed: dict[str, _Version] = field(default_factory=dict)
    """Other than they are in the database, where all that is new holds."""

    def add(self, row: _Version) -> None:
        """One that the database has."""
        self.rows[row.observation_id] = row
        if row.holds:
            self._index(row)

    def tell(self, value: Observation, names: tuple[Name, ...]) -> bool:
        """False when just this holds already."""
        row = self.rows.get(value.observation_id)
        if row is None:
            key, source = value.patient.key, value.source
            self.add(_Version(value.observation_id, key, source, names, holds=True))
        elif row.holds:
            return False
        else:
            row.holds = row.is_told_again = True
            self._index(row)
            self.changed[row.observation_id] = row
        for name in names:
            for other in tuple(self.holding.get(name, {}).values()):
                if other.observation_id != value.observation_id:
                    self._replace(other, value)
        return True

    def _replace(self, row: _Version, value: Observation) -> None:
        if not row.is_told_by_the_same(value):
            return
        row.holds = False
        self.changed[row.observation_id] = row
        for name in row.names:
            del self.holding[name][row.observation_id]

    def _index(self, row: _Version) -> None:
        for name in row.names:
            self.holding.setdefault(name, {})[row.observation_id] = row


# --- values as rows --------------------------------------------------------------------------


def _row_of(value: Observation) -> dict[str, object]:
    return {
        "observation_id": value.observation_id,
        "patient_id": value.patient.patient_id,
        "issuer_of_patient_id": value.patient.issuer_of_patient_id,
        "source": value.source,
        "reference": value.reference,
        "identifier_sha256": digest_of(value.identifier),
        "content": _VALUE.dump_python(value, mode="json"),
        "effective_at": value.effective_at,
    }


# --- the database ----------------------------------------------------------------------------


def _present(connection: sa.Connection, ids: Iterable[str]) -> Iterator[str]:
    """Those of them that are on record."""
    for some in parts(ids):
        known = observations.c.observation_id
        yield from connection.execute(sa.select(known).where(known.in_(some))).scalars()


def _alike(connection: sa.Connection, told: Told) -> set[str]:
    """Rows that hold, and that values of the message may replace; those just inserted, too."""
    named: dict[str, set[str]] = {"reference": set(), "identifier": set()}
    for kind, *_, key in (name for names in told.names for name in names):
        named[kind].add(key)
    table = observations.c
    found: set[str] = set()
    # one at a time: each has an index
    for column, kind in ((table.reference, "reference"), (table.identifier_sha256, "identifier")):
        for some in parts(named[kind]):
            query = sa.select(table.observation_id)
            query = query.where(column.in_(some), table.replaced_at.is_(None))
            found.update(connection.execute(query).scalars())
    return found


def _known(connection: sa.Connection, ids: Iterable[str]) -> Iterator[_Version]:
    """Those rows; locked from here on."""
    table = observations.c
    system = table.content[("identifier", 0)].as_string()
    query = sa.select(
        table.observation_id,
        table.patient_id,
        table.issuer_of_patient_id,
        table.source,
        table.reference,
        table.identifier_sha256,
        system.label("system"),
        table.replaced_at.is_(None).label("holds"),
    ).order_by(table.observation_id)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    for some in parts(ids):
        for row in connection.execute(query.where(table.observation_id.in_(some))):
            names: list[Name] = [("reference", row.reference)] if row.reference else []
            if row.identifier_sha256:
                names.append(("identifier", row.system, row.identifier_sha256))
            patient = (row.patient_id, row.issuer_of_patient_id)
            yield _Version(row.observation_id, patient, row.source, tuple(names), bool(row.holds))


def _write(connection: sa.Connection, changed: Iterable[_Version], at: datetime) -> None:
    """All that came out otherwise than it was, or than it was inserted."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for row in changed:
        groups.setdefault((row.holds, row.is_told_again), []).append(row.observation_id)
    for (holds, is_told_again), ids in groups.items():
        values = {"replaced_at": None if holds else at}
        told = values | ({"received_at": at} if is_told_again else {})
        for some in parts(ids):
            connection.execute(
                sa.update(observations).where(observations.c.observation_id.in_(some)).values(told)
            )
