"""The job engine, set up once: DBOS on the hub's own database.

What the rest of the hub relies on: a job enqueued in a transaction runs if and only if that
transaction commits; a job that was started runs to its end, on another host if need be; jobs
are functions of plain text arguments, so nothing but JSON is ever stored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from dbos._queue import queue_worker_thread

from hub.ports import AFTER_COMMIT, Job

APPLICATION = "caidx-hub"
WORKFLOW_VERSION = "1"
"""Pinned by us: a new release goes on with the jobs of the old one. Raise it only together with
a migration of the jobs in flight."""
POLLING_SECONDS = 0.05
_MAX_THREADS = 64
_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_FORGOTTEN_AT_ONCE = 200
_NO_LIMIT = 1_000_000
"""Recoveries of one job: a request counts its own attempts, and ends them."""

Work = Callable[[str], None]
"""What a kind of job does with its argument; it records its own failures."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A line of jobs; lower priorities run first.

    A queue with ``partition_concurrency`` is one line per partition key (a model, a destination),
    each with that limit. Partitions with the same limit share a queue because every queue costs
    its own polling: about 5 % of a core each.
    """

    name: str
    partition_concurrency: int | None = None
    """Most jobs of one partition at once, on all hosts together."""
    worker_concurrency: int | None = None
    """Most jobs at once in one worker."""


class JobQueue:
    """Puts jobs into the hub's own transactions; any process may hold one.

    ``on_committed`` is told the queue of every job that may run as soon as it is committed: an
    engine in the same process need not wait for its next look (``Engine.look_now``).
    """

    def __init__(
        self, database_url: str, on_committed: Callable[[str], None] | None = None
    ) -> None:
        self._on_committed = on_committed
        self._client = DBOSClient(
            system_database_url=database_url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
        )

    def enqueue(self, connection: sa.Connection, job: Job) -> None:
        """Enqueue within the caller's transaction (hub.ports.Jobs)."""
        options: EnqueueOptions = {
            "workflow_name": job.kind,
            "queue_name": job.queue,
            "workflow_id": job.job_id,
            "app_version": WORKFLOW_VERSION,
            "priority": job.priority,
        }
        if job.partition is not None:
            options["queue_partition_key"] = job.partition
        if job.delay_seconds > 0:
            options["delay_seconds"] = job.delay_seconds
        self._client.enqueue_in_transaction(connection, options, job.argument)
        if self._on_committed is not None and job.delay_seconds <= 0:
            calls = connection.info.setdefault(AFTER_COMMIT, [])
            calls.append(partial(self._on_committed, job.queue))

    def close(self) -> None:
        self._client.destroy()


class _Bell(threading.Event):
    """The stop event of a thread that looks for jobs, which can also be woken to look now."""

    def __init__(self) -> None:
        super().__init__()
        self._rung = threading.Event()

    def ring(self) -> None:
        self._rung.set()

    def set(self) -> None:
        super().set()
        self._rung.set()

    def wait(self, timeout: float | None = None) -> bool:
        """As of an event; a ring ends the wait early, as if the time were over."""
        self._rung.wait(timeout)
        self._rung.clear()
        return self.is_set()


