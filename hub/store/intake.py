"""Receiving: an object is durable and indexed before it is acknowledged (promise 1).

The bytes go to a segment that belongs to one transfer and one study, and are synced; then one
transaction indexes them. What a crash leaves in a segment behind its last indexed record was
never acknowledged; ``adopt_open_associations`` indexes it all the same, so nothing is wasted.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.study import Instance, Location
from hub.errors import CaidxError, RejectedError, TransientError
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
OPEN_SEGMENTS = 8
"""File handles of one transfer: it may carry any number of studies, but sends one after another."""

_LONGEST_TEXT = 64
"""VR LO (PS3.5 6.2). A patient ID is never shortened: that could make it another patient's."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SameMomentError(TransientError):
    """Another transfer stored the same instance at the same moment; looking again tells how."""


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
    _unrecorded: deque[_End] = field(default_factory=deque)
    """Ends of transfers that could not be recorded when they happened."""

    def open(self, sender: Sender) -> StudyReception:
        """Begin a transfer; nothing is written before its first object."""
        return StudyReception(self, sender)

    def quiet_times_of(self, sender: Sender) -> QuietTimes:
        """The source's own, or the defaults."""
        return self.quiet_times.get(sender.source, QuietTimes())

    def end(self, ended: _End) -> None:
        """Record the end of a transfer; what fails for now is kept for ``record_ends``."""
        try:
            _close(self, ended)
        except TransientError:
            self._unrecorded.append(ended)
            raise

    def record_ends(self) -> None:
        """Record the ends that could not be recorded before.

        Raises:
            TransientError: they still cannot.
        """
        while self._unrecorded:
            self.end(self._unrecorded.popleft())

    def journal(self, sender: Sender) -> Journal:
        """Where the source records what it did."""
        return Journal(self.clock, f"source:{sender.source}")


@dataclass(frozen=True, slots=True)
class _End:
    association_id: str
    sender: Sender
    end: EndOfTransfer
    again: Counter[str] = field(default_factory=Counter)
    """Objects that were there already, by study; a dead receiver took the count with it."""


class StudyReception:
    """One transfer (hub.ports.Reception); used by one thread at a time."""

    def __init__(self, intake: StudyIntake, sender: Sender) -> None:
        self._intake = intake
        self._sender = sender
        self._association_id = str(uuid.uuid4())
        self._segments: dict[str, SegmentWriter] = {}
        self._awake: OrderedDict[str, SegmentWriter] = OrderedDict()
        """Those with an open file, the one used last at the end."""
        self._joined: set[str] = set()
        """Studies whose place in this transfer is on record."""
        self._again: Counter[str] = Counter()
        """Objects that were there already, by study."""
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
            self._again[instance.study_instance_uid] += 1
            return StoredAs.DUPLICATE
        location = self._writer(instance.study_instance_uid).append([part10(received)])
        instance = replace(instance, location=location)
        try:
            return self._index(instance)
        except SameMomentError:
            return self._index(instance)

    def close(self, end: EndOfTransfer) -> None:
        """Record the end (see hub.ports.Reception)."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for writer in self._segments.values():
            writer.close()
        if self._recorded or self._again:
            ended = _End(self._association_id, self._sender, end, Counter(self._again))
            self._intake.end(ended)

    def _writer(self, study_instance_uid: str) -> SegmentWriter:
        """The study's segment; those that were used longest ago give their file handle back."""
        writer = self._segments.get(study_instance_uid)
        if writer is None:
            writer = self._intake.objects.create(study_instance_uid)
            self._segments[study_instance_uid] = writer
        self._awake[study_instance_uid] = writer
        self._awake.move_to_end(study_instance_uid)
        if len(self._awake) > OPEN_SEGMENTS:
            self._awake.popitem(last=False)[1].rest()
        return writer

    def _understand(self, received: ReceivedObject) -> Instance:
        scan = scan_header(received.data_set, received.transfer_syntax_uid)
        sha256 = hashlib.sha256(received.data_set).hexdigest()
        instance = instance_from_header(scan, sha256=sha256, location=Location("", 0, 0))
        if instance.sop_instance_uid != received.sop_instance_uid:
            raise RejectedError("SOP Instance UID of the message and of the data set differ")
        if instance.sop_class_uid != received.sop_class_uid:
            raise RejectedError("SOP Class UID of the message and of the data set differ")
        _must_be_storable(instance)
        return instance

    def _index(self, instance: Instance) -> StoredAs:
        now = self._intake.clock.now()
        with self._intake.database.write() as connection:
            if not self._recorded:
                studies.open_association(
                    connection, self._association_id, self._intake.receiver_id, self._sender, now
                )
            if instance.study_instance_uid not in self._joined:
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
        self._joined.add(instance.study_instance_uid)
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
    """Index one durable object in the caller's transaction, and say what it turned out to be.

    Raises:
        SameMomentError: to be called again, in a new transaction.
    """
    now = journal.clock.now()
    known = instances.known_digests(connection, instance.sop_instance_uid)
    if instance.sha256 in known:
        return StoredAs.DUPLICATE
    state = InstanceState.CONFLICT if known else InstanceState.CURRENT
    revision = 0
    if state is InstanceState.CURRENT:
        opened = studies.revision_for_new_instance(
            connection, instance.study_instance_uid, instance.patient, at=now
        )
        revision = opened.key.revision
        studies.count_instance(connection, opened.key, at=now, due_at=now + straggler)
        if not opened.same_patient or _is_somebody_else(connection, instance):
            _hold(connection, instance, TWO_PATIENTS, journal)
    added = instances.add(
        connection,
        instance,
        revision=revision,
        state=state,
        association_id=association_id,
        received_at=now,
    )
    if not added:
        raise SameMomentError("the instance is being stored by another transfer too")
    if state is InstanceState.CONFLICT:
        _flag(connection, instance, "instance.conflict", OTHER_BYTES, journal)
        return StoredAs.CONFLICT
    return StoredAs.NEW


