"""One round of the indexer in one transaction: what was read from many logs becomes rows.

Statements are per round, not per object, wherever that is possible. Locks are taken in one order:
studies by their UIDs, then the audit log.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from hub.domain.audit import AuditOutcome
from hub.domain.study import Instance
from hub.ports import Clock, EndOfTransfer, Sender
from hub.store import accession_numbers, instances, studies, transfers
from hub.store.database import insert_new
from hub.store.instances import IndexRow, InstanceState
from hub.store.journal import Journal
from hub.store.schema import alerts, segments
from hub.store.segments.format import CONTINUED, SegmentHeader
from hub.store.segments.log_reader import Portion

TWO_PATIENTS = "instances of more than one patient arrived under this Study Instance UID"
OTHER_BYTES = "an instance arrived again with other bytes; the first one is kept in use"

_LONGEST_SENDER_TEXT = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SegmentState(StrEnum):
    OPEN = "open"
    SEALED = "sealed"
    """Nothing is added any more."""
    RELEASED = "released"
    """Nothing in it is needed: it is to be overwritten."""


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """How long silence must last before it counts as the end of a study."""

    quiet: timedelta = timedelta(seconds=2)
    """After the end of the transfer."""
    straggler: timedelta = timedelta(seconds=30)
    """Without any end of transfer."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the indexer goes by."""

    clock: Clock
    quiet_times: Mapping[str, QuietTimes] = field(default_factory=dict)
    """By name of the source."""

    def quiet_times_of(self, source: str) -> QuietTimes:
        """The source's own, or the defaults."""
        return self.quiet_times.get(source, QuietTimes())

    def journal(self, source: str) -> Journal:
        """Where is recorded what a source did."""
        return Journal(self.clock, f"source:{source}")


@dataclass(slots=True)
class _Found:
    """One object of the round, with what it turned out to be."""

    portion: Portion
    instance: Instance
    received_at: datetime
    state: InstanceState | None = None
    """None: the same bytes are there already."""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """What one transfer brought of one study."""

    study_instance_uid: str
    association_id: str
    duplicates: int
    end: EndOfTransfer
    sender: Sender


@dataclass(frozen=True, slots=True)
class _Note:
    """An alert to be raised at the end of the transaction."""

    source: str
    action: str
    entity: str
    study_instance_uid: str
    reason: str
    detail: Mapping[str, object]


