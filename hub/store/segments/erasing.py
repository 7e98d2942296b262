"""Segments in which nothing is needed any more are overwritten, and their extents used again."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.errors import CaidxError, TransientError
from hub.store import alerts
from hub.store.database import Database
from hub.store.index_batch import SegmentState
from hub.store.journal import Journal
from hub.store.schema import segments
from hub.store.segments.extents import ExtentPool

TRIES = 60
"""After so many a person is told; one takes a second, or longer where there is much to do."""
NOT_ERASED = "segment.not-erased"
_AT_ONCE = 16
_REASON = "a segment that was given up cannot be overwritten: its space is not free"


@dataclass(slots=True)
class Eraser:
    """Overwrites released segments with zeros, durably; for one thread.

    One that cannot be overwritten now stays released, and keeps neither the others of its turn nor
    those behind it.
    """

    database: Database
    pool: ExtentPool
    journal: Journal
    _behind: str = field(default="", init=False)
    """The next turn goes on behind this one; empty: from the first one."""
    _failures: dict[str, int] = field(default_factory=dict, init=False)
    _has_told: bool = field(default=False, init=False)

    def turn(self) -> int:
        """Overwrite some; returns how many.

        Raises:
            TransientError: the database is away, or a segment could not be overwritten.
        """
        found = self._next()
        failed: CaidxError | None = None
        erased = []
        for segment in found:
            try:
                self.pool.release(segment)
                erased.append(segment)
                self._failures.pop(segment, None)
            except CaidxError as error:
                failed = error
                self._failures[segment] = self._failures.get(segment, 0) + 1
        if erased:
            with self.database.write() as connection:
                connection.execute(sa.delete(segments).where(segments.c.segment.in_(erased)))
        self._tell()
        self._behind = found[-1] if len(found) == _AT_ONCE else ""
        if failed is not None:
            raise TransientError(str(failed))
        return len(erased)

    def _next(self) -> list[str]:
        query = (
            sa.select(segments.c.segment)
            .where(
                segments.c.state == SegmentState.RELEASED.value, segments.c.segment > self._behind
            )
            .order_by(segments.c.segment)
            .limit(_AT_ONCE)
        )
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def _tell(self) -> None:
        """One alert, however many there are: it is the disk."""
        self._has_told = self._has_told and bool(self._failures)
        lasting = [segment for segment, failures in self._failures.items() if failures >= TRIES]
        if not lasting or self._has_told:
            return
        entity, now = f"segment:{lasting[0]}", self.journal.clock.now()
        with self.database.write() as connection:
            if alerts.raise_alert(
                connection, kind=NOT_ERASED, entity=entity, message=_REASON, at=now
            ):
                failure = AuditOutcome.SERIOUS_FAILURE
                self.journal.record(connection, NOT_ERASED, entity, outcome=failure, reason=_REASON)
        self._has_told = True
