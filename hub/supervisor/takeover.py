"""Signs of life, and the end of those that give none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from hub.domain.process import ProcessIdentity
from hub.ports import Clock, Health
from hub.store import workers
from hub.store.database import Database
from hub.supervisor.processes import process_is_alive

log = structlog.get_logger(__name__)


class JobHolder(Protocol):
    """The job engine, as far as it matters here (`hub.durable.Engine`)."""

    def holders(self) -> Collection[str]:
        """Executors that hold jobs."""
        ...

    def take_over(self, executor_id: str) -> int:
        """Put an executor's jobs back into their queues; how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class SignsOfLife:
    """This process's row among the processes of the hub."""

    database: Database
    process: ProcessIdentity
    clock: Clock

    def register(self, role: str) -> None:
        """Begin to hold work."""
        with self.database.write() as connection:
            workers.register(connection, self.process, role, self.clock.now())

    def beat(self, health: Mapping[str, Health]) -> None:
        """Still here, and this is how our components are."""
        with self.database.write() as connection:
            workers.beat(connection, self.process.executor_id, health, self.clock.now())

    def leave(self) -> None:
        """Nothing is held any more."""
        with self.database.write() as connection:
            workers.mark_gone(connection, self.process.executor_id, self.clock.now())


@dataclass(frozen=True, slots=True)
class Takeover:
    """The end of those workers that give no sign of life."""

    database: Database
    process: ProcessIdentity
    clock: Clock
    silence: timedelta
    """Without a sign of life for so long, a process of another host is dead."""

    def dead(self, role: str, holders: Collection[str] = ()) -> list[ProcessIdentity]:
        """Processes of a role that died without leaving, or left while they held work.

        ``holders`` are the executors that hold work: one that had been given up for dead may
        have woken up, begun something, and died before its next sign of life.
        """
        limit = self.clock.now() - self.silence
        with self.database.read() as connection:
            present = workers.present(connection, role, holders)
        return [
            process
            for process, seen_at in present
            if process.executor_id != self.process.executor_id
            and (process_is_alive(process) is False or seen_at < limit)
        ]

    def take_over_jobs(self, engine: JobHolder) -> None:
        """Put the jobs of dead workers back into their queues."""
        for process in self.dead("worker", engine.holders()):
            jobs = engine.take_over(process.executor_id)
            with self.database.write() as connection:
                workers.mark_gone(connection, process.executor_id, self.clock.now())
            log.warning("worker.taken-over", executor_id=process.executor_id, jobs=jobs)
