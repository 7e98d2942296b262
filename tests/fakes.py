"""Small real implementations of the hub's ports for unit tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from hub.ports import Job


@dataclass(slots=True)
class FrozenClock:
    """A clock that moves when told to (hub.ports.Clock)."""

    moment: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass(slots=True)
class RecordingJobs:
    """Remembers what was enqueued in transactions that committed (hub.ports.Jobs)."""

    enqueued: list[Job] = field(default_factory=list)

    def enqueue(self, connection: sa.Connection, job: Job) -> None:
        sa.event.listen(connection, "commit", lambda _: self.enqueued.append(job), once=True)
