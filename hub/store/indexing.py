"""The indexer: follows the segments' logs and makes the index of what they hold.

A source acknowledges an object when it is durable in a segment; it is indexed a moment later, here,
by a process of its own. So this is also the recovery after a crash: at its start the indexer goes
on where the index ends, and what nobody writes to any more it ends.

One indexer is active per object store; others stand by (``flock``).
"""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
import structlog

from hub.errors import IntegrityError, TransientError
from hub.ports import Health, HealthState
from hub.store import transfers
from hub.store.database import Database
from hub.store.disk import Disk, make_folder
from hub.store.index_batch import QuietTimes, Round, Rules, SegmentState
from hub.store.index_mark import index_mark
from hub.store.schema import segments as segments_table
from hub.store.segments.bell import Bell, Rings
from hub.store.segments.extent_files import ExtentFiles
from hub.store.segments.extents import restore_claims
from hub.store.segments.followers import Known, Lag, SegmentFollowers
from hub.store.segments.log_reader import Portion
from hub.store.segments.objects import SegmentStore

__all__ = ["Indexer", "QuietTimes", "Rules"]

LINGER_SECONDS = 30.0
"""So long is waited for the next segment of a transfer whose last one says that it goes on."""
PAUSE_SECONDS = 0.25
"""Between two rounds while nothing is left over: a transaction costs as much as many records, so
they are gathered, as long as nobody waits for the result."""
_SLICE_SECONDS = 0.02
"""How often it is asked meanwhile whether somebody waits."""
_TURN_SECONDS, _BUSY_TURN_SECONDS = 0.25, 0.05
"""How often the mark is set while nothing happens, and while studies may be arriving."""
_BUSY_SECONDS = 60.0
"""So long after the last object."""
_DEAF_SECONDS = 0.3
"""After so long without listening, rings may have been lost."""
_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0

log = structlog.get_logger(__name__)


