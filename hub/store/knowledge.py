"""What sources may ask of the store, and tell it (hub.ports.Knowledge), on the database."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.patient import PatientChange
from hub.domain.study import Location
from hub.errors import IntegrityError
from hub.ports import (
    Clock,
    CommitmentReport,
    CommitmentRequest,
    Expectation,
    ExpectationSource,
    NamedSeries,
    ProcedureStep,
    ReferencedInstance,
)
from hub.store import studies
from hub.store.confirmations import keep_report
from hub.store.database import Database, insert_new, refusing
from hub.store.journal import Journal
from hub.store.patients import record_change
from hub.store.schema import instances, procedure_steps, storage_commitments
from hub.store.segments.format import RECORD_HEADER_SIZE, RecordKind, payload_of, read_record_header
from hub.store.segments.log_reader import is_readable
from hub.store.segments.objects import SegmentStore

NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
"""Failure Reasons (0008,1197), PS3.3 C.14.1.1."""

IN_PROGRESS = "IN PROGRESS"
ASKED, REPORTED, UNREACHABLE = "asked", "reported", "unreachable"

_POLL_SECONDS = 0.1
_AT_ONCE = 500
"""Values in one query: databases have limits."""
_MOST_CHECKED_BYTES = 64 << 20
"""Of larger objects only the head of the record is looked at."""
_UNANSWERED_SECONDS = 60
"""A question that nobody has answered so long was left by a process that died."""


@dataclass(frozen=True, slots=True)
class StoreKnowledge:
    """hub.ports.Knowledge."""

    database: Database
    objects: SegmentStore
    clock: Clock

    # --- what a study will consist of --------------------------------------------------------

    def expect(self, expectation: Expectation) -> None:
        """As hub.ports.Knowledge."""
        with self.database.write() as connection:
            self._expect(connection, expectation)

    def _expect(self, connection: sa.Connection, expectation: Expectation) -> None:
        record_expectation(connection, self._journal(expectation.source.value), expectation)

    def procedure_step(self, sop_instance_uid: str) -> ProcedureStep | None:
        """As hub.ports.Knowledge."""
        query = sa.select(procedure_steps).where(
            procedure_steps.c.sop_instance_uid == sop_instance_uid
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _step(row)

    def keep_procedure_step(self, step: ProcedureStep) -> None:
        """As hub.ports.Knowledge. While one step of a study is in progress nothing is expected:
        it may still make images."""
        values: dict[str, Any] = {
            "study_instance_uid": step.study_instance_uid,
            "status": step.status,
            "performed_series": [[s.series_instance_uid, s.sop_instance_uids] for s in step.series],
            "changed_at": self.clock.now(),
        }
        steps = procedure_steps
        with self.database.write() as connection:
            uid = step.sop_instance_uid
            if not insert_new(connection, steps, sop_instance_uid=uid, **values):
                changed = sa.update(steps).where(steps.c.sop_instance_uid == uid)
                connection.execute(changed.values(**values))
            query = sa.select(steps).where(steps.c.study_instance_uid == step.study_instance_uid)
            known = [_step(row) for row in connection.execute(query)]
            made = tuple(uid for one in known for uid in one.sop_instance_uids)
            if made and all(one.status != IN_PROGRESS for one in known):
                source = ExpectationSource.PERFORMED_PROCEDURE_STEP
                expected = Expectation(step.study_instance_uid, source, sop_instance_uids=made)
                self._expect(connection, expected)

    # --- patients, and what archives answer ---------------------------------------------------

    def patient_changed(self, change: PatientChange) -> None:
        """As hub.ports.Knowledge."""
        with refusing(), self.database.write() as connection:
            record_change(connection, self._journal(change.source), change)

    def commitment_answered(self, report: CommitmentReport) -> None:
        """As hub.ports.Knowledge."""
        with self.database.write() as connection:
            keep_report(connection, self.clock, report)

    # --- what is stored ----------------------------------------------------------------------

    def not_stored(
        self, wanted: Sequence[ReferencedInstance], within: float
    ) -> Mapping[ReferencedInstance, int]:
        """As hub.ports.Knowledge. Only what the index knows and the disk still has counts."""
        deadline = time.monotonic() + within
        missing = self._not_stored(wanted)
        while NO_SUCH_INSTANCE in missing.values() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            missing = self._not_stored(tuple(missing))
        return missing

    def _not_stored(self, wanted: Sequence[ReferencedInstance]) -> dict[ReferencedInstance, int]:
        rows = self._indexed({reference.sop_instance_uid for reference in wanted})
        there = self._on_disk([row for found in rows.values() for row in found])
        missing: dict[ReferencedInstance, int] = {}
        for reference in wanted:
            held = [row for row in rows[reference.sop_instance_uid] if _location(row) in there]
            if not held:
                missing[reference] = NO_SUCH_INSTANCE
            elif all(row.header["sop_class_uid"] != reference.sop_class_uid for row in held):
                missing[reference] = CLASS_INSTANCE_CONFLICT
        return missing

    def _indexed(self, uids: Iterable[str]) -> Mapping[str, list[sa.Row[Any]]]:
        found: dict[str, list[sa.Row[Any]]] = defaultdict(list)
        names = list(uids)
        with self.database.read() as connection:
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                query = sa.select(instances).where(instances.c.sop_instance_uid.in_(some))
                for row in connection.execute(query):
                    found[row.sop_instance_uid].append(row)
        return found

    def _on_disk(self, rows: Sequence[sa.Row[Any]]) -> set[Location]:
        by_segment: dict[str, list[Location]] = defaultdict(list)
        for row in rows:
            by_segment[row.segment].append(_location(row))
        return {
            location
            for segment, locations in by_segment.items()
            for location in self._whole(segment, locations)
        }

    def _whole(self, segment: str, locations: Sequence[Location]) -> list[Location]:
        """Those of which the log holds a record, as it was written."""
        try:
            with self.objects.open_log(segment) as opened:
                return [one for one in locations if _is_whole(opened.log, one)]
        except IntegrityError:
            return []

    # --- storage commitment ------------------------------------------------------------------

    def keep_commitment(self, request: CommitmentRequest) -> None:
        """As hub.ports.Knowledge. The same question again (its answer was lost) begins anew."""
        now = self.clock.now()
        table = storage_commitments
        values: dict[str, Any] = {
            "source": request.source,
            "references": [[r.sop_class_uid, r.sop_instance_uid] for r in request.references],
            "state": ASKED,
            "attempts": 0,
            "detail": "",
            "requested_at": now,
            "next_attempt_at": now + timedelta(seconds=_UNANSWERED_SECONDS),
            "reported_at": None,
        }
        keys = {
            "transaction_uid": request.transaction_uid,
            "calling_ae_title": request.calling_ae_title,
        }
        with self.database.write() as connection:
            if not insert_new(connection, table, **keys, **values):
                connection.execute(sa.update(table).where(*_is(request)).values(**values))
            self._record(connection, "commitment.asked", request, count=len(request.references))

    def due_commitments(self, source: str) -> Sequence[CommitmentRequest]:
        """As hub.ports.Knowledge, the oldest first."""
        table = storage_commitments
        query = (
            sa.select(table)
            .where(
                table.c.source == source,
                table.c.state == ASKED,
                table.c.next_attempt_at <= self.clock.now(),
            )
            .order_by(table.c.requested_at)
            .limit(_AT_ONCE)
        )
        with self.database.read() as connection:
            return [_commitment(row) for row in connection.execute(query)]

    def commitment_reported(self, request: CommitmentRequest, failed: int) -> None:
        """As hub.ports.Knowledge."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(storage_commitments)
                .where(*_is(request))
                .values(
                    state=REPORTED,
                    attempts=request.attempts + 1,
                    detail="",
                    next_attempt_at=None,
                    reported_at=self.clock.now(),
                )
            )
            self._record(
                connection,
                "commitment.reported",
                request,
                count=len(request.references),
                failed=failed,
            )

    def commitment_not_reported(
        self, request: CommitmentRequest, reason: str, retry_after: float | None
    ) -> None:
        """As hub.ports.Knowledge. The sender may rely on an answer that never comes, so giving up
        is an alert."""
        later = None
        if retry_after is not None:
            later = self.clock.now() + timedelta(seconds=retry_after)
        with self.database.write() as connection:
            connection.execute(
                sa.update(storage_commitments)
                .where(*_is(request))
                .values(
                    state=UNREACHABLE if later is None else ASKED,
                    attempts=request.attempts + 1,
                    detail=reason,
                    next_attempt_at=later,
                )
            )
            if later is None:
                self._journal(request.source).alarm(
                    connection,
                    "commitment.unreachable",
                    f"ae:{request.calling_ae_title}",  # one alert for each peer
                    reason=reason,
                    transaction_uid=request.transaction_uid,
                )

    def _record(
        self, connection: sa.Connection, action: str, request: CommitmentRequest, **detail: object
    ) -> None:
        self._journal(request.source).record(
            connection,
            action,
            f"commitment:{request.transaction_uid}",
            "",
            outcome=AuditOutcome.SUCCESS,
            calling_ae_title=request.calling_ae_title,
            **detail,
        )

    def _journal(self, source: str) -> Journal:
        return Journal(self.clock, f"source:{source}")


