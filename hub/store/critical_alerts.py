"""Critical findings, and how many of them a route may raise as alerts of their own.

A model that suddenly finds something critical in every study is ill itself: beyond its route's
number in an hour, one escalation tells people so, and the others are held. The reports go out
as ever, with their findings marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from hub.store.schema import critical_alerts

HOUR = timedelta(hours=1)


class AlertState(StrEnum):
    SENT = "sent"
    HELD = "held"
    ESCALATED = "escalated"
    """Held, and the first one of an hour: the escalation is sent for it."""


@dataclass(frozen=True, slots=True)
class CriticalAlert:
    """What becomes of the alert of one report."""

    state: AlertState
    in_last_hour: int
    """Reports of the route with a critical finding, this one too."""

    @property
    def is_sent(self) -> bool:
        return self.state is AlertState.SENT


def raise_critical(
    connection: sa.Connection,
    *,
    request_id: str,
    version: int,
    route: str,
    limit: int,
    now: datetime,
) -> CriticalAlert:
    """Record a report with a critical finding, in the transaction that finishes its request.

    ``limit``: most alerts of the route in any hour. The same report is counted once.
    """
    _one_at_a_time(connection, route)
    table = critical_alerts
    recent = (table.c.route == route, table.c.raised_at > now - HOUR)
    query = sa.select(table.c.state, sa.func.count()).where(*recent).group_by(table.c.state)
    found = {AlertState(state): number for state, number in connection.execute(query)}
    known = connection.execute(
        sa.select(table.c.state).where(table.c.request_id == request_id, table.c.version == version)
    ).scalar()
    if known is not None:
        return CriticalAlert(AlertState(known), sum(found.values()))
    state = AlertState.SENT
    if found.get(AlertState.SENT, 0) >= limit:
        state = AlertState.HELD if found.get(AlertState.ESCALATED) else AlertState.ESCALATED
    connection.execute(
        sa.insert(table).values(
            request_id=request_id, version=version, route=route, raised_at=now, state=state.value
        )
    )
    return CriticalAlert(state, sum(found.values()) + 1)


def _one_at_a_time(connection: sa.Connection, route: str) -> None:
    """Two workers that finish at once count each other. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        lock = sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"caidx:critical:{route}"))
        connection.execute(sa.select(lock))
