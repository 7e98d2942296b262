"""The segments that the indexer follows: which there are, which are ready to be read, how far."""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from hub.errors import IntegrityError
from hub.ports import EndOfTransfer
from hub.store.segments.bell import Rings
from hub.store.segments.format import HEADER_SIZE, RecordHead, SegmentHeader
from hub.store.segments.log_reader import (
    DAMAGED,
    Familiar,
    Flaw,
    Portion,
    Share,
    backlog,
    holds_records,
    read_portion,
)
from hub.store.segments.names import path_of
from hub.store.segments.objects import SegmentStore
from hub.store.segments.watch import SegmentWatch

LOOK_SECONDS = 1.0
"""How often every segment is looked at, whether the bell rang or not."""
SHARE = Share(records=64, length=64 << 20)
"""What a round takes at least of one segment, so that no transfer waits for another."""
RECORDS_PER_ROUND, BYTES_PER_ROUND = 256, 128 << 20
RING_LOST_SECONDS = 1.0
"""So long the last record of a living writer waits for its ring; then the ring was lost, or the
sync hangs. A sync that fails later is one that the indexer's own sync of the same file, whose
handle is older than the failure, reports too (fsync(2), errseq_t): nothing is indexed then."""
UNREADABLE_SECONDS = 30.0
"""So long a segment that is there and cannot be read is tried again, with every look; the others
go on meanwhile. Longer than a disk or its controller takes to come back."""
_NOT_THE_SEGMENT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EINTR}
)
"""Why a whole segment may be unreadable: it is tried again for as long as that lasts."""
_LOCKS_PER_LOOK = 100
"""Of segments in which nothing happens: so many are asked whether their writers live."""
_NOBODY = SegmentHeader("", "", "", "", "", "", "", 0.0)
"""Of a segment whose header is damaged."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Lag:
    """What lies in the logs and not in the index."""

    records: int = 0
    length: int = 0
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the index has of a segment that was not read to its end."""

    indexed_to: int
    association_id: str
    study_instance_uid: str


@dataclass(slots=True)
class Follower:
    """A segment that is being written, or not read to its end."""

    segment: str
    header: SegmentHeader
    offset: int
    """Of the first record that is not indexed."""
    joined: bool
    """The database knows the segment."""
    indexed_to: datetime | None = None
    """When the last object that is indexed was received."""
    durable_to: int = 0
    """Its writer said so."""
    held: RecordHead | None = None
    """The last record, while it may not be durable; and since when that is known."""
    held_since: float = 0.0
    familiar: Familiar = field(default_factory=Familiar)


