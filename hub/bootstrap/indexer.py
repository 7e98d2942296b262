"""The indexer: makes the index of what was received."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta

from hub.bootstrap.hub import Hub
from hub.ports import Health
from hub.store.indexing import Indexer, QuietTimes, Rules
from hub.store.segments.bell import Bell
from hub.store.segments.erasing import Eraser
from hub.store.segments.extents import ExtentPool
from hub.supervisor.faults import Loop
from hub.supervisor.processes import settle_after_start, this_process
from hub.supervisor.takeover import SignsOfLife

_ERASE_SECONDS = 1.0
_NICENESS = 10
"""While images come in faster than the processors can do everything, senders go first: the index
follows a little later, and catches up between transfers (nice(2))."""


@dataclass(slots=True)
class IndexerRole:
    """Follows the logs, and overwrites what is not needed any more."""

    hub: Hub
    life: SignsOfLife
    indexer: Indexer
    eraser: Eraser
    _loops: tuple[Loop, ...] = field(default=())

    def start(self) -> None:
        """Go on where the index ends."""
        os.nice(_NICENESS)
        self.life.register("indexer")
        interval = self.hub.settings.workers.heartbeat_seconds
        self._loops = (
            Loop("index", self.indexer.turn, 0.0),
            Loop("heartbeat", lambda: self.life.beat(self.health()), interval),
            Loop("erase", self._erase, _ERASE_SECONDS),
        )
        for loop in self._loops:
            loop.start()
        settle_after_start()

    def health(self) -> dict[str, Health]:
        return {"indexer": self.indexer.health()}

    def stop(self) -> None:
        for loop in self._loops:
            loop.stop()
        self.indexer.stop()
        self.life.leave()

    def _erase(self) -> None:
        self.eraser.turn()


def build_indexer(hub: Hub) -> IndexerRole:
    """The one follower of this data folder, or one that stands by."""
    settings, process = hub.settings, this_process("indexer")
    quiet_times = {
        entry.name: QuietTimes(
            quiet=timedelta(seconds=entry.completeness.quiet_seconds),
            straggler=timedelta(seconds=entry.completeness.straggler_seconds),
        )
        for entry in settings.sources
    }
    root = hub.objects.root
    # It is not started: it only gives extents back, and keeps as many as the writers want ready.
    pool = ExtentPool(root, settings.storage.pool_bytes, settings.storage.minimum_free_bytes)
    return IndexerRole(
        hub=hub,
        life=SignsOfLife(hub.database, process, hub.clock),
        indexer=Indexer(
            hub.database, hub.objects, Bell(root / "bell"), Rules(hub.clock, quiet_times)
        ),
        eraser=Eraser(hub.database, pool, hub.journal(f"indexer:{process.executor_id}")),
    )
