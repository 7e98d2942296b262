"""The life of an inference request: each change with its audit row and its next job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.delivery import RetryPolicy
from hub.domain.inference import Deferred, InferenceRequest, InferenceResult
from hub.errors import JobLostError, TransientError
from hub.ports import Job, Jobs
from hub.store import abandoning, deferred, order_rows, registrations, results
from hub.store.database import Database
from hub.store.deferred import DeferredAnswer
from hub.store.journal import Journal
from hub.store.report_ledger import ReportLedger
from hub.store.results import OPEN_STATES, RequestRow, RequestState

REQUEST_JOB = "request"
ORDER_CANCELLED = "its order was cancelled"
"""Why a request was discarded that had not begun, or that a vendor still worked on."""
MOST_LOST_ATTEMPTS = 10
"""An attempt is lost when its process dies; a request that kills every process that tries it ends
as a dead letter."""


@dataclass(frozen=True, slots=True)
class RequestLedger:
    """queued -> running -> done | failed | quarantined, with retrying and waiting in between."""

    database: Database
    jobs: Jobs
    journal: Journal
    retry_policy: RetryPolicy
    ask_again_seconds: float = 5.0
    """After a question about a job that could not be put; a vendor may say that it takes longer."""

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

    def begin(
        self,
        request_id: str,
        question: str = "",
        answer_within: Callable[[RequestRow], timedelta | None] = lambda _: None,
    ) -> RequestRow | None:
        """Start an attempt, or go on with one that waits; None when there is nothing to do: the
        request was answered already (before a crash), or another job asks after its answer.

        Args:
            request_id: of a request on record.
            question: of a job that asks after an answer: which time this is.
            answer_within: how long after its first attempt nobody waits any more.
        """
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            held = deferred.get(connection, request_id)
            if row.state not in OPEN_STATES or _is_asked_by_another(row, held, question):
                return None
            if row.state is RequestState.RUNNING and row.attempts >= MOST_LOST_ATTEMPTS:
                reason = f"the process that worked on it died or hung ({row.attempts} attempts)"
                self._end(connection, row, RequestState.FAILED, reason, abandons=True)
                return None
            goes_on, now = row.state is RequestState.WAITING, self.journal.clock.now()
            begun = replace(
                row,
                state=RequestState.RUNNING,
                attempts=row.attempts + (0 if goes_on else 1),
                started_at=row.started_at if goes_on else now,
                deadline_at=_deadline(row, answer_within(row), now),
                deferred=held,
            )
            results.set_state(
                connection,
                request_id,
                begun.state,
                attempts=begun.attempts,
                started_at=begun.started_at,
                deadline_at=begun.deadline_at,
            )
            if not goes_on and (held is None or held.answer is None):
                attempt, model = begun.attempts, str(row.model)
                self._record(connection, "inference.started", row, model=model, attempt=attempt)
        return begun

    def wait(self, row: RequestRow, job: Deferred) -> None:
        """The answer comes later: nothing runs for the request until then, or until its deadline.
        What came to the callback meanwhile is not lost. Where that is worked on already, only the
        vendor's word is recorded."""
        with self.database.write() as connection:
            if self._is_current(connection, row):
                self._put_off(connection, row, job, "")
            elif row.deferred is None:
                self._record_word(connection, row, job)

    def _put_off(
        self, connection: sa.Connection, row: RequestRow, job: Deferred, detail: str
    ) -> None:
        now = self.journal.clock.now()
        held = deferred.put_off(connection, job, now)
        until = min(job.not_before, row.deadline_at or job.not_before)
        results.set_state(connection, row.request_id, RequestState.WAITING, detail=detail)
        self._enqueue(
            connection,
            row,
            delay_seconds=0.0 if held.answer else max(0.0, (until - now).total_seconds()),
            question=str(held.questions),
        )
        if row.deferred is None or row.deferred.job.job_reference != job.job_reference:
            self._record_word(connection, row, job)

    def _record_word(self, connection: sa.Connection, row: RequestRow, job: Deferred) -> None:
        self._record(
            connection,
            "inference.deferred",
            row,
            model=str(row.model),
            job_reference=job.job_reference,
            not_before=job.not_before.isoformat(),
            deadline=None if row.deadline_at is None else row.deadline_at.isoformat(),
        )

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
        ordered = order_rows.answered_by(connection, row.request_id)
        deferred.forget(connection, row.request_id)
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
            ran_on=result.ran_on,
            input_instances=sum(len(series.instances) for series in request.series),
            result=result.outcome.value,
            reasons=list(result.reasons),
            documents=dict(documents),
        )
        order_rows.settle(connection, self.journal, ordered)
        return True

    def retry(self, row: RequestRow, error: TransientError) -> None:
        """Try again later, or give up when the policy says that it was often enough. Of a request
        that waits for an answer its deadline says so."""
        lost = isinstance(error, JobLostError)
        if row.deadline_at is not None and row.deadline_at <= self.journal.clock.now():
            reason = f"no answer came by the deadline; {error}"
            self.end(row, RequestState.FAILED, reason, abandons=not lost)
            return
        if row.deferred is not None and row.deferred.answer is None and not lost:
            self._ask_later(row, row.deferred.job, error)
            return
        delay = self.retry_policy.delay_after(row.attempts, error.retry_after)
        if delay is None:
            self.end(row, RequestState.FAILED, f"{error} ({row.attempts} attempts)")
            return
        with self.database.write() as connection:
            if not self._is_current(connection, row):
                return
            if lost:
                deferred.forget(connection, row.request_id)
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

    def _ask_later(self, row: RequestRow, job: Deferred, error: TransientError) -> None:
        asked = min(error.retry_after or 0.0, self.retry_policy.longest_wait)
        delay = timedelta(seconds=max(asked, self.ask_again_seconds))
        later = replace(job, not_before=self.journal.clock.now() + delay)
        with self.database.write() as connection:
            if not self._is_current(connection, row):
                return
            self._put_off(connection, row, later, str(error))
            if str(error) != row.detail:  # once, however often
                minor = AuditOutcome.MINOR_FAILURE
                self._record(
                    connection, "inference.unanswered", row, outcome=minor, reason=str(error)
                )

    def quarantine(
        self, connection: sa.Connection, row: RequestRow, reason: str, *, abandons: bool = False
    ) -> bool:
        """Nothing of the answer is sent until a person decides; in the caller's transaction.
        False when another worker answered first. ``abandons`` as of ``end``."""
        if not self._is_current(connection, row):
            return False
        self._end(connection, row, RequestState.QUARANTINED, reason, abandons=abandons)
        return True

    def end(
        self, row: RequestRow, state: RequestState, reason: str, *, abandons: bool = False
    ) -> None:
        """A dead letter: recorded and alerted, never read as "nothing found". ``abandons``: who
        works on the answer has not said anything yet, and is told that nobody waits."""
        with self.database.write() as connection:
            if self._is_current(connection, row):
                self._end(connection, row, state, reason, abandons=abandons)

    @staticmethod
    def _is_current(connection: sa.Connection, row: RequestRow) -> bool:
        """Nobody answered meanwhile, or began another attempt: this worker was not thought dead."""
        current = results.get_request(connection, row.request_id)
        return current.state in OPEN_STATES and current.attempts == row.attempts

    def _end(
        self,
        connection: sa.Connection,
        row: RequestRow,
        state: RequestState,
        reason: str,
        *,
        abandons: bool = False,
    ) -> None:
        ordered = order_rows.answered_by(connection, row.request_id)
        if abandons:
            abandoning.enqueue(connection, self.jobs, row)
        deferred.forget(connection, row.request_id)
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
        order_rows.settle(connection, self.journal, ordered)
        if state is RequestState.FAILED:
            reports = ReportLedger(self.database, self.jobs, self.journal)
            reports.ask_for_failure(connection, row)

    def wake_stopped(self) -> int:
        """Have requests go on at once that wait for a model which a person has stopped: they end,
        and whoever works on them is told. Returns how many; cheap where there are none."""
        with self.database.read() as connection:
            stopped = registrations.stopped_and_waited_for(connection)
            found = results.waiting_for(connection, stopped) if stopped else []
        if found:
            with self.database.write() as connection:
                for row, questions in found:
                    job_id = f"request:{row.request_id}:{row.attempts}:{questions}:stopped"
                    self.jobs.enqueue(connection, request_job(row, job_id, str(questions)))
        return len(found)

    def fail(self, request_id: str, reason: str) -> None:
        """A fault of the hub itself ended an attempt."""
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            if row.state not in OPEN_STATES:
                return
            if row.state is not RequestState.RUNNING:  # not even begun: it counts all the same
                row = replace(row, attempts=row.attempts + 1)
                results.set_state(connection, request_id, row.state, attempts=row.attempts)
            row = replace(row, deferred=deferred.get(connection, request_id))
        self.retry(row, TransientError(reason))

    def ask_again(self, request_id: str) -> bool:
        """A person asks for a failed request again; False when it did not fail."""
        with self.database.write() as connection:
            return self.reopen(connection, request_id)

    def reopen(self, connection: sa.Connection, request_id: str) -> bool:
        """As ``ask_again``, in the caller's transaction; also one that was not answered because
        its order was cancelled."""
        row = results.get_request(connection, request_id)
        was_cancelled = row.state is RequestState.DISCARDED and row.detail == ORDER_CANCELLED
        if row.state is not RequestState.FAILED and not was_cancelled:
            return False
        row = replace(row, attempts=row.attempts + (1 if was_cancelled else 0))
        anew: dict[str, object] = {"finished_at": None, "started_at": None, "deadline_at": None}
        anew["attempts"] = row.attempts  # the first job of this number is over
        results.set_state(connection, request_id, RequestState.QUEUED, **anew)
        self._enqueue(connection, row, delay_seconds=0.0)
        self._record(connection, "request.asked-again", row)
        return True

    def _enqueue(
        self,
        connection: sa.Connection,
        row: RequestRow,
        *,
        delay_seconds: float,
        question: str = "",
    ) -> None:
        attempt = f"request:{row.request_id}:{row.attempts}"
        job = request_job(row, f"{attempt}:{question}" if question else attempt, question)
        self.jobs.enqueue(connection, replace(job, delay_seconds=delay_seconds))

    def _record(
        self,
        connection: sa.Connection,
        action: str,
        row: RequestRow,
        *,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        **detail: object,
    ) -> None:
        record_request(self.journal, connection, action, row, outcome=outcome, **detail)