class SegmentFollowers:
    """For one thread, but for ``lag``."""

    def __init__(
        self, objects: SegmentStore, opened: Mapping[str, Known], done: Collection[str]
    ) -> None:
        """
        Args:
            objects: where the segments lie.
            opened: segments that are indexed in part.
            done: segments of which nothing is to be read any more.
        """
        self._objects = objects
        self._opened = opened
        self._watch = SegmentWatch(objects.root)
        self._followers: dict[str, Follower] = {}
        self._ready: dict[str, None] = {}
        """Segments to be read, in turn."""
        self._nameless: set[str] = set()
        """Those whose header is not written yet."""
        self._unread: dict[str, float] = {}
        """Those that are there and cannot be read -> until when that is tried."""
        self._asked = 0
        self._look_at = time.monotonic() + LOOK_SECONDS
        self.lag = Lag()
        """As of the last look."""
        self._follow((self._watch.new_segments() | opened.keys()) - set(done))

    def __len__(self) -> int:
        return len(self._followers)

    @property
    def has_ready(self) -> bool:
        """There is more to read."""
        return bool(self._ready)

    @property
    def seconds_to_look(self) -> float:
        """Until the next look is due."""
        return max(0.0, self._look_at - time.monotonic())

    def unjoined(self) -> list[Follower]:
        """Those that the database does not know."""
        return [follower for follower in self._followers.values() if not follower.joined]

    def associations(self, *, but: Collection[str] = ()) -> set[str]:
        """The transfers that they belong to, without some segments."""
        followers = self._followers.values()
        unread = [one for one in self._unread if one in self._opened and one not in but]
        return {one.header.association_id for one in followers if one.segment not in but} | {
            self._opened[segment].association_id for segment in unread
        }

    def behind(self) -> list[datetime | None]:
        """Of each segment that was not read to its end: before when all of it is indexed; None
        where that is not known."""
        ready = [self._followers[segment].indexed_to for segment in self._ready]
        followers = self._followers.values()
        held = [one.held.received_at for one in followers if one.held is not None]
        return ready + held + [self._indexed_to(segment) for segment in self._unread]

    def _indexed_to(self, segment: str) -> datetime | None:
        follower = self._followers.get(segment)
        return None if follower is None else follower.indexed_to

    # --- what there is -----------------------------------------------------------------------

    def heard(self, rings: Rings) -> None:
        """Somebody wrote to these."""
        rung = rings.segments
        if not rung <= self._followers.keys():
            self._follow(self._watch.met(rung))
        for segment in rung & self._followers.keys():
            follower = self._followers[segment]
            follower.durable_to = max(follower.durable_to, rings.durable_to[segment])
            self._ready[segment] = None

    def find_new(self) -> None:
        """Follow the segments that came into use."""
        nameless, self._nameless = self._nameless, set()
        self._follow(self._watch.new_segments() | nameless)

    def look(self) -> None:
        """Without any ring: new segments, changed ones, and those whose writers are dead."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        self.find_new()
        idle = [segment for segment in self._followers if segment not in self._ready]
        changed = self._watch.changed(idle)
        silent = sorted(set(idle).difference(changed))
        asked = silent[self._asked : self._asked + _LOCKS_PER_LOOK]
        self._asked = self._asked + len(asked) if len(asked) == _LOCKS_PER_LOOK else 0
        dead = [segment for segment in asked if not self._is_being_written(segment)]
        held = [one.segment for one in self._followers.values() if one.held is not None]
        again = self._unread.keys() & self._followers.keys()
        self._ready |= dict.fromkeys((*changed, *dead, *held, *again))
        self._measure_lag()

    def _follow(self, segments: Iterable[str]) -> None:
        for segment in sorted(segments):
            if segment in self._followers:
                continue
            header = self._header(segment)
            if header is not None:
                joined = segment in self._opened
                offset = (self._opened[segment].indexed_to if joined else 0) or HEADER_SIZE
                self._followers[segment] = Follower(segment, header, offset, joined)
                self._ready[segment] = None

    def _header(self, segment: str) -> SegmentHeader | None:
        """Of a new segment; None where it is not there yet, or never will be."""
        try:
            with self._objects.open_log(segment) as log:
                written = log.is_being_written()
                if (header := log.header) is not None:
                    self._unread.pop(segment, None)
                    return header
                if written:
                    self._nameless.add(segment)
                elif holds_records(log, HEADER_SIZE):
                    return self._unknown(segment)
                return None
        except IntegrityError as error:
            if not self._is_there(segment):
                self._unread.pop(segment, None)
                return self._unknown(segment) if segment in self._opened else None
            if not self._is_given_up(segment, error):
                self._nameless.add(segment)
                return None
            return self._unknown(segment)

    def _unknown(self, segment: str) -> SegmentHeader:
        """In place of the header of a segment that has none; what the index knows of it."""
        known = self._opened.get(segment)
        if known is None:
            return _NOBODY
        return replace(
            _NOBODY,
            association_id=known.association_id,
            study_instance_uid=known.study_instance_uid,
        )

    def _is_being_written(self, segment: str) -> bool:
        if not self._is_there(segment):
            return False
        try:
            with self._objects.open_log(segment) as log:
                return log.is_being_written()
        except IntegrityError:
            return False  # to read it says why

    def _is_there(self, segment: str) -> bool:
        try:
            return path_of(self._objects.root, segment).exists()
        except OSError:
            return True  # nobody says that it is gone

    def _is_given_up(self, segment: str, error: IntegrityError) -> bool:
        """Whether a segment that is there was tried for long enough: no other may wait for it.

        Raises:
            IntegrityError: it is not the segment that is at fault.
        """
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NOT_THE_SEGMENT:
            raise error
        now = time.monotonic()
        if segment not in self._unread:
            log.warning("segment.unreadable", segment=segment, reason=str(error))
        return now >= self._unread.setdefault(segment, now + UNREADABLE_SECONDS)

    def _measure_lag(self) -> None:
        records = length = 0
        for segment in filter(self._is_there, self._ready):
            with suppress(IntegrityError), self._objects.open_log(segment) as log:
                waiting = backlog(log, self._followers[segment].offset)
                records, length = records + waiting[0], length + waiting[1]
        self.lag = Lag(records, length)

    # --- what there is to read ---------------------------------------------------------------

    def read(self) -> list[Portion]:
        """What is next, of every segment a part; durable. ``taken`` tells that it is indexed."""
        portions, left, ready = list[Portion](), RECORDS_PER_ROUND, list(self._ready)
        records = max(SHARE.records, RECORDS_PER_ROUND // max(1, len(ready)))
        length = max(SHARE.length, BYTES_PER_ROUND // max(1, len(ready)))
        for segment in ready:
            if left <= 0:
                break
            share = Share(min(records, left), length)
            follower = self._followers[segment]
            portion = self._portion(follower, share)
            if portion.is_news(follower.offset):
                portions.append(portion)
                left -= len(portion.arrivals)
            else:
                del self._ready[segment]
            if not _holds(follower, portion.held):
                self._ready[segment] = None
        return portions

    def _portion(self, follower: Follower, share: Share) -> Portion:
        self._watch.about_to_read(follower.segment)
        try:
            with self._objects.open_log(follower.segment) as log:
                portion = read_portion(
                    log,
                    follower.header,
                    follower.offset,
                    share,
                    durable_to=follower.durable_to,
                    familiar=follower.familiar,
                )
                if portion.is_news(follower.offset):
                    log.sync()
        except IntegrityError as error:
            portion = Portion(follower.segment, follower.header, follower.offset)
            reason = "the segment is gone"
            if self._is_there(follower.segment):
                if not self._is_given_up(follower.segment, error):
                    return portion
                reason = "the segment cannot be read from the disk"
            portion.flaws.append(Flaw(DAMAGED, reason, follower.offset))
            portion.end = EndOfTransfer.ABORTED.value
            return portion
        self._unread.pop(follower.segment, None)
        return _without_header(portion) if not follower.header.receiver_id else portion

    def taken(self, portions: Sequence[Portion]) -> None:
        """They are indexed: go on behind them."""
        for follower in self._followers.values():
            follower.joined = True
        for portion in portions:
            follower = self._followers[portion.segment]
            del self._ready[portion.segment]
            follower.offset = portion.until
            if portion.arrivals:
                follower.indexed_to = portion.arrivals[-1].received_at
            if portion.end is not None:
                del self._followers[portion.segment]
                self._unread.pop(portion.segment, None)
                self._watch.forget(portion.segment)
            elif portion.more:
                self._ready[portion.segment] = None


def _holds(follower: Follower, held: RecordHead | None) -> bool:
    """Remember a record that may not be durable; False for one that nobody took back for long:
    its ring was lost."""
    now = time.monotonic()
    if held is None or follower.held is None or held.end != follower.held.end:
        follower.held_since = now
    elif now - follower.held_since > RING_LOST_SECONDS:
        follower.durable_to, follower.held = held.end, None
        return False
    follower.held = held
    return True


def _without_header(portion: Portion) -> Portion:
    """Nobody knows whose objects these are: a person has to look."""
    flaw = Flaw(DAMAGED, "the header of the segment is not as it was written", 0)
    end = EndOfTransfer.ABORTED.value
    return replace(portion, arrivals=[], flaws=[flaw], end=end, more=False)
