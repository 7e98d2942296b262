"""The segments that the indexer follows: which there are, which are ready to be read, how far."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from hub.errors import IntegrityError
from hub.ports import EndOfTransfer
from hub.store.log_reader import DAMAGED, Flaw, Portion, Share, backlog, holds_records, read_portion
from hub.store.objects import SegmentStore
from hub.store.segment_format import HEADER_SIZE, SegmentHeader
from hub.store.segment_names import path_of
from hub.store.segment_watch import SegmentWatch

LOOK_SECONDS = 1.0
"""How often every segment is looked at, whether the bell rang or not."""
SHARE = Share(records=64, length=64 << 20)
"""What a round takes of one segment, so that no transfer waits for another."""
RECORDS_PER_ROUND = 256
_LOCKS_PER_LOOK = 100
"""Of segments in which nothing happens: so many are asked whether their writers live."""
_NOBODY = SegmentHeader("", "", "", "", "", "", "", 0.0)
"""Of a segment whose header is damaged."""


@dataclass(frozen=True, slots=True)
class Lag:
    """What lies in the logs and not in the index."""

    records: int = 0
    length: int = 0
    """In bytes."""


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


class SegmentFollowers:
    """For one thread, but for ``lag``."""

    def __init__(
        self, objects: SegmentStore, opened: Mapping[str, int], done: Collection[str]
    ) -> None:
        """
        Args:
            objects: where the segments lie.
            opened: segments that are indexed in part -> how far.
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
        return {one.header.association_id for one in followers if one.segment not in but}

    def behind(self) -> list[datetime | None]:
        """Of each segment that was not read to its end: ``Follower.indexed_to``."""
        return [self._followers[segment].indexed_to for segment in self._ready]

    # --- what there is -----------------------------------------------------------------------

    def heard(self, rung: Collection[str]) -> None:
        """Somebody wrote to these."""
        known = rung & self._followers.keys()
        if len(known) < len(rung):
            self.find_new()
            known = rung & self._followers.keys()
        self._ready |= dict.fromkeys(known)

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
        self._ready |= dict.fromkeys((*changed, *dead))
        self._measure_lag()

    def _follow(self, segments: Iterable[str]) -> None:
        for segment in sorted(segments):
            if segment in self._followers:
                continue
            header = self._header(segment)
            if header is not None:
                joined = segment in self._opened
                offset = self._opened.get(segment, 0) or HEADER_SIZE
                self._followers[segment] = Follower(segment, header, offset, joined)
                self._ready[segment] = None

    def _header(self, segment: str) -> SegmentHeader | None:
        """Of a new segment; None where it is not there yet, or never will be."""
        try:
            with self._objects.open_log(segment) as log:
                written = log.is_being_written()
                if (header := log.header) is not None:
                    return header
                if written:
                    self._nameless.add(segment)
                elif holds_records(log, HEADER_SIZE):
                    return _NOBODY
                return None
        except IntegrityError:
            if self._is_there(segment):
                raise
            return _NOBODY if segment in self._opened else None

    def _is_being_written(self, segment: str) -> bool:
        if not self._is_there(segment):
            return False
        with self._objects.open_log(segment) as log:
            return log.is_being_written()

    def _is_there(self, segment: str) -> bool:
        return path_of(self._objects.root, segment).exists()

    def _measure_lag(self) -> None:
        records = length = 0
        for segment in filter(self._is_there, self._ready):
            with self._objects.open_log(segment) as log:
                waiting = backlog(log, self._followers[segment].offset)
            records, length = records + waiting[0], length + waiting[1]
        self.lag = Lag(records, length)

    # --- what there is to read ---------------------------------------------------------------

    def read(self) -> list[Portion]:
        """What is next, of every segment a part; durable. ``taken`` tells that it is indexed."""
        portions, left = [], RECORDS_PER_ROUND
        for segment in list(self._ready):
            if left <= 0:
                break
            share = replace(SHARE, records=min(SHARE.records, left))
            portion = self._portion(self._followers[segment], share)
            if portion.is_news(self._followers[segment].offset):
                portions.append(portion)
                left -= len(portion.arrivals)
            else:
                del self._ready[segment]
        return portions

    def _portion(self, follower: Follower, share: Share) -> Portion:
        self._watch.about_to_read(follower.segment)
        try:
            with self._objects.open_log(follower.segment) as log:
                portion = read_portion(log, follower.header, follower.offset, share)
                if portion.is_news(follower.offset):
                    log.sync()
        except IntegrityError:
            if self._is_there(follower.segment):
                raise
            portion = Portion(follower.segment, follower.header, follower.offset)
            portion.flaws.append(Flaw(DAMAGED, "the segment is gone", follower.offset))
            portion.end = EndOfTransfer.ABORTED.value
            return portion
        return _without_header(portion) if follower.header is _NOBODY else portion

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
                self._watch.forget(portion.segment)
            elif portion.more:
                self._ready[portion.segment] = None


def _without_header(portion: Portion) -> Portion:
    """Nobody knows whose objects these are: a person has to look."""
    flaw = Flaw(DAMAGED, "the header of the segment is not as it was written", 0)
    end = EndOfTransfer.ABORTED.value
    return replace(portion, arrivals=[], flaws=[flaw], end=end, more=False)