def adopt_open_associations(intake: StudyIntake, receiver_id: str) -> int:
    """Close the transfers that a dead receiver left open; returns how many there were.

    First the tail of their segments is indexed: complete records that the receiver had made
    durable, but neither indexed nor acknowledged, when it died. A segment that cannot be read
    raises an alert, and keeps no other transfer open.
    """
    with intake.database.read() as connection:
        left_open = studies.open_associations_of(connection, receiver_id)
    for association_id in left_open:
        with intake.database.read() as connection:
            carried = studies.studies_of_association(connection, association_id)
            sender = studies.sender_of(connection, association_id)
        for segment in carried.values():
            try:
                _index_tail(intake, association_id, segment, sender)
            except TransientError:
                raise
            except CaidxError as error:
                _tell_of_damage(intake, association_id, segment, sender, str(error))
        _close(intake, _End(association_id, sender, EndOfTransfer.ABORTED))
    return len(left_open)


def _index_tail(intake: StudyIntake, association_id: str, segment: str, sender: Sender) -> None:
    for record in intake.objects.records(segment):
        transfer_syntax_uid, data_set = split_part10(intake.objects.read(record.location))
        scan = scan_header(data_set, transfer_syntax_uid)
        sha256 = hashlib.sha256(data_set).hexdigest()
        instance = instance_from_header(scan, sha256=sha256, location=record.location)
        _must_be_storable(instance)
        with intake.database.write() as connection:
            index_instance(
                connection,
                instance,
                association_id=association_id,
                journal=intake.journal(sender),
                straggler=intake.quiet_times_of(sender).straggler,
            )


def _close(intake: StudyIntake, ended: _End) -> None:
    now, released = intake.clock.now(), ended.end is EndOfTransfer.RELEASED
    with intake.database.write() as connection:
        closed = studies.close_association(connection, ended.association_id, ended.end, now)
        new = studies.studies_of_association(connection, ended.association_id) if closed else {}
        # Every lock on a study comes before the one on the audit log, and in one order.
        carried = sorted({*new, *ended.again})
        for uid in carried if released else ():
            due_at = now + intake.quiet_times_of(ended.sender).quiet
            studies.bring_forward_after_release(connection, uid, due_at=due_at)
        for uid in carried:
            digests = studies.received_in_association(connection, ended.association_id, uid)
            intake.journal(ended.sender).record(
                connection,
                "study.received",
                f"study:{uid}",
                uid,
                outcome=AuditOutcome.SUCCESS if released else AuditOutcome.MINOR_FAILURE,
                instances=len(digests),
                duplicates=ended.again[uid],
                sha256_of_digests=hashlib.sha256("".join(digests).encode()).hexdigest(),
                calling_ae_title=ended.sender.calling_ae_title,
                address=ended.sender.address,
                end=ended.end.value,
            )


def _tell_of_damage(
    intake: StudyIntake, association_id: str, segment: str, sender: Sender, reason: str
) -> None:
    with intake.database.write() as connection:
        intake.journal(sender).alarm(
            connection,
            "segment.damaged",
            f"association:{association_id}",
            reason=reason,
            segment=segment,
        )


def _must_be_storable(instance: Instance) -> None:
    """Identifiers that are told apart by the database have to fit into it unchanged."""
    patient = instance.patient
    for name, text in (
        ("PatientID (0010,0020)", patient.patient_id),
        ("IssuerOfPatientID (0010,0021)", patient.issuer_of_patient_id),
    ):
        if len(text) > _LONGEST_TEXT:
            raise RejectedError(f"{name} is longer than {_LONGEST_TEXT} characters")
        if _CONTROL.search(text):
            raise RejectedError(f"{name} holds control characters")


def _is_somebody_else(connection: sa.Connection, instance: Instance) -> bool:
    """Two patients without a patient ID are not the same one for having none."""
    patient = instance.patient
    if patient.patient_id:
        return False
    first = instances.first_patient(connection, instance.study_instance_uid) or patient
    pairs = (
        (first.patient_name.casefold(), patient.patient_name.casefold()),
        (first.patient_birth_date, patient.patient_birth_date),
    )
    return any(one and other and one != other for one, other in pairs)


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
