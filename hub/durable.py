"""The job engine, set up once: DBOS on the hub's own database.

What the rest of the hub relies on: a job enqueued in a transaction runs if and only if that
transaction commits; a job that was started runs to its end, on another host if need be; jobs
are functions of plain text arguments, so nothing but JSON is ever stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions

from hub.ports import Job

APPLICATION = "caidx-hub"
WORKFLOW_VERSION = "1"
"""Pinned by us: a new release goes on with the jobs of the old one. Raise it only together with
a migration of the jobs in flight."""
POLLING_SECONDS = 0.05
_MAX_THREADS = 64
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
    """Puts jobs into the hub's own transactions; any process may hold one."""

    def __init__(self, database_url: str) -> None:
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

    def close(self) -> None:
        self._client.destroy()


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

    def start(self, work: Mapping[str, Work], queues: tuple[Queue, ...]) -> None:
        """Register what can run and begin to run it."""
        for kind, run in work.items():
            DBOS.workflow(name=kind, max_recovery_attempts=_NO_LIMIT)(run)
        DBOS.launch()
        for queue in queues:
            DBOS.register_queue(
                queue.name,
                partition_concurrency=queue.partition_concurrency,
                worker_concurrency=queue.worker_concurrency,
                polling_interval_sec=POLLING_SECONDS,
                on_conflict="always_update",
            )

    def take_over(self, executor_id: str) -> int:
        """Put a dead worker's jobs back into their queues; harmless when repeated.

        The call is private in the engine (its public twin puts jobs into another queue and so
        escapes their limits); the engine's version is pinned, and a test holds it to this.
        """
        return len(self._dbos._recover_pending_workflows([executor_id]))  # noqa: SLF001

    def stop(self, timeout_seconds: int) -> None:
        """Let running jobs end for a while, then leave the rest to recovery."""
        DBOS.destroy(workflow_completion_timeout_sec=timeout_seconds)


def migrate_engine(database_url: str) -> None:
    """Create or update the engine's tables in the hub's database."""
    DBOS.migrate(database_url)
