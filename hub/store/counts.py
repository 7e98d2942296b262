"""How much of everything there is: for monitoring. Read-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.store.database import Database
from hub.store.schema import (
    alerts,
    deliveries,
    report_versions,
    requests,
    results,
    study_revisions,
)

_UNDELIVERED = ("pending", "retrying", "confirming")


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of everything there is, by state."""

    studies: Mapping[str, int]
    requests: Mapping[str, int]
    outcomes: Mapping[str, int]
    deliveries: Mapping[tuple[str, str], int]
    """By destination and state."""
    alerts: Mapping[str, int]
    """By kind."""
    reports: Mapping[str, int]
    """Versions of reports, by state."""
    oldest_undelivered: datetime | None


def counts(database: Database) -> Counts:
    """Totals by state, from one snapshot."""
    with database.snapshot() as connection:
        by_destination = connection.execute(
            sa.select(deliveries.c.destination, deliveries.c.state, sa.func.count()).group_by(
                deliveries.c.destination, deliveries.c.state
            )
        )
        oldest = connection.execute(
            sa.select(sa.func.min(deliveries.c.created_at)).where(
                deliveries.c.state.in_(_UNDELIVERED)
            )
        ).scalar_one()
        return Counts(
            studies=_by(connection, study_revisions.c.state),
            requests=_by(connection, requests.c.state),
            outcomes=_by(connection, results.c.outcome),
            deliveries={(row[0], row[1]): row[2] for row in by_destination},
            alerts=_by(connection, alerts.c.kind),
            reports=_by(connection, report_versions.c.state),
            oldest_undelivered=oldest,
        )


def _by(connection: sa.Connection, column: sa.Column[Any]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
    return {row[0]: row[1] for row in rows}
