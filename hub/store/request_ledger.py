"""The life of an inference request: each change with its audit row and its next job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.delivery import RetryPolicy
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.errors import TransientError
from hub.ports import Job, Jobs
from hub.store import results
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.report_ledger import ReportLedger
from hub.store.results import OPEN_STATES, RequestRow, RequestState

REQUEST_JOB = "request"
MOST_LOST_ATTEMPTS = 10
"""An attempt is lost when its process dies; a request that kills every process that tries it ends
as a dead letter."""


@dataclass(frozen=True, slots=True)
class RequestLedger:
    """queued -> running -> done | failed | quarantined, with retrying in between."""

    database: Database
    jobs: Jobs
    journal: Journal
    retry_policy: RetryPolicy

    def create(
        self, connection: sa.Connection, request: RequestRow, first: Job | None = None
    ) -> None:
        """Record a request and enqueue its job, once for its deterministic identifier; or another
        job first, which calls ``start`` in the end."""
        if results.add_request(connection, request):
            if first is not None:
                self.jobs.enqueue(connection, first)
            else:
                self.start(connection, request)

    def start(self, connection: sa.Connection, request: RequestRow) -> None:
        """Enqueue the job of a request that is on record."""
        self._enqueue(connection, request, delay_seconds=0.0)

    def begin(self, request_id: str) -> RequestRow | None:
        """Start an attempt; None when the request was answered already (before a crash)."""
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            if row.state not in OPEN_STATES:
                return None
            if row.state is RequestState.RUNNING and row.attempts >= MOST_LOST_ATTEMPTS:
                reason = f"the process that worked on it died or hung ({row.attempts} attempts)"
                self._end(connection, row, RequestState.FAILED, reason)
                return None
            begun = replace(row, state=RequestState.RUNNING, attempts=row.attempts + 1)
            results.set_state(
                connection,
                request_id,
                begun.state,
                attempts=begun.attempts,
                started_at=self.journal.clock.now(),
            )
            self._record(
                connection, "inference.started", row, model=str(row.model), attempt=begun.attempts
            )
        return begun

    def finish(
        self,
        connection: sa.Connection,
        row: RequestRow,
        request: InferenceRequest,
        result: InferenceResult,
        documents: Mapping[str, str],
    ) -> bool:
        """Record the answer in the caller's transaction. ``documents``: identifier -> SHA-256 of
        the bytes, for the audit log.

        False when another worker answered first: it was thought dead, and was not.
        """
        if results.get_request(connection, row.request_id).state not in OPEN_STATES:
            return False
        now = self.journal.clock.now()
        results.add_result(connection, result, now)
        results.set_state(
            connection,
            row.request_id,
            RequestState.DONE,
            finished_at=now,
            detail="; ".join(result.reasons),
        )
        self._record(
            connection,
            "inference.finished",
            row,
            model=str(result.model),
            model_sha256=result.model.sha256,
            input_instances=sum(len(series.instances) for series in request.series),
            result=result.outcome.value,
            reasons=list(result.reasons),
            documents=dict(documents),
        )
        return True

    def retry(self, row: RequestRow, error: TransientError) -> None:
        """Try again later, or give up when the policy says that it was often enough."""
        delay = self.retry_policy.delay_after(row.attempts, error.retry_after)
        if delay is None:
            self.end(row, RequestState.FAILED, f"{error} ({row.attempts} attempts)")
            return
        with self.database.write() as connection:
            if not self._is_current(connection, row):
                return
            results.set_state(connection, row.request_id, RequestState.RETRYING, detail=str(error))
            self._enqueue(connection, row, delay_seconds=delay)
            self._record(
                connection,
                "inference.retrying",
                row,
                outcome=AuditOutcome.MINOR_FAILURE,
                reason=str(error),
                attempt=row.attempts,
                delay_seconds=delay,
            )

    def quarantine(self, connection: sa.Connection, row: RequestRow, reason: str) -> bool:
        """Nothing of the answer is sent until a person decides; in the caller's transaction.
        False when another worker answered first."""
        if not self._is_current(connection, row):
            return False
        self._end(connection, row, RequestState.QUARANTINED, reason)
        return True

    def end(self, row: RequestRow, state: RequestState, reason: str) -> None:
        """A dead letter: recorded and alerted, never read as "nothing found"."""
        with self.database.write() as connection:
            if self._is_current(connection, row):
                self._end(connection, row, state, reason)

    @staticmethod
    def _is_current(connection: sa.Connection, row: RequestRow) -> bool:
        """Nobody answered meanwhile, or began another attempt: this worker was not thought dead."""
        current = results.get_request(connection, row.request_id)
        return current.state in OPEN_STATES and current.attempts == row.attempts

    def _end(
        self, connection: sa.Connection, row: RequestRow, state: RequestState, reason: str
    ) -> None:
        results.set_state(
            connection,
            row.request_id,
            state,
            detail=reason,
            finished_at=self.journal.clock.now(),
        )
        self.journal.alarm(
            connection,
            f"inference.{state.value}",
            f"request:{row.request_id}",
            row.study.study_instance_uid,
            reason=reason,
            attempts=row.attempts,
        )
        if state is RequestState.FAILED:
            reports = ReportLedger(self.database, self.jobs, self.journal)
            reports.ask_for_failure(connection, row)

    def fail(self, request_id: str, reason: str) -> None:
        """A fault of the hub itself ended an attempt."""
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            if row.state not in OPEN_STATES:
                return
            if row.state is not RequestState.RUNNING:  # not even begun: it counts all the same
                row = replace(row, attempts=row.attempts + 1)
                results.set_state(connection, request_id, row.state, attempts=row.attempts)
        self.retry(row, TransientError(reason))

    def ask_again(self, request_id: str) -> bool:
        """A person asks for a failed request again; False when it did not fail."""
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            if row.state is not RequestState.FAILED:
                return False
            results.set_state(connection, request_id, RequestState.QUEUED, finished_at=None)
            self._enqueue(connection, row, delay_seconds=0.0)
            self._record(connection, "request.asked-again", row)
        return True

    def _enqueue(self, connection: sa.Connection, row: RequestRow, *, delay_seconds: float) -> None:
        self.jobs.enqueue(
            connection,
            Job(
                kind=REQUEST_JOB,
                queue=row.queue,
                partition=row.model.model_id,
                job_id=f"request:{row.request_id}:{row.attempts}",
                argument=row.request_id,
                priority=int(row.priority),
                delay_seconds=delay_seconds,
            ),
        )

    def _record(
        self,
        connection: sa.Connection,
        action: str,
        row: RequestRow,
        *,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        **detail: object,
    ) -> None:
        self.journal.record(
            connection,
            action,
            f"request:{row.request_id}",
            row.study.study_instance_uid,
            outcome=outcome,
            **detail,
        )
