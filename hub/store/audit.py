"""The audit log: appended in the transaction of what it records, never changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import sqlalchemy as sa

from hub.domain.audit import AuditEvent, AuditOutcome, ChainBreak, first_break
from hub.store.database import Database
from hub.store.schema import audit_head, audit_log

_HEAD = 1
_BATCH = 1000


def append(connection: sa.Connection, event: AuditEvent) -> AuditEvent:
    """Add an event to the chain, inside the caller's transaction.

    The lock on the head row (PostgreSQL) or the write lock (SQLite) orders all writers.
    """
    head = sa.select(audit_head.c.sequence, audit_head.c.hash).where(audit_head.c.id == _HEAD)
    if connection.dialect.name == "postgresql":
        head = head.with_for_update()
    row = connection.execute(head).one()
    placed = event.chained(row.sequence + 1, row.hash)
    connection.execute(sa.insert(audit_log).values(**_row(placed)))
    connection.execute(
        sa.update(audit_head)
        .where(audit_head.c.id == _HEAD)
        .values(sequence=placed.sequence, hash=placed.hash)
    )
    return placed


def events(
    database: Database,
    *,
    after_sequence: int = 0,
    limit: int | None = None,
    study_instance_uid: str | None = None,
) -> Iterator[AuditEvent]:
    """The log in order, read in batches so that its length does not matter."""
    left = limit
    while left is None or left > 0:
        size = _BATCH if left is None else min(_BATCH, left)
        query = (
            sa.select(audit_log)
            .where(audit_log.c.sequence > after_sequence)
            .order_by(audit_log.c.sequence)
            .limit(size)
        )
        if study_instance_uid is not None:
            query = query.where(audit_log.c.study_instance_uid == study_instance_uid)
        with database.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            yield _event(row)
        if len(rows) < size:
            return
        after_sequence = rows[-1].sequence
        left = None if left is None else left - size


def latest(database: Database, limit: int) -> list[AuditEvent]:
    """The newest events, oldest of them first."""
    query = sa.select(audit_log).order_by(audit_log.c.sequence.desc()).limit(limit)
    with database.read() as connection:
        return [_event(row) for row in connection.execute(query)][::-1]


def verify(database: Database) -> tuple[int, ChainBreak | None]:
    """(number of rows in the log by its head, the first break or None), over one snapshot."""
    with database.snapshot() as connection:
        head = connection.execute(sa.select(audit_head).where(audit_head.c.id == _HEAD)).one()
        rows = connection.execution_options(yield_per=_BATCH).execute(
            sa.select(audit_log).order_by(audit_log.c.sequence)
        )
        broken = first_break(
            (_event(row) for row in rows), head_sequence=head.sequence, head_hash=head.hash
        )
    return head.sequence, broken


def _row(event: AuditEvent) -> dict[str, object]:
    return {**asdict(event), "outcome": event.outcome.value, "detail": dict(event.detail)}


def _event(row: sa.Row[tuple[object, ...]]) -> AuditEvent:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented public accessor
    return AuditEvent(**{**values, "outcome": AuditOutcome(values["outcome"])})