class Indexer:
    """Follows the logs of one object store; for one thread, but for ``health`` and ``lag``."""

    def __init__(
        self,
        database: Database,
        objects: SegmentStore,
        bell: Bell,
        rules: Rules,
        *,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._pause = pause
        self._database = database
        self._objects = objects
        self._bell = bell
        self._rules = rules
        self._mark = index_mark(objects.root)
        self._handle = -1
        self._followers: SegmentFollowers | None = None
        self._lingering: dict[str, float] = {}
        """Transfers of which no segment is followed -> until when one is waited for."""
        self._heard_at = self._wrote_at = -math.inf
        self._due: list[datetime] = []
        """When studies are complete: then the mark has to be raised. Sorted."""
        self._delay = 0.0
        self._stopping = threading.Event()
        self._health = Health(HealthState.STARTING, "starts", rules.clock.now())

    # --- its life ----------------------------------------------------------------------------

    def turn(self) -> None:
        """One round, or a short wait; what fails is tried again in the next one."""
        try:
            is_busy = time.monotonic() - self._wrote_at < _BUSY_SECONDS
            self.run_once(_BUSY_TURN_SECONDS if is_busy else _TURN_SECONDS)
        except (TransientError, IntegrityError) as error:
            self._tell(HealthState.DEGRADED, f"waits: {error}")
            self._delay = min(max(self._delay * 2, _FIRST_DELAY), _MAX_DELAY)
            self._stopping.wait(self._delay)
        else:
            self._delay = 0.0

    def run_once(self, timeout: float) -> int:
        """Index what there is, one round of it; waits up to ``timeout`` seconds for something.

        Returns:
            How many records are behind us now, ends included.

        Raises:
            TransientError: the database is away; the next call goes on, and nothing is lost.
            IntegrityError: the disk failed.
        """
        if not self._is_active():
            self._tell(HealthState.HEALTHY, "stands by: another indexer follows the logs")
            self._stopping.wait(timeout)
            return 0
        followers = self._begin() if self._followers is None else self._followers
        now = self._listen(followers, timeout)
        portions = followers.read()
        if any(portion.end is not None for portion in portions):
            # Whoever ends a transfer made all its segments before: now none can be missed.
            followers.find_new()
        self._commit(followers, portions)
        self._raise_mark(followers, now)
        self._tell(HealthState.HEALTHY, f"follows {len(followers)} segments")
        return sum(portion.records for portion in portions)

    def stop(self) -> None:
        """Let another indexer follow; nothing is open any more. For the thread that runs it, or
        after that one ended."""
        self._stopping.set()
        self._bell.close()
        handle, self._handle, self._followers = self._handle, -1, None
        if handle >= 0:
            os.close(handle)

    def health(self) -> Health:
        """Whether it follows, stands by or waits."""
        return self._health

    @property
    def lag(self) -> Lag:
        """What was received and not indexed, at the last look."""
        return self._followers.lag if self._followers is not None else Lag()

    def _tell(self, state: HealthState, detail: str) -> None:
        before = self._health
        if (before.state, before.detail) == (state, detail):
            return
        if state is HealthState.DEGRADED:
            log.warning("indexer.waits", reason=detail)
        since = before.since if before.state is state else self._rules.clock.now()
        self._health = Health(state, detail, since)

    def _is_active(self) -> bool:
        if self._handle >= 0:
            return True
        try:
            make_folder(self._objects.root)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            handle = os.open(self._objects.root / "indexer.lock", flags, 0o600)
        except OSError as error:
            raise TransientError(f"cannot open the lock: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def _begin(self) -> SegmentFollowers:
        """Follow all that is in use and not known to be done, from where the index ends; what a
        power cut put back among the free extents is in use too."""
        try:
            restore_claims(ExtentFiles(self._objects.root, Disk()))
        except OSError as error:
            raise TransientError(f"cannot look for segments: {error.strerror}") from error
        with self._database.read() as connection:
            rows = connection.execute(sa.select(segments_table)).all()
            unfinished = transfers.open_associations(connection)
        opened = {
            row.segment: Known(row.indexed_to, row.association_id, row.study_instance_uid)
            for row in rows
            if row.state == SegmentState.OPEN
        }
        done = {row.segment for row in rows}.difference(opened)
        self._followers = SegmentFollowers(self._objects, opened, done)
        self._lingering = dict.fromkeys(unfinished, time.monotonic() + LINGER_SECONDS)
        return self._followers

    # --- one round ---------------------------------------------------------------------------

    def _listen(self, followers: SegmentFollowers, timeout: float) -> datetime:
        """Wait for a ring or the next look; what was acknowledged before the moment that is
        returned is among what is ready to be read."""
        was_deaf = time.monotonic() - self._heard_at > _DEAF_SECONDS
        # Where the next study is overdue already, something else holds the mark back.
        to_due = self._seconds_to_due() or _SLICE_SECONDS
        wait = min(timeout, followers.seconds_to_look, to_due)
        rings = self._bell.wait(0.0 if followers.has_ready else wait)
        if rings and not followers.has_ready:
            self._gather(rings)
        now = self._rules.clock.now()
        self._bell.wait(0.0, rings)
        self._heard_at = time.monotonic()
        if rings:
            followers.heard(rings)
        if was_deaf or followers.seconds_to_look == 0.0:
            followers.look()
        return now

    def _gather(self, rings: Rings) -> None:
        """Wait for more to come, unless the last round was long ago, a transfer has ended, or a
        study waits for the mark."""
        while not rings.ended and self._seconds_to_due() > 0.0:
            left = self._wrote_at + self._pause - time.monotonic()
            if left <= 0.0 or self._stopping.wait(min(left, _SLICE_SECONDS)):
                return
            self._bell.wait(0.0, rings)

    def _seconds_to_due(self) -> float:
        """Until the next study waits for the mark."""
        if not self._due:
            return math.inf
        return max(0.0, (self._due[0] - self._rules.clock.now()).total_seconds())

    def _commit(self, followers: SegmentFollowers, portions: Sequence[Portion]) -> None:
        for association_id in followers.associations() & self._lingering.keys():
            del self._lingering[association_id]
        now = time.monotonic()
        expired = [one for one, until in self._lingering.items() if now >= until]
        if not (portions or expired or followers.unjoined()):
            return
        try:
            self._write(followers, portions, expired)
        except (sa.exc.StatementError, ValueError) as error:
            if not portions or not _may_be_the_content(error):
                raise
            self._write_one_by_one(followers, portions)

    def _write(
        self, followers: SegmentFollowers, portions: Sequence[Portion], expired: Sequence[str] = ()
    ) -> None:
        """One transaction; only when it is over are the records behind us."""
        fresh = [(one.segment, one.header) for one in followers.unjoined()]
        ending = {one.segment for one in portions if one.end is not None}
        ended = _ended(portions, but=followers.associations(but=ending) | {""})
        with self._database.write() as connection:
            work = Round(connection, self._rules)
            work.index(portions, fresh)
            going_on = work.close(ended, anyway=expired)
            work.write_notes()
        self._due = sorted({*self._due, *work.due})
        self._wrote_at = time.monotonic()
        followers.taken(portions)
        for association_id in expired:
            del self._lingering[association_id]
        self._lingering |= dict.fromkeys(going_on, time.monotonic() + LINGER_SECONDS)

    def _write_one_by_one(self, followers: SegmentFollowers, portions: Sequence[Portion]) -> None:
        """The database does not take one of the objects: find it, and go on without it."""
        for portion in [part for one in portions for part in one.one_by_one()]:
            try:
                self._write(followers, [portion])
            except (sa.exc.StatementError, ValueError) as error:
                if not _may_be_the_content(error):
                    raise
                self._write(followers, [portion.without_objects()])

    def _raise_mark(self, followers: SegmentFollowers, now: datetime) -> None:
        """All that was received before the mark is indexed (`hub.store.index_mark`)."""
        behind = followers.behind()
        known = [moment for moment in behind if moment is not None]
        if len(known) == len(behind):
            mark = min([now, *known])
            self._mark.set(mark)
            self._due = [due for due in self._due if due > mark]


def _ended(portions: Sequence[Portion], *, but: Collection[str]) -> dict[str, datetime | None]:
    """Transfers of which a part ended here -> when its writer said so last; without some."""
    ended: dict[str, datetime | None] = {}
    for one in portions:
        association_id, at = one.header.association_id, one.ended_at
        if one.end is not None and association_id not in but:
            before = ended.get(association_id)
            ended[association_id] = max(before, at) if before and at else before or at
    return ended


def _may_be_the_content(error: Exception) -> bool:
    """The values are at fault, and not the database or the statement."""
    return isinstance(error, sa.exc.DataError | ValueError) or not isinstance(
        error, sa.exc.DBAPIError
    )
