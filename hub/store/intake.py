"""Receiving: an object is durable and indexed before it is acknowledged (promise 1).

The bytes go to a segment that belongs to one transfer and one study, and are synced; then one
transaction indexes them. What a crash leaves in a segment behind its last indexed record was
never acknowledged; ``adopt_open_associations`` indexes it all the same, so nothing is wasted.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.study import Instance, Location
from hub.errors import RejectedError
from hub.formats.dicom_header import instance_from_header, scan_header
from hub.formats.part10 import part10, split_part10
from hub.ports import Clock, EndOfTransfer, ReceivedObject, Sender, StoredAs
from hub.store import instances, studies
from hub.store.database import Database
from hub.store.instances import InstanceState
from hub.store.journal import Journal
from hub.store.objects import SegmentStore, SegmentWriter

TWO_PATIENTS = "instances of more than one patient arrived under this Study Instance UID"
OTHER_BYTES = "an instance arrived again with other bytes; the first one is kept in use"


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """How long silence must last before it counts as the end of a study."""

    quiet: timedelta = timedelta(seconds=2)
    """After the end of the transfer."""
    straggler: timedelta = timedelta(seconds=30)
    """Without any end of transfer."""


@dataclass(frozen=True, slots=True)
class StudyIntake:
    """Hands every transfer its own reception (hub.ports.Intake)."""

    database: Database
    objects: SegmentStore
    clock: Clock
    receiver_id: str
    quiet_times: Mapping[str, QuietTimes] = field(default_factory=dict)
    """By name of the source."""

    def open(self, sender: Sender) -> StudyReception:
        """Begin a transfer; nothing is written before its first object."""
        return StudyReception(self, sender)

    def quiet_times_of(self, sender: Sender) -> QuietTimes:
        """The source's own, or the defaults."""
        return self.quiet_times.get(sender.source, QuietTimes())

    def journal(self, sender: Sender) -> Journal:
        """Where the source records what it did."""
        return Journal(self.clock, f"source:{sender.source}")


class StudyReception:
    """One transfer (hub.ports.Reception); used by one thread at a time."""

    def __init__(self, intake: StudyIntake, sender: Sender) -> None:
        self._intake = intake
        self._sender = sender
        self._association_id = str(uuid.uuid4())
        self._segments: dict[str, SegmentWriter] = {}
        self._recorded = False
        self._closed = False
        self._lock = threading.Lock()

    def store(self, received: ReceivedObject) -> StoredAs:
        """Store durably (see hub.ports.Reception)."""
        try:
            instance = self._understand(received)
        except RejectedError as error:
            self._record_rejection(received, error)
            raise
        with self._intake.database.read() as connection:
            known = instances.known_digests(connection, instance.sop_instance_uid)
        if instance.sha256 in known:
            return StoredAs.DUPLICATE
        writer = self._segments.get(instance.study_instance_uid)
        first_of_study = writer is None
        if writer is None:
            writer = self._intake.objects.create(instance.study_instance_uid)
            self._segments[instance.study_instance_uid] = writer
        location = writer.append([part10(received)])
        return self._index(replace(instance, location=location), first_of_study=first_of_study)

    def close(self, end: EndOfTransfer) -> None:
        """Record the end (see hub.ports.Reception)."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for writer in self._segments.values():
            writer.close()
        if self._recorded:
            _close(self._intake, self._association_id, self._sender, end)

    def _understand(self, received: ReceivedObject) -> Instance:
        scan = scan_header(received.data_set, received.transfer_syntax_uid)
        sha256 = hashlib.sha256(received.data_set).hexdigest()
        instance = instance_from_header(scan, sha256=sha256, location=Location("", 0, 0))
        if instance.sop_instance_uid != received.sop_instance_uid:
            raise RejectedError("SOP Instance UID of the message and of the data set differ")
        if instance.sop_class_uid != received.sop_class_uid:
            raise RejectedError("SOP Class UID of the message and of the data set differ")
        return instance

    def _index(self, instance: Instance, *, first_of_study: bool) -> StoredAs:
        now = self._intake.clock.now()
        with self._intake.database.write() as connection:
            if not self._recorded:
                studies.open_association(
                    connection, self._association_id, self._intake.receiver_id, self._sender, now
                )
            if first_of_study:
                studies.join_association(
                    connection,
                    self._association_id,
                    instance.study_instance_uid,
                    instance.location.segment,
                )
            stored_as = index_instance(
                connection,
                instance,
                association_id=self._association_id,
                journal=self._intake.journal(self._sender),
                straggler=self._intake.quiet_times_of(self._sender).straggler,
            )
        self._recorded = True
        return stored_as

    def _record_rejection(self, received: ReceivedObject, error: RejectedError) -> None:
        with self._intake.database.write() as connection:
            self._intake.journal(self._sender).record(
                connection,
                "object.rejected",
                f"association:{self._association_id}",
                outcome=AuditOutcome.SERIOUS_FAILURE,
                reason=str(error),
                calling_ae_title=self._sender.calling_ae_title,
                length=len(received.data_set),
                sha256=hashlib.sha256(received.data_set).hexdigest(),
            )


def index_instance(
    connection: sa.Connection,
    instance: Instance,
    *,
    association_id: str,
    journal: Journal,
    straggler: timedelta,
) -> StoredAs:
    """Index one durable object in the caller's transaction, and say what it turned out to be."""
    now = journal.clock.now()
    known = instances.known_digests(connection, instance.sop_instance_uid)
    if instance.sha256 in known:
        return StoredAs.DUPLICATE
    state = InstanceState.CONFLICT if known else InstanceState.CURRENT
    if state is InstanceState.CURRENT:
        opened = studies.revision_for_new_instance(
            connection, instance.study_instance_uid, instance.patient, at=now
        )
        studies.count_instance(connection, opened.key, at=now, due_at=now + straggler)
        if not opened.same_patient:
            _hold(connection, instance, TWO_PATIENTS, journal)
    instances.add(connection, instance, state=state, association_id=association_id, received_at=now)
    if state is InstanceState.CONFLICT:
        _flag(connection, instance, "instance.conflict", OTHER_BYTES, journal)
        return StoredAs.CONFLICT
    return StoredAs.NEW


