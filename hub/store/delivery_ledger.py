"""The life of a delivery: each change with its audit row and its next job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.delivery import Delivery, DeliveryState, Document, Receipt, RetryPolicy
from hub.domain.identity import derived_uuid
from hub.errors import TransientError
from hub.ports import Job, Jobs
from hub.store import deliveries
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.journal import Journal
from hub.store.results import RequestRow

DELIVERY_JOB = "delivery"


@dataclass(frozen=True, slots=True)
class DeliveryLedger:
    """pending -> retrying -> ... -> delivered | dead; a dead one starts again when asked for."""

    database: Database
    jobs: Jobs
    journal: Journal

    def start(
        self,
        connection: sa.Connection,
        request: RequestRow,
        document: Document,
        *,
        destination: str,
        queue: str,
    ) -> None:
        """One document begins its way to one destination, in the caller's transaction."""
        delivery = Delivery(
            delivery_id=str(derived_uuid("delivery", destination, document.document_id)),
            destination=destination,
            document_id=document.document_id,
            kind=document.kind,
            request_id=request.request_id,
            study_instance_uid=request.study.study_instance_uid,
            state=DeliveryState.PENDING,
            attempts=0,
        )
        priority = int(request.priority)
        deliveries.add(
            connection, delivery, queue=queue, priority=priority, at=self.journal.clock.now()
        )
        task = DeliveryTask(delivery, queue, priority, 0, "", document.identity, ())
        self._enqueue(connection, task, delay_seconds=0.0)

    def task(self, delivery_id: str) -> DeliveryTask | None:
        """What to send; None when it is settled already (before a crash)."""
        with self.database.read() as connection:
            task = deliveries.task(connection, delivery_id)
        settled = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.SUPERSEDED)
        return None if task is None or task.delivery.state in settled else task

    def supersede(self, task: DeliveryTask) -> bool:
        """Leave it unsent where a newer report is, or will be, in its place; False: it is not so.

        An attempt that failed at first must not undo the amended report that came after it.
        """
        with self.database.read() as connection:
            revision = deliveries.replaced_by(connection, task.delivery)
        if revision is None:
            return False
        detail = f"not sent: the result of revision {revision} takes its place"
        self._settle(task, "delivery.superseded", DeliveryState.SUPERSEDED, detail)
        return True

    def confirm(self, task: DeliveryTask, receipt: Receipt) -> None:
        """The destination confirmed."""
        self._settle(task, "delivery.delivered", DeliveryState.DELIVERED, receipt.detail)

    def retry(self, task: DeliveryTask, error: TransientError, policy: RetryPolicy) -> None:
        """Try again later, or give up when the policy says that it was often enough."""
        attempts = task.delivery.attempts + 1
        delay = policy.delay_after(attempts, error.retry_after)
        if delay is None:
            self.give_up(task, f"{error} ({attempts} attempts)")
            return
        self._settle(task, "delivery.retrying", DeliveryState.RETRYING, str(error), delay=delay)

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

    def _settle(
        self,
        task: DeliveryTask,
        action: str,
        state: DeliveryState,
        detail: str,
        delay: float = 0.0,
    ) -> None:
        """End one attempt, unless another worker did: this one was thought dead, and was not."""
        delivery = replace(
            task.delivery, state=state, attempts=task.delivery.attempts + 1, detail=detail
        )
        with self.database.write() as connection:
            current = deliveries.task(connection, delivery.delivery_id)
            if current is None or current.attempt != task.attempt:
                return
            retrying = state is DeliveryState.RETRYING
            now = self.journal.clock.now()
            deliveries.set_state(
                connection,
                delivery.delivery_id,
                state,
                attempts=delivery.attempts,
                detail=detail,
                delivered_at=now if state is DeliveryState.DELIVERED else None,
                next_attempt_at=now + timedelta(seconds=delay) if retrying else None,
            )
            if retrying:
                self._enqueue(connection, replace(task, delivery=delivery), delay_seconds=delay)
            if state is DeliveryState.DEAD:
                self._alarm(connection, action, delivery)
            else:
                self._record(connection, action, delivery)

    def _enqueue(
        self, connection: sa.Connection, task: DeliveryTask, *, delay_seconds: float
    ) -> None:
        delivery = task.delivery
        self.jobs.enqueue(
            connection,
            Job(
                kind=DELIVERY_JOB,
                queue=task.queue,
                partition=delivery.destination,
                job_id=f"delivery:{delivery.delivery_id}:{task.round}:{delivery.attempts}",
                argument=delivery.delivery_id,
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