def request_job(row: RequestRow, job_id: str, question: str = "") -> Job:
    """What works on a request: one attempt, or one question after an answer that comes later."""
    return Job(
        kind=REQUEST_JOB,
        queue=row.queue,
        partition=row.model.model_id,
        job_id=job_id,
        argument=f"{row.request_id} {question}" if question else row.request_id,
        priority=int(row.priority),
    )


def record_request(
    journal: Journal,
    connection: sa.Connection,
    action: str,
    row: RequestRow,
    *,
    outcome: AuditOutcome = AuditOutcome.SUCCESS,
    **detail: object,
) -> None:
    """An audit row of a request."""
    journal.record(
        connection,
        action,
        f"request:{row.request_id}",
        row.study.study_instance_uid,
        outcome=outcome,
        **detail,
    )


def _is_asked_by_another(row: RequestRow, held: DeferredAnswer | None, question: str) -> bool:
    """A job that ran once more after a crash must not begin a second line of questions."""
    if row.state is not RequestState.WAITING or held is None or held.answer is not None:
        return False
    return question != str(held.questions)


def _deadline(row: RequestRow, within: timedelta | None, now: datetime) -> datetime | None:
    """Of the order, or counted from the first attempt: whichever is earlier. It never moves."""
    if within is None:
        return row.deadline_at
    return min(row.deadline_at or now + within, now + within)
