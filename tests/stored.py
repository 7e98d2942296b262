"""Objects received and indexed as the hub does it, for tests of what comes after.

``store_objects(database, folder, objects)`` is one transfer; a `StoreBench` keeps the parts for
tests that send more than once or look in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hub.ports import Clock, EndOfTransfer, ReceivedObject, Sender
from hub.store.database import Database
from hub.store.index_batch import QuietTimes, Rules
from hub.store.indexing import Indexer
from hub.store.reception import IntakeLimits, Rejection, SegmentIntake, StudyReception
from hub.store.segments.bell import Bell
from hub.store.segments.extents import ExtentPool
from hub.store.segments.names import BELL
from hub.store.segments.objects import SegmentStore
from tests.fakes import FrozenClock

SENDER = Sender(source="dicom", calling_ae_title="SCANNER", address="127.0.0.1")


@dataclass
class StoreBench:
    """An intake and its indexer over one folder; the indexer runs when the test says so."""

    database: Database
    root: Path
    """``<data>/objects``."""
    clock: Clock = field(default_factory=FrozenClock)
    quiet_times: Mapping[str, QuietTimes] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = SegmentStore(self.root)
        self.pool = ExtentPool(self.root, ready_bytes=0, minimum_free_bytes=0)
        self.bell = Bell(self.root / BELL)
        self.intake = SegmentIntake(
            self.pool, self.bell, self.clock, "receiver", IntakeLimits(), self.rejections.append
        )
        self.indexer = self.new_indexer()

    def new_indexer(self) -> Indexer:
        """Another one, as after a restart; the old one is to be stopped first."""
        rules = Rules(self.clock, self.quiet_times)
        bell = Bell(self.root / BELL)
        return Indexer(self.database, self.objects, bell, rules, pause=0.0)

    def restart(self) -> None:
        """The indexer died, and a new one starts."""
        self.indexer.stop()
        self.indexer = self.new_indexer()

    def open(self, sender: Sender = SENDER) -> StudyReception:
        """Begin a transfer."""
        return self.intake.open(sender)

    def index(self) -> int:
        """Index all there is; returns how many records that was."""
        indexed = 0
        while more := self.indexer.run_once(0.0):
            indexed += more
        return indexed

    def store(
        self,
        objects: Iterable[ReceivedObject],
        end: EndOfTransfer = EndOfTransfer.RELEASED,
        sender: Sender = SENDER,
    ) -> str:
        """One whole transfer, indexed; returns its association's identifier."""
        reception = self.open(sender)
        for received in objects:
            reception.store(received)
        reception.close(end)
        self.index()
        return reception.association_id

    def close(self) -> None:
        """Nothing stays open."""
        self.indexer.stop()
        self.bell.close()


def store_objects(
    database: Database,
    folder: Path,
    objects: Iterable[ReceivedObject],
    *,
    clock: Clock | None = None,
    sender: Sender = SENDER,
    end: EndOfTransfer = EndOfTransfer.RELEASED,
) -> SegmentStore:
    """Receive and index one transfer into an object store (``<data>/objects``)."""
    bench = StoreBench(database, folder, clock or FrozenClock())
    try:
        bench.store(objects, end, sender)
    finally:
        bench.close()
    return bench.objects