class Round:
    """What one transaction indexes; used once."""

    def __init__(self, connection: sa.Connection, rules: Rules) -> None:
        self._connection = connection
        self._rules = rules
        self._now = rules.clock.now()
        self._notes: list[_Note] = []
        self.due: list[datetime] = []
        """When studies are complete, unless something happens before."""

    def index(
        self, portions: Sequence[Portion], fresh: Sequence[tuple[str, SegmentHeader]]
    ) -> None:
        """Index what was read, and record which segments ended.

        Args:
            portions: what was read, one for each segment.
            fresh: segments that the database does not know yet.
        """
        for segment, header in fresh:
            self._join(segment, header)
        # Nobody deletes a study between the moment when an object is found to be there already
        # and the end of the transaction.
        studies.lock(self._connection, {one.header.study_instance_uid for one in portions})
        found = self._judged(portions)
        by_study: dict[str, list[_Found]] = defaultdict(list)
        for one in found:
            if one.state is InstanceState.CURRENT:
                by_study[one.instance.study_instance_uid].append(one)
        for study_instance_uid in sorted(by_study):
            self._add_to_study(study_instance_uid, by_study[study_instance_uid])
        instances.add(self._connection, [_row(one) for one in found if one.state is not None])
        for study_instance_uid in sorted(by_study):
            if studies.apply_expectations(self._connection, study_instance_uid, self._now):
                self.due.append(self._now)
        self._count_duplicates(found)
        for portion in portions:
            self._advance(portion)

    def close(
        self, association_ids: Mapping[str, datetime | None], *, anyway: Collection[str] = ()
    ) -> list[str]:
        """Transfers of which nothing more is being written: their studies may be complete soon.

        The quiet time counts from when the sender said that it was done, and not from now: the
        index mark sees to it that nothing is complete before all is indexed that came until then.

        Args:
            association_ids: those that end if a part of them said how, and when it said so.
            anyway: those that end in any case.

        Returns:
            Those that did not: each part only said that it goes on in another one.
        """
        connection = self._connection
        told = transfers.told_how(connection, association_ids)
        ended: list[_Ended] = []
        for association_id in sorted({*told, *anyway}):
            end = transfers.close_association(connection, association_id, self._now)
            if end is not None:
                sender = transfers.sender_of(connection, association_id)
                carried = transfers.studies_of_association(connection, association_id)
                ended += [_Ended(uid, association_id, n, end, sender) for uid, n in carried.items()]
        ended.sort(key=lambda one: (one.study_instance_uid, one.association_id))
        for one in ended:
            if one.end is EndOfTransfer.RELEASED:
                released_at = min(association_ids.get(one.association_id) or self._now, self._now)
                due_at = released_at + self._rules.quiet_times_of(one.sender.source).quiet
                self.due.append(due_at)
                studies.bring_forward_after_release(
                    connection, one.study_instance_uid, due_at=due_at
                )
        for one in ended:
            self._record_end(one)
        return [a for a in association_ids if a not in told]

    def write_notes(self) -> None:
        """Raise the alerts of the round; the last thing to do, for the audit log is locked."""
        for note in self._notes:
            self._rules.journal(note.source).alarm(
                self._connection,
                note.action,
                note.entity,
                note.study_instance_uid,
                reason=note.reason,
                **note.detail,
            )

    # --- segments and transfers --------------------------------------------------------------

    def _join(self, segment: str, header: SegmentHeader) -> None:
        opened_at = datetime.fromtimestamp(header.opened_at, UTC)
        if header.association_id:  # a segment whose header is damaged has none
            self._join_association(header, opened_at)
        insert_new(
            self._connection,
            segments,
            segment=segment,
            association_id=header.association_id,
            study_instance_uid=header.study_instance_uid,
            state=SegmentState.OPEN.value,
            indexed_to=0,
            opened_at=opened_at,
        )

    def _join_association(self, header: SegmentHeader, opened_at: datetime) -> None:
        sender = Sender(
            source=_short(header.source),
            calling_ae_title=_short(header.calling_ae_title),
            called_ae_title=_short(header.called_ae_title),
            address=_short(header.address),
        )
        transfers.open_association(
            self._connection, header.association_id, header.receiver_id, sender, opened_at
        )
        transfers.join_association(
            self._connection, header.association_id, header.study_instance_uid
        )

    def _advance(self, portion: Portion) -> None:
        header, state = portion.header, SegmentState.OPEN
        if portion.end is not None:
            state = SegmentState.SEALED if self._is_needed(portion) else SegmentState.RELEASED
            if portion.end != CONTINUED:
                end = EndOfTransfer(portion.end)
                transfers.note_end(self._connection, header.association_id, end)
        self._connection.execute(
            sa.update(segments)
            .where(segments.c.segment == portion.segment)
            .values(indexed_to=portion.until, state=state.value)
        )
        for flaw in portion.flaws:
            entity = f"segment:{portion.segment}@{flaw.offset}"
            detail = {"association_id": header.association_id}
            self._note(header, flaw.action, entity, flaw.reason, detail)

    def _is_needed(self, portion: Portion) -> bool:
        """Whether the index refers to it; and what a person was told of is not overwritten."""
        if portion.flaws:
            return True
        uid, told = portion.header.study_instance_uid, f"segment:{portion.segment}@"
        if instances.are_in(self._connection, portion.segment, uid):
            return True
        query = sa.select(alerts.c.alert_id).where(
            alerts.c.study_instance_uid == uid, alerts.c.entity.startswith(told)
        )
        return self._connection.execute(query.limit(1)).first() is not None

    def _record_end(self, one: _Ended) -> None:
        digests = transfers.received_in_association(
            self._connection, one.association_id, one.study_instance_uid
        )
        if not digests and not one.duplicates:
            return
        released = one.end is EndOfTransfer.RELEASED
        self._rules.journal(one.sender.source).record(
            self._connection,
            "study.received",
            f"study:{one.study_instance_uid}",
            one.study_instance_uid,
            outcome=AuditOutcome.SUCCESS if released else AuditOutcome.MINOR_FAILURE,
            instances=len(digests),
            duplicates=one.duplicates,
            sha256_of_digests=hashlib.sha256("".join(digests).encode()).hexdigest(),
            calling_ae_title=one.sender.calling_ae_title,
            address=one.sender.address,
            end=one.end.value,
        )

    # --- objects -----------------------------------------------------------------------------

    def _judged(self, portions: Sequence[Portion]) -> list[_Found]:
        """Every object in the order of arrival: new, there already, or there with other bytes."""
        found = [
            _Found(portion, arrival.instance, arrival.received_at)
            for portion in portions
            for arrival in portion.arrivals
        ]
        found.sort(key=lambda one: one.received_at)
        uids = {one.instance.sop_instance_uid for one in found}
        known = instances.known_digests(self._connection, uids)
        for one in found:
            versions = known.setdefault(one.instance.sop_instance_uid, {})
            if one.instance.sha256 in versions:
                continue
            # The one that a conflict was with may have been deleted since.
            is_other = InstanceState.CURRENT in versions.values()
            one.state = InstanceState.CONFLICT if is_other else InstanceState.CURRENT
            versions[one.instance.sha256] = one.state
            if one.state is InstanceState.CONFLICT:
                self._flag(one, "instance.conflict", OTHER_BYTES)
        return found

    def _add_to_study(self, study_instance_uid: str, found: Sequence[_Found]) -> None:
        """New objects of one study: the revision that is being received is theirs."""
        connection, patients = self._connection, [one.instance.patient for one in found]
        opened = studies.revision_for_new_instance(
            connection, study_instance_uid, patients[0], at=found[0].received_at
        )
        source = found[-1].portion.header.source
        studies.count_instances(
            connection,
            opened.key,
            len(found),
            at=found[-1].received_at,
            due_at=self._now + self._rules.quiet_times_of(source).straggler,
        )
        for one in found:
            one.revision = opened.key.revision
        named = (one.instance for one in found if one.instance.accession_number)
        if not opened.has_accession_number and (first := next(named, None)) is not None:
            number, issuer = first.accession_number, first.issuer_of_accession_number
            accession_numbers.note(connection, study_instance_uid, number, issuer)
        stranger = next(self._strangers(opened.patient_key, found), None)
        if stranger is not None and studies.add_problem(
            connection, study_instance_uid, TWO_PATIENTS
        ):
            self._flag(stranger, "study.held", TWO_PATIENTS)

    def _strangers(self, patient_key: tuple[str, str], found: Sequence[_Found]) -> Iterator[_Found]:
        """Objects of another patient than the study's. Two patients without a patient ID are not
        the same one for having none."""
        first = None
        for one in found:
            patient = one.instance.patient
            if patient.key != patient_key:
                yield one
            elif not patient.patient_id:
                if first is None:
                    uid = one.instance.study_instance_uid
                    first = instances.first_patient(self._connection, uid) or patient
                pairs = (
                    (first.patient_name.casefold(), patient.patient_name.casefold()),
                    (first.patient_birth_date, patient.patient_birth_date),
                )
                if any(a and b and a != b for a, b in pairs):
                    yield one

    def _count_duplicates(self, found: Sequence[_Found]) -> None:
        again = Counter(
            (one.portion.header.association_id, one.portion.header.study_instance_uid)
            for one in found
            if one.state is None
        )
        for (association_id, study_instance_uid), number in sorted(again.items()):
            transfers.count_duplicates(self._connection, association_id, study_instance_uid, number)

    # --- alerts ------------------------------------------------------------------------------

    def _flag(self, one: _Found, action: str, reason: str) -> None:
        instance = one.instance
        entity, detail = f"instance:{instance.sop_instance_uid}", {"sha256": instance.sha256}
        self._note(one.portion.header, action, entity, reason, detail)

    def _note(
        self,
        header: SegmentHeader,
        action: str,
        entity: str,
        reason: str,
        detail: Mapping[str, object],
    ) -> None:
        uid = header.study_instance_uid
        self._notes.append(_Note(header.source, action, entity, uid, reason, detail))


def _short(text: str) -> str:
    """What a sender says of itself, as it fits into the database."""
    return _CONTROL.sub("?", text)[:_LONGEST_SENDER_TEXT]


def _row(one: _Found) -> IndexRow:
    if one.state is None:
        raise ValueError("what is there already gets no row")
    association_id = one.portion.header.association_id
    return IndexRow(one.instance, one.revision, one.state, association_id, one.received_at)