def adopt_open_associations(intake: StudyIntake, receiver_id: str) -> int:
    """Close the transfers that a dead receiver left open; returns how many there were.

    First the tail of their segments is indexed: complete records that the receiver had made
    durable, but neither indexed nor acknowledged, when it died.
    """
    with intake.database.read() as connection:
        left_open = studies.open_associations_of(connection, receiver_id)
    for association_id in left_open:
        with intake.database.read() as connection:
            carried = studies.studies_of_association(connection, association_id)
            sender = studies.sender_of(connection, association_id)
        for segment in carried.values():
            _index_tail(intake, association_id, segment, sender)
        _close(intake, association_id, sender, EndOfTransfer.ABORTED)
    return len(left_open)


def _index_tail(intake: StudyIntake, association_id: str, segment: str, sender: Sender) -> None:
    for record in intake.objects.records(segment):
        transfer_syntax_uid, data_set = split_part10(intake.objects.read(record.location))
        scan = scan_header(data_set, transfer_syntax_uid)
        sha256 = hashlib.sha256(data_set).hexdigest()
        instance = instance_from_header(scan, sha256=sha256, location=record.location)
        with intake.database.write() as connection:
            index_instance(
                connection,
                instance,
                association_id=association_id,
                journal=intake.journal(sender),
                straggler=intake.quiet_times_of(sender).straggler,
            )


def _close(intake: StudyIntake, association_id: str, sender: Sender, end: EndOfTransfer) -> None:
    now, released = intake.clock.now(), end is EndOfTransfer.RELEASED
    with intake.database.write() as connection:
        if not studies.close_association(connection, association_id, end, now):
            return
        for uid in studies.studies_of_association(connection, association_id):
            if released:
                due_at = now + intake.quiet_times_of(sender).quiet
                studies.bring_forward_after_release(connection, uid, due_at=due_at)
            digests = studies.received_in_association(connection, association_id, uid)
            intake.journal(sender).record(
                connection,
                "study.received",
                f"study:{uid}",
                uid,
                outcome=AuditOutcome.SUCCESS if released else AuditOutcome.MINOR_FAILURE,
                instances=len(digests),
                sha256_of_digests=hashlib.sha256("".join(digests).encode()).hexdigest(),
                calling_ae_title=sender.calling_ae_title,
                address=sender.address,
                end=end.value,
            )


def _hold(connection: sa.Connection, instance: Instance, problem: str, journal: Journal) -> None:
    if studies.add_problem(connection, instance.study_instance_uid, problem):
        _flag(connection, instance, "study.held", problem, journal)


def _flag(
    connection: sa.Connection, instance: Instance, action: str, reason: str, journal: Journal
) -> None:
    journal.alarm(
        connection,
        action,
        f"instance:{instance.sop_instance_uid}",
        instance.study_instance_uid,
        reason=reason,
        sha256=instance.sha256,
    )
