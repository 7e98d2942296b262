"""The life of a delivery: each change with its audit row and its next job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.delivery import Delivery, DeliveryState, Document, Receipt, RetryPolicy
from hub.domain.identity import derived_uuid
from hub.domain.inference import Priority
from hub.errors import TransientError
from hub.ports import Job, Jobs
from hub.store import deliveries
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.journal import Journal
from hub.store.results import RequestRow
from hub.store.superseding import why_not_sent

DELIVERY_JOB = "delivery"
SETTLED = (
    DeliveryState.DELIVERED,
    DeliveryState.DEAD,
    DeliveryState.SUPERSEDED,
    DeliveryState.QUARANTINED,
    DeliveryState.DISCARDED,
)
IN_TURN = "in-turn"
"""Marks the job of an attempt that has waited for its turn at a destination with a rate."""
ALARMING = (DeliveryState.DEAD, DeliveryState.QUARANTINED)
_NOT_TRIED = (DeliveryState.SUPERSEDED, DeliveryState.QUARANTINED)
_FIRST_QUESTION_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""After a document was taken, until it is first asked whether it is kept; at most between two
questions, which get rarer the longer it takes."""


@dataclass(frozen=True, slots=True)
class DeliveryLedger:
    """pending -> retrying -> ... -> [confirming ->] delivered | dead; a dead one starts again when
    asked for.

    What goes to one destination of one study goes in order: only the first in that line has a
    job; whoever settles it enqueues the next. One that was taken and waits for its confirmation
    keeps nobody waiting.
    """

    database: Database
    jobs: Jobs
    journal: Journal

    def lock(self, connection: sa.Connection, study_instance_uid: str) -> None:
        """Before ``start``, and before anything else in that transaction."""
        deliveries.lock_lines(connection, study_instance_uid)

    def start(
        self,
        connection: sa.Connection,
        request: RequestRow,
        documents: Sequence[Document],
        *,
        destination: str,
        queue: str,
        priority: Priority,
    ) -> None:
        """Documents begin their way to one destination, in this order, in the caller's
        transaction, which has called ``lock``."""
        uid = request.study.study_instance_uid
        for position, document in enumerate(documents):
            delivery = Delivery(
                delivery_id=str(derived_uuid("delivery", destination, document.document_id)),
                destination=destination,
                document_id=document.document_id,
                kind=document.kind,
                request_id=request.request_id,
                study_instance_uid=uid,
                state=DeliveryState.PENDING,
                attempts=0,
            )
            deliveries.add(
                connection,
                delivery,
                queue=queue,
                priority=int(priority),
                at=self.journal.clock.now(),
                position=position,
            )
        self._start_first(connection, uid, destination)

    def task(self, delivery_id: str) -> DeliveryTask | None:
        """What to send; None when it is settled already (before a crash)."""
        with self.database.read() as connection:
            task = deliveries.task(connection, delivery_id)
        return None if task is None or task.delivery.state in SETTLED else task

    def supersede(self, task: DeliveryTask) -> bool:
        """Leave it unsent where a newer report is, or will be, in its place; False: it is not so.

        An attempt that failed at first must not undo the amended report that came after it.
        """
        if task.awaiting:
            return False  # it was sent
        with self.database.read() as connection:
            reason = why_not_sent(connection, task.delivery)
        if reason is None:
            return False
        detail = f"not sent: {reason}"
        self._settle(task, "delivery.superseded", DeliveryState.SUPERSEDED, detail)
        return True

    def wait_for_turn(self, task: DeliveryTask, rate_per_minute: float | None) -> bool:
        """Whether a destination that takes so many documents a minute has to be spared for now;
        then the attempt begins when its turn has come."""
        if rate_per_minute is None:
            return False
        now, interval = self.journal.clock.now(), timedelta(minutes=1 / rate_per_minute)
        with self.database.write() as connection:
            turn = deliveries.take_turn(connection, task.delivery.destination, now, interval)
            if turn <= now:
                return False
            seconds = (turn - now).total_seconds()
            self._enqueue(connection, task, delay_seconds=seconds, mark=IN_TURN)
        return True

    def taken(self, task: DeliveryTask, receipt: Receipt) -> None:
        """The destination took it: delivered, or to be confirmed."""
        if not receipt.awaiting:
            self._settle(task, "delivery.delivered", DeliveryState.DELIVERED, receipt.detail)
        else:
            self._settle(
                task,
                "delivery.taken",
                DeliveryState.CONFIRMING,
                receipt.detail,
                delay=_FIRST_QUESTION_SECONDS,
                awaiting=receipt.awaiting,
            )

    def ask_later(self, task: DeliveryTask, reason: str, policy: RetryPolicy) -> None:
        """Not confirmed yet: ask again, or send again when it took too long."""
        since = task.awaiting_since or self.journal.clock.now()
        waited = (self.journal.clock.now() - since).total_seconds()
        if waited >= policy.confirm_within:
            message = f"not confirmed within {policy.confirm_within:g} s ({reason})"
            self.retry(task, TransientError(message), policy)
            return
        delay = min(max(_FIRST_QUESTION_SECONDS, waited / 2), _LONGEST_PAUSE_SECONDS)
        with self.database.write() as connection:
            self._enqueue(connection, task, delay_seconds=delay)

    def retry(self, task: DeliveryTask, error: TransientError, policy: RetryPolicy) -> None:
        """Try again later, or give up when the policy says that it was often enough."""
        attempts = task.delivery.attempts + 1
        delay = policy.delay_after(attempts, error.retry_after)
        if delay is None:
            self.give_up(task, f"{error} ({attempts} attempts)")
            return
        self._settle(task, "delivery.retrying", DeliveryState.RETRYING, str(error), delay=delay)

    def quarantine(self, task: DeliveryTask, reason: str) -> None:
        """It does not belong to whom it is sent for: it stays here until a person decides."""
        self._settle(task, "delivery.quarantined", DeliveryState.QUARANTINED, reason)

    def not_sent(self, task: DeliveryTask, reason: str) -> None:
        """Another document is, or will be, in its place."""
        self._settle(task, "delivery.superseded", DeliveryState.SUPERSEDED, f"not sent: {reason}")

    def give_up(self, task: DeliveryTask, reason: str) -> None:
        """A dead letter, with its reason, until a person asks for it again."""
        self._settle(task, "delivery.dead", DeliveryState.DEAD, reason)

    def resend(self, delivery_id: str) -> bool:
        """A person asks for a dead letter again; False when it is not one."""
        with self.database.write() as connection:
            task = deliveries.task(connection, delivery_id)
            if task is None or task.delivery.state is not DeliveryState.DEAD:
                return False
            number = deliveries.start_next_round(connection, delivery_id)
            again = replace(task, round=number, delivery=replace(task.delivery, attempts=0))
            self._enqueue(connection, again, delay_seconds=0.0)
            self._record(connection, "delivery.resent", again.delivery)
        return True

    def release(self, connection: sa.Connection, delivery_ids: Sequence[str]) -> None:
        """Documents that were quarantined go their way, in the caller's transaction, which has
        called ``lock``."""
        lines: dict[tuple[str, str], None] = {}
        for delivery_id in delivery_ids:
            deliveries.start_next_round(connection, delivery_id)
            task = deliveries.task(connection, delivery_id)
            if task is not None:
                delivery = task.delivery
                lines[delivery.study_instance_uid, delivery.destination] = None
                self._record(connection, "delivery.released", delivery)
        for uid, destination in lines:
            self._start_first(connection, uid, destination)

    def _settle(
        self,
        task: DeliveryTask,
        action: str,
        state: DeliveryState,
        detail: str,
        *,
        delay: float = 0.0,
        awaiting: str | None = None,
    ) -> None:
        """End one attempt, unless another worker did: this one was thought dead, and was not."""
        sent = 0 if task.awaiting or state in _NOT_TRIED else 1
        delivery = replace(
            task.delivery, state=state, attempts=task.delivery.attempts + sent, detail=detail
        )
        now = self.journal.clock.now()
        with self.database.write() as connection:
            self.lock(connection, delivery.study_instance_uid)
            current = deliveries.task(connection, delivery.delivery_id)
            if current is None or current.attempt != task.attempt:
                return
            if current.delivery.state in SETTLED:
                return
            retrying = state is DeliveryState.RETRYING
            deliveries.set_state(
                connection,
                delivery.delivery_id,
                state,
                attempts=delivery.attempts,
                detail=detail,
                delivered_at=now if state is DeliveryState.DELIVERED else None,
                next_attempt_at=now + timedelta(seconds=delay) if retrying else None,
                awaiting=awaiting,
                awaiting_since=now if awaiting else None,
            )
            if retrying or awaiting:
                settled = replace(task, delivery=delivery, awaiting=awaiting or "")
                self._enqueue(connection, settled, delay_seconds=delay)
            if state in ALARMING:
                self._alarm(connection, action, delivery)
            else:
                self._record(connection, action, delivery)
            if not retrying:
                self._start_first(connection, delivery.study_instance_uid, delivery.destination)

    def _start_first(self, connection: sa.Connection, uid: str, destination: str) -> None:
        """The first in the line has a job; one that has it already gets no second one. One that
        waits for its next attempt, while a newer report stands behind it, is dropped now."""
        task = deliveries.first_in_line(connection, uid, destination)
        if task is None:
            return
        if task.delivery.state is DeliveryState.PENDING:
            self._enqueue(connection, task, delay_seconds=0.0)
        elif why_not_sent(connection, task.delivery) is not None:
            self._enqueue(connection, task, delay_seconds=0.0, mark="replaced")

    def _enqueue(
        self,
        connection: sa.Connection,
        task: DeliveryTask,
        *,
        delay_seconds: float,
        mark: str = "",
    ) -> None:
        delivery = task.delivery
        job_id = f"delivery:{delivery.delivery_id}:{task.round}:{delivery.attempts}"
        if mark:  # a job of its own for the same attempt
            job_id += f":{mark}"
        if task.awaiting:
            due = self.journal.clock.now() + timedelta(seconds=delay_seconds)
            job_id += f":{due:%Y%m%d%H%M%S%f}"  # each question is a job of its own
        self.jobs.enqueue(
            connection,
            Job(
                kind=DELIVERY_JOB,
                queue=task.queue,
                partition=delivery.destination,
                job_id=job_id,
                argument=f"{delivery.delivery_id} {mark}".strip(),
                priority=task.priority,
                delay_seconds=delay_seconds,
            ),
        )

    def _record(self, connection: sa.Connection, action: str, delivery: Delivery) -> None:
        failed = delivery.state is DeliveryState.RETRYING
        self.journal.record(
            connection,
            action,
            f"delivery:{delivery.delivery_id}",
            delivery.study_instance_uid,
            outcome=AuditOutcome.MINOR_FAILURE if failed else AuditOutcome.SUCCESS,
            destination=delivery.destination,
            document=delivery.document_id,
            kind=delivery.kind.value,
            attempt=delivery.attempts,
            answer=delivery.detail,
        )

    def _alarm(self, connection: sa.Connection, action: str, delivery: Delivery) -> None:
        self.journal.alarm(
            connection,
            action,
            f"delivery:{delivery.delivery_id}",
            delivery.study_instance_uid,
            reason=delivery.detail,
            destination=delivery.destination,
            document=delivery.document_id,
            kind=delivery.kind.value,
            attempts=delivery.attempts,
        )
