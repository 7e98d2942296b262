"""Vendors that work on what nobody waits for any more: each is told, by a job of its own.

Whatever ends the wait enqueues the job in its own transaction, so that a crash forgets nobody. To
tell is best effort (docs/contract): nothing depends on whether the vendor listens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.delivery import RetryPolicy
from hub.domain.inference import Deferred
from hub.ports import Job, Jobs
from hub.store import deferred, results
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.results import RequestRow
from hub.store.schema import requests

ABANDON_JOB = "abandon"
_POLICY = RetryPolicy(first_delay=2.0, max_delay=60.0, attempts=3)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A vendor's job that nobody waits for any more."""

    row: RequestRow
    job: Deferred
    attempt: int
    """Which time the vendor is told."""


def enqueue(connection: sa.Connection, jobs: Jobs, row: RequestRow) -> None:
    """Have whoever works on a request told, in the caller's transaction, before the vendor's job is
    forgotten. Nothing happens where nobody does: the answer is here, or there is no job that could
    be named."""
    held = deferred.get(connection, row.request_id)
    if held is not None and held.answer is None and held.job.job_reference:
        jobs.enqueue(connection, _job(Abandoned(row, held.job, 1)))


def _job(one: Abandoned) -> Job:
    row = one.row
    return Job(
        kind=ABANDON_JOB,
        queue=row.queue,
        partition=row.model.model_id,
        job_id=f"request:{row.request_id}:{row.attempts}:abandon:{one.attempt}",
        argument=f"{row.request_id} {one.attempt} {one.job.job_reference}",
        priority=int(row.priority),
    )


@dataclass(frozen=True, slots=True)
class AbandonLedger:
    """What becomes of telling."""

    database: Database
    jobs: Jobs
    journal: Journal

    def begin(self, argument: str) -> Abandoned | None:
        """Whom to tell; None where that is over: the request was deleted, or asked again, and its
        vendor goes on with the same job."""
        request_id, attempt, reference = argument.split(" ", 2)
        with self.database.read() as connection:
            query = sa.select(requests).where(requests.c.request_id == request_id)
            row = connection.execute(query).one_or_none()
            held = deferred.get(connection, request_id)
        if row is None or (held is not None and held.job.job_reference == reference):
            return None
        job = Deferred(request_id, reference, self.journal.clock.now())
        return Abandoned(results.request_from_row(row), job, int(attempt))

    def told(self, one: Abandoned) -> None:
        """The vendor knows."""
        with self.database.write() as connection:
            self._record(connection, one, AuditOutcome.SUCCESS)

    def failed(self, one: Abandoned, reason: str, *, for_good: bool = False) -> None:
        """It could not be told now: it is tried again, and not often."""
        delay = None if for_good else _POLICY.delay_after(one.attempt)
        with self.database.write() as connection:
            if delay is None:
                self._record(connection, one, AuditOutcome.MINOR_FAILURE, reason=reason)
            else:
                again = replace(one, attempt=one.attempt + 1)
                self.jobs.enqueue(connection, replace(_job(again), delay_seconds=delay))

    def _record(
        self, connection: sa.Connection, one: Abandoned, outcome: AuditOutcome, **detail: object
    ) -> None:
        self.journal.record(
            connection,
            "inference.abandoned",
            f"request:{one.row.request_id}",
            one.row.study.study_instance_uid,
            outcome=outcome,
            model=str(one.row.model),
            job_reference=one.job.job_reference,
            **detail,
        )
