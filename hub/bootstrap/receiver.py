"""The receiver: the sources that listen on ports of their own.

It needs no database to receive: what it stores, the indexer finds. So it starts before all else,
and goes on while the database is away.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field

import structlog

from hub.bootstrap.clock import SystemClock
from hub.bootstrap.desk import Desk
from hub.bootstrap.intake import build_intake
from hub.config import Settings
from hub.errors import ConfigError, ConfigProblem
from hub.log import configure_logging
from hub.ports import Health, SourceContext
from hub.registry import Components
from hub.store.segments.extents import ExtentPool
from hub.store.segments.objects import SegmentStore
from hub.supervisor.faults import Loop
from hub.supervisor.processes import end_with_parent, settle_after_start, this_process
from hub.supervisor.sources import SupervisedSource

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Receiver:
    """Every configured source that has a port of its own, over one intake."""

    sources: tuple[SupervisedSource, ...]
    pool: ExtentPool
    desk: Desk
    heartbeat_seconds: float
    _loops: list[Loop] = field(default_factory=list)

    def start(self) -> None:
        """Listen; everything else can wait."""
        self.pool.start()
        for source in self.sources:
            source.start()
        interval = self.heartbeat_seconds
        turns = Loop("desk", lambda: self.desk.turn(self.health()), interval, at_once=True)
        self._loops.append(turns)
        turns.start()

    def health(self) -> dict[str, Health]:
        return {f"source:{source.name}": source.health() for source in self.sources}

    def stop(self) -> None:
        for source in self.sources:
            source.stop()
        for loop in self._loops:
            loop.stop()
        self.pool.stop()
        self.desk.close(self.health())


def build_receiver(settings: Settings, components: Components) -> Receiver:
    """Build it; nothing listens yet.

    Raises:
        ConfigError: a source can never start as configured.
    """
    clock, process = SystemClock(), this_process("receiver")
    objects = SegmentStore(settings.data / "objects")
    desk = Desk(settings.database_url, objects, process, "receiver", clock)
    pool, intake = build_intake(settings, process, clock, desk)
    sources = []
    for entry in settings.sources:
        connector = components.connectors[entry.kind]
        if connector.build_source is None:
            if connector.build_endpoint is None:  # a stranger's mistake: settings are validated
                problem = ConfigProblem(settings.file, 0, entry.name, f"{entry.kind} is no source")
                raise ConfigError((problem,))
            continue  # the web role serves it
        context = SourceContext(entry.name, intake, clock, desk)
        source = connector.build_source(entry.options, context)
        sources.append(SupervisedSource(entry.name, source, clock))
    return Receiver(tuple(sources), pool, desk, settings.workers.heartbeat_seconds)


def run_receiver(settings: Settings, components: Components) -> None:
    """Run the role in this process until SIGTERM or SIGINT; a second one ends it at once."""
    configure_logging(settings.log.level, settings.log.format)
    end_with_parent()
    stopping = threading.Event()

    def stop(number: int, _frame: object) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    running = build_receiver(settings, components)
    running.start()
    settle_after_start()
    log.info("role.started", role="receiver", pid=os.getpid())
    stopping.wait()
    running.stop()
    log.info("role.stopped", role="receiver", pid=os.getpid())
