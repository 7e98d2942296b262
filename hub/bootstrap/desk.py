"""The receiving process's dealings with the database, none of which a sender waits for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from hub.domain.audit import AuditOutcome
from hub.domain.patient import PatientChange
from hub.domain.process import ProcessIdentity
from hub.errors import RejectedError, TransientError
from hub.ports import (
    Clock,
    CommitmentReport,
    CommitmentRequest,
    Expectation,
    Health,
    Knowledge,
    ProcedureStep,
    ReferencedInstance,
    at_first_call,
)
from hub.store.reception import Rejection
from hub.store.segments.objects import SegmentStore

if TYPE_CHECKING:
    from hub.store.database import Database

_MOST_WAITING = 10_000
"""Rejections that wait for the database; of more than that only the number is kept."""

_LOOK_SECONDS, _LONGEST_WAIT = 0.05, 5.0
"""How often it is looked whether the tables are there, and when it is worth a warning that they
are not: whoever needs them makes them as it starts, later than we do."""

log = structlog.get_logger(__name__)

_open_database = at_first_call("hub.store.database:open_database")
_refusing = at_first_call("hub.store.database:refusing")
_schema_version = at_first_call("hub.store.database:schema_version")
_journal = at_first_call("hub.store.journal:Journal")
_signs_of_life = at_first_call("hub.supervisor.takeover:SignsOfLife")
_knowledge = at_first_call("hub.store.knowledge:StoreKnowledge")


class Desk:
    """Signs of life, the record of refused objects, and what sources ask of the store
    (hub.ports.Knowledge).

    The database is opened when it is first needed, and by then the sources listen.
    """

    def __init__(
        self,
        database_url: str,
        objects: SegmentStore,
        process: ProcessIdentity,
        role: str,
        clock: Clock,
    ) -> None:
        self._database_url = database_url
        self._objects = objects
        self._process = process
        self._role = role
        self._clock = clock
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._registered = False
        self._rejections: deque[Rejection] = deque()
        self._not_kept = 0

    # --- what sources ask --------------------------------------------------------------------

    def expect(self, expectation: Expectation) -> None:
        """As hub.ports.Knowledge."""
        self._known().expect(expectation)

    def not_stored(
        self, wanted: Sequence[ReferencedInstance], within: float
    ) -> Mapping[ReferencedInstance, int]:
        """As hub.ports.Knowledge."""
        return self._known().not_stored(wanted, within)

    def patient_changed(self, change: PatientChange) -> None:
        """As hub.ports.Knowledge; also before the tables are there: who is told "never" does not
        tell it again."""
        if not self._registered:
            self._wait_for_tables()
        self._known().patient_changed(change)

    def commitment_answered(self, report: CommitmentReport) -> None:
        """As hub.ports.Knowledge."""
        self._known().commitment_answered(report)

    def procedure_step(self, sop_instance_uid: str) -> ProcedureStep | None:
        """As hub.ports.Knowledge."""
        return self._known().procedure_step(sop_instance_uid)

    def keep_procedure_step(self, step: ProcedureStep) -> None:
        """As hub.ports.Knowledge."""
        self._known().keep_procedure_step(step)

    def keep_commitment(self, request: CommitmentRequest) -> None:
        """As hub.ports.Knowledge."""
        self._known().keep_commitment(request)

    def due_commitments(self, source: str) -> Sequence[CommitmentRequest]:
        """As hub.ports.Knowledge."""
        return self._known().due_commitments(source)

    def commitment_reported(self, request: CommitmentRequest, failed: int) -> None:
        """As hub.ports.Knowledge."""
        self._known().commitment_reported(request, failed)

    def commitment_not_reported(
        self, request: CommitmentRequest, reason: str, retry_after: float | None
    ) -> None:
        """As hub.ports.Knowledge."""
        self._known().commitment_not_reported(request, reason, retry_after)

    # --- what the intake tells ---------------------------------------------------------------

    def rejected(self, rejection: Rejection) -> None:
        """An object was refused: on record with the next turn."""
        if len(self._rejections) < _MOST_WAITING:
            self._rejections.append(rejection)
        else:
            self._not_kept += 1

    # --- turns -------------------------------------------------------------------------------

    def turn(self, health: Mapping[str, Health]) -> None:
        """Say that this process lives, and write down what waits.

        Raises:
            TransientError: the database is away, or without our tables; the next turn goes on.
        """
        if not self._registered:
            self._wait_for_tables()
        life = _signs_of_life(self._database(), self._process, self._clock)
        if not self._registered:
            life.register(self._role)
            self._registered = True
        life.beat(health)
        while self._rejections:
            try:
                self._record(self._rejections[0])
            except RejectedError as error:
                # Its content: the next one would wait for it for ever. The object itself was
                # refused, and its sender knows.
                log.warning("object.rejected", error=error)
                self._not_kept += 1
            self._rejections.popleft()
        if self._not_kept:
            self._record_number(self._not_kept)
            self._not_kept = 0

    def close(self, health: Mapping[str, Health]) -> None:
        """The process ends in an orderly way.

        Raises:
            TransientError: the database is away, and what waits is lost.
        """
        if self._opened is None:
            return
        if self._registered or self._rejections:
            self.turn(health)
            _signs_of_life(self._opened, self._process, self._clock).leave()
        self._opened.close()

    def _wait_for_tables(self) -> None:
        give_up_at = time.monotonic() + _LONGEST_WAIT
        while True:
            found, needed = _schema_version(self._database())
            if found == needed:
                return
            if time.monotonic() > give_up_at:
                text = f"the database has schema {found or 'none'}, this version needs {needed}"
                raise TransientError(text)
            time.sleep(_LOOK_SECONDS)

    def _database(self) -> Database:
        with self._lock:
            if self._opened is None:
                self._opened = _open_database(self._database_url)
            return self._opened

    def _known(self) -> Knowledge:
        knowledge: Knowledge = _knowledge(self._database(), self._objects, self._clock)
        return knowledge

    def _record(self, rejection: Rejection) -> None:
        journal = _journal(self._clock, f"source:{rejection.sender.source}")
        with _refusing(), self._database().write() as connection:
            journal.record(
                connection,
                "object.rejected",
                f"association:{rejection.association_id}",
                outcome=AuditOutcome.SERIOUS_FAILURE,
                reason=rejection.reason,
                calling_ae_title=rejection.sender.calling_ae_title,
                length=rejection.length,
                sha256=rejection.sha256,
            )

    def _record_number(self, number: int) -> None:
        journal = _journal(self._clock, f"process:{self._process.executor_id}")
        with self._database().write() as connection:
            journal.record(
                connection,
                "object.rejected",
                "associations:many",
                outcome=AuditOutcome.SERIOUS_FAILURE,
                reason="more objects were refused than could be recorded one by one",
                objects=number,
            )