class Engine:
    """Runs jobs in this process. One per process: the engine below is a singleton."""

    def __init__(self, database_url: str, executor_id: str) -> None:
        logging.getLogger("dbos").setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": database_url,
            "application_version": WORKFLOW_VERSION,
            "executor_id": executor_id,
            "serializer": DBOSPortableJSONSerializer(),
            "max_executor_threads": _MAX_THREADS,
            "notification_listener_polling_interval_sec": 1.0,
            "log_level": "WARNING",
        }
        self._dbos = DBOS(config=config)
        self._bells: dict[str, _Bell] = {}
        self._opening = threading.Lock()

    def start(self, work: Mapping[str, Work], queues: tuple[Queue, ...]) -> None:
        """Register what can run and begin to run it."""
        for kind, run in work.items():
            DBOS.workflow(name=kind, max_recovery_attempts=_NO_LIMIT)(run)
        DBOS.listen_queues([])  # the threads that look for jobs are started below
        DBOS.launch()
        _claim_in_turn(self._dbos._sys_db)  # noqa: SLF001 - see there
        for queue in queues:
            _register(queue)
        self._look_for_jobs()

    def open(self, queue: Queue) -> None:
        """Begin to run the jobs of one more queue; nothing happens where this process does."""
        if queue.name not in self._bells:
            _register(queue)
            self._look_for_jobs()

    def _look_for_jobs(self) -> None:
        """One thread for each queue, those of earlier configurations too: jobs may be left.

        They are the engine's own threads, started by us so that they can be woken; the engine's
        version is pinned, and a test holds it to this.
        """
        with self._opening:
            for queue in DBOS.list_queues():
                if queue.name in self._bells:
                    continue
                bell = self._bells[queue.name] = _Bell()
                threading.Thread(
                    target=queue_worker_thread,
                    args=(bell, self._dbos, queue),
                    name=f"queue-{queue.name}",
                    daemon=True,
                ).start()

    def look_now(self, queue_name: str) -> None:
        """A job was committed to a queue: look for it at once."""
        bell = self._bells.get(queue_name)
        if bell is not None:
            bell.ring()

    def take_over(self, executor_id: str) -> int:
        """Put a dead worker's jobs back into their queues; harmless when repeated.

        The call is private in the engine (its public twin puts jobs into another queue and so
        escapes their limits); the engine's version is pinned, and a test holds it to this.
        """
        self._look_for_jobs()  # in queues that only the dead worker knew, too
        return len(self._dbos._recover_pending_workflows([executor_id]))  # noqa: SLF001

    def holders(self) -> frozenset[str]:
        """Executors of the jobs that have begun and not ended, dead ones too."""
        begun = DBOS.list_workflows(
            status="PENDING", app_version=WORKFLOW_VERSION, load_input=False, load_output=False
        )
        return frozenset(job.executor_id for job in begun if job.executor_id)

    def forget_finished(self, before: datetime) -> int:
        """Drop the records of jobs that ended before; returns how many. Each job asks first what
        is already done, so that one which is enqueued once more does no harm."""
        dropped = 0
        while ended := DBOS.list_workflows(
            status=list(_ENDED),
            completed_before=before.isoformat(),
            limit=_FORGOTTEN_AT_ONCE,
            load_input=False,
            load_output=False,
        ):
            DBOS.delete_workflows([job.workflow_id for job in ended])
            dropped += len(ended)
        return dropped

    def stop(self, timeout_seconds: int) -> None:
        """Let running jobs end for a while, then leave the rest to recovery."""
        for bell in self._bells.values():
            bell.set()
        DBOS.destroy(workflow_completion_timeout_sec=timeout_seconds)


def _register(queue: Queue) -> None:
    DBOS.register_queue(
        queue.name,
        partition_concurrency=queue.partition_concurrency,
        worker_concurrency=queue.worker_concurrency,
        polling_interval_sec=POLLING_SECONDS,
        on_conflict="always_update",
    )


def _claim_in_turn(system_database: Any) -> None:
    """Make counting the running jobs and claiming the next ones a single step on SQLite.

    The engine relies on row locks for that, which SQLite has not got, and the driver begins a
    transaction only at the first write: two workers would both count before either claims, and
    together exceed a limit. Private in the engine; its version is pinned, and a test holds it
    to this.
    """
    if system_database.engine.dialect.name != "sqlite":
        return
    claim, this_thread = system_database.start_queued_workflows, threading.local()

    def begin(connection: sa.Connection) -> None:
        if getattr(this_thread, "claims", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def claim_in_turn(*arguments: Any, **options: Any) -> Any:
        this_thread.claims = True
        try:
            return claim(*arguments, **options)
        finally:
            this_thread.claims = False

    sa.event.listen(system_database.engine, "begin", begin)
    system_database.start_queued_workflows = claim_in_turn


def migrate_engine(database_url: str) -> None:
    """Create or update the engine's tables in the hub's database."""
    DBOS.migrate(database_url)
