"""The processes that hold work, and whether they still live."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa

from hub.domain.process import ProcessIdentity
from hub.ports import Health
from hub.store.schema import workers


def register(connection: sa.Connection, process: ProcessIdentity, role: str, at: datetime) -> None:
    """A process begins to hold work."""
    connection.execute(
        sa.insert(workers).values(
            executor_id=process.executor_id,
            host_identity=process.host_identity,
            pid=process.pid,
            process_started=process.process_started,
            role=role,
            started_at=at,
            heartbeat_at=at,
            health={},
        )
    )


def beat(
    connection: sa.Connection, executor_id: str, health: Mapping[str, Health], at: datetime
) -> None:
    """Still alive, and how its components are.

    A process that was given up for dead and wakes up again is back.
    """
    states = {
        name: {"state": h.state.value, "detail": h.detail, "since": h.since.isoformat()}
        for name, h in health.items()
    }
    connection.execute(
        sa.update(workers)
        .where(workers.c.executor_id == executor_id)
        .values(heartbeat_at=at, gone_at=None, health=states)
    )


def mark_gone(connection: sa.Connection, executor_id: str, at: datetime) -> bool:
    """True for the one caller that may take the work over."""
    done = connection.execute(
        sa.update(workers)
        .where(workers.c.executor_id == executor_id, workers.c.gone_at.is_(None))
        .values(gone_at=at)
    )
    return done.rowcount == 1


def present(
    connection: sa.Connection, role: str, holders: Collection[str] = ()
) -> list[tuple[ProcessIdentity, datetime]]:
    """Everyone who has not left, and ``holders`` who have, with their last sign of life."""
    is_here = sa.or_(workers.c.gone_at.is_(None), workers.c.executor_id.in_(holders))
    rows = connection.execute(sa.select(workers).where(workers.c.role == role, is_here))
    return [
        (
            ProcessIdentity(row.executor_id, row.host_identity, row.pid, row.process_started),
            row.heartbeat_at,
        )
        for row in rows
    ]


def forget(connection: sa.Connection, gone_before: datetime, holders: Collection[str]) -> int:
    """Drop processes that ended long ago and hold no work; returns how many. One that was killed
    never said so: then its last sign of life counts."""
    ended = sa.func.coalesce(workers.c.gone_at, workers.c.heartbeat_at)
    done = connection.execute(
        sa.delete(workers).where(ended < gone_before, workers.c.executor_id.not_in(list(holders)))
    )
    return done.rowcount
