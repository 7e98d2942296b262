"""Answers that vendors send of themselves: each is kept once, and the request goes on at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.ports import Jobs
from hub.store import deferred, results
from hub.store.database import Database, insert_new
from hub.store.journal import Journal
from hub.store.request_ledger import record_request, request_job
from hub.store.results import OPEN_STATES, RequestRow
from hub.store.schema import audit_log, requests
from hub.store.schema_vendors import callbacks

MOST_REFUSALS = 10
"""Refused messages about one request that stand in the audit log; further ones are answered and
counted (`caidx_http_refused`), so that no vendor fills the log."""
_REFUSED = "callback.refused"


class Taken(StrEnum):
    """What became of a message."""

    NEW = "new"
    """It is kept, and the request goes on."""
    AGAIN = "again"
    """The very same was kept before; nothing changed."""
    REPLAYED = "replayed"
    """Its identifier was used before, for something else."""
    SECOND = "second"
    """Another answer is here already."""
    NOT_ASKED = "not-asked"
    """The vendor was not asked yet."""
    LATE = "late"
    """Nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class CallbackLedger:
    """Takes messages whose signature is right."""

    database: Database
    jobs: Jobs
    journal: Journal

    def request(self, request_id: str) -> RequestRow | None:
        """The request that a message is about."""
        with self.database.read() as connection:
            query = sa.select(requests).where(requests.c.request_id == request_id)
            row = connection.execute(query).one_or_none()
        return None if row is None else results.request_from_row(row)

    def take(self, request_id: str, message_id: str, body: bytes) -> Taken:
        """Keep an answer and have the request go on, in one transaction; or change nothing.

        Args:
            request_id: of a request on record.
            message_id: the verifier's, unique among the messages of one service.
            body: as it came.
        """
        key = hashlib.sha256(message_id.encode()).hexdigest()
        digest = hashlib.sha256(body).hexdigest()
        with self.database.write() as connection:
            row = results.get_request(connection, request_id)
            taken = self._judged(connection, row, key, digest)
            if taken is Taken.NEW and not self._keep(connection, row, key, digest, body):
                taken = Taken.REPLAYED  # on PostgreSQL, for another request at the same moment
            if taken not in (Taken.NEW, Taken.AGAIN):
                self._record_refusal(connection, row, taken, digest)
        return taken

    def _record_refusal(
        self, connection: sa.Connection, row: RequestRow, taken: Taken, digest: str
    ) -> None:
        """Once for each reason and content, and not without end. What is on record already is
        counted under the lock of the request, so that all processes count together."""
        query = sa.select(audit_log.c.detail).where(
            audit_log.c.study_instance_uid == row.study.study_instance_uid,
            audit_log.c.entity == f"request:{row.request_id}",
            audit_log.c.action == _REFUSED,
        )
        told = [(one["reason"], one["sha256"]) for one in connection.execute(query).scalars()]
        if (taken.value, digest) in told or len(told) >= MOST_REFUSALS:
            return
        record_request(
            self.journal,
            connection,
            _REFUSED,
            row,
            model=str(row.model),
            outcome=AuditOutcome.MINOR_FAILURE,
            reason=taken.value,
            sha256=digest,
            is_last=len(told) + 1 == MOST_REFUSALS,
        )

    def _judged(self, connection: sa.Connection, row: RequestRow, key: str, digest: str) -> Taken:
        query = sa.select(callbacks).where(callbacks.c.message_id == key)
        known = connection.execute(query).one_or_none()
        if known is not None:
            same = (known.request_id, known.sha256) == (row.request_id, digest)
            return Taken.AGAIN if same else Taken.REPLAYED
        now = self.journal.clock.now()
        if row.state not in OPEN_STATES or (row.deadline_at is not None and row.deadline_at <= now):
            return Taken.LATE
        if row.attempts == 0:
            return Taken.NOT_ASKED
        held = deferred.get(connection, row.request_id)
        if held is not None and held.answer is not None:
            is_same = hashlib.sha256(held.answer).hexdigest() == digest
            return Taken.AGAIN if is_same else Taken.SECOND
        return Taken.NEW

    def _keep(
        self, connection: sa.Connection, row: RequestRow, key: str, digest: str, body: bytes
    ) -> bool:
        now = self.journal.clock.now()
        if not insert_new(
            connection,
            callbacks,
            message_id=key,
            request_id=row.request_id,
            received_at=now,
            sha256=digest,
        ):
            return False
        deferred.keep_answer(connection, row.request_id, body, now)
        record_request(
            self.journal,
            connection,
            "callback.taken",
            row,
            model=str(row.model),
            sha256=digest,
            length=len(body),
        )
        job_id = f"request:{row.request_id}:answer:{key[:16]}"
        self.jobs.enqueue(connection, request_job(row, job_id))
        return True