def record_expectation(
    connection: sa.Connection, journal: Journal, expectation: Expectation
) -> None:
    """Keep what a study will consist of, hold it against what has arrived, and record who said
    it: a study of which all is there is complete."""
    studies.expect(connection, expectation, journal.clock.now())
    named = len(expectation.sop_instance_uids)
    uid = expectation.study_instance_uid
    journal.record(
        connection,
        "study.expected",
        f"study:{uid}",
        uid,
        expected_instances=named or expectation.number_of_instances,
        said_by=expectation.source.value,
    )


def _is(request: CommitmentRequest) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        storage_commitments.c.transaction_uid == request.transaction_uid,
        storage_commitments.c.calling_ae_title == request.calling_ae_title,
    )


def _commitment(row: sa.Row[Any]) -> CommitmentRequest:
    return CommitmentRequest(
        transaction_uid=row.transaction_uid,
        calling_ae_title=row.calling_ae_title,
        source=row.source,
        references=tuple(ReferencedInstance(*pair) for pair in row.references),
        attempts=row.attempts,
    )


def _step(row: sa.Row[Any]) -> ProcedureStep:
    return ProcedureStep(
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        status=row.status,
        series=tuple(NamedSeries(uid, tuple(named)) for uid, named in row.performed_series),
    )


def _location(row: sa.Row[Any]) -> Location:
    return Location(row.segment, row.offset, row.length)


def _is_whole(log: memoryview, location: Location) -> bool:
    start = location.offset - RECORD_HEADER_SIZE
    if not is_readable(log, start, location.offset + location.length):
        return False
    head = read_record_header(log, start)
    if head is None or (head.kind, head.length) != (RecordKind.OBJECT, location.length):
        return False
    if head.end > len(log):
        return False
    return location.length > _MOST_CHECKED_BYTES or payload_of(log, head) is not None
