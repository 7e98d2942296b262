"""Transfers, studies and their revisions: what the intake writes and completeness reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.routing import Decision, Match, NoMatch
from hub.domain.study import EvidenceKind, StudyKey
from hub.ports import EndOfTransfer, Sender
from hub.store.database import insert_new
from hub.store.schema import (
    UtcTime,
    association_studies,
    associations,
    instances,
    route_decisions,
    studies,
    study_revisions,
)

RECEIVING, COMPLETE, ROUTED = "receiving", "complete", "routed"


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """The revision that a newly arrived instance belongs to."""

    key: StudyKey
    is_new: bool
    """It was opened by this call."""
    same_patient: bool


# --- transfers ---------------------------------------------------------------------------


def open_association(
    connection: sa.Connection, association_id: str, receiver_id: str, sender: Sender, at: datetime
) -> None:
    """Record the start of a transfer."""
    connection.execute(
        sa.insert(associations).values(
            association_id=association_id,
            receiver_id=receiver_id,
            source=sender.source,
            calling_ae_title=sender.calling_ae_title,
            called_ae_title=sender.called_ae_title,
            address=sender.address,
            opened_at=at,
        )
    )


def join_association(
    connection: sa.Connection, association_id: str, study_instance_uid: str, segment: str
) -> None:
    """Record that a transfer carries a study, and where its bytes go."""
    connection.execute(
        sa.insert(association_studies).values(
            association_id=association_id, study_instance_uid=study_instance_uid, segment=segment
        )
    )


def close_association(
    connection: sa.Connection, association_id: str, end: EndOfTransfer, at: datetime
) -> bool:
    """Record the end of a transfer; False when it had ended already."""
    done = connection.execute(
        sa.update(associations)
        .where(associations.c.association_id == association_id, associations.c.closed_at.is_(None))
        .values(closed_at=at, end=end.value)
    )
    return done.rowcount == 1


def open_associations_of(connection: sa.Connection, receiver_id: str) -> list[str]:
    """Transfers that a receiver left open: it died while they ran."""
    return list(
        connection.execute(
            sa.select(associations.c.association_id).where(
                associations.c.receiver_id == receiver_id, associations.c.closed_at.is_(None)
            )
        ).scalars()
    )


def receivers_with_open_associations(connection: sa.Connection) -> list[str]:
    """Every receiver that holds an open transfer, dead ones too."""
    return list(
        connection.execute(
            sa.select(associations.c.receiver_id.distinct()).where(
                associations.c.closed_at.is_(None)
            )
        ).scalars()
    )


def sender_of(connection: sa.Connection, association_id: str) -> Sender:
    """Who sent a transfer."""
    row = connection.execute(
        sa.select(associations).where(associations.c.association_id == association_id)
    ).one()
    return Sender(
        source=row.source,
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
        address=row.address,
    )


def studies_of_association(connection: sa.Connection, association_id: str) -> dict[str, str]:
    """Study Instance UID -> segment, for one transfer."""
    rows = connection.execute(
        sa.select(association_studies.c.study_instance_uid, association_studies.c.segment).where(
            association_studies.c.association_id == association_id
        )
    )
    return {row.study_instance_uid: row.segment for row in rows}


def received_in_association(
    connection: sa.Connection, association_id: str, study_instance_uid: str
) -> list[str]:
    """SHA-256 of what one transfer added to a study, in order of SOP Instance UID."""
    return list(
        connection.execute(
            sa.select(instances.c.sha256)
            .where(
                instances.c.association_id == association_id,
                instances.c.study_instance_uid == study_instance_uid,
            )
            .order_by(instances.c.sop_instance_uid)
        ).scalars()
    )


# --- revisions ---------------------------------------------------------------------------


def revision_for_new_instance(
    connection: sa.Connection, study_instance_uid: str, patient: PatientIdentity, *, at: datetime
) -> OpenRevision:
    """The revision that is being received; opened where there is none."""
    insert_new(
        connection,
        studies,
        study_instance_uid=study_instance_uid,
        patient_id=patient.patient_id,
        issuer_of_patient_id=patient.issuer_of_patient_id,
        first_received_at=at,
        problems=[],
    )
    study = _lock_study(connection, study_instance_uid).one()
    same = (study.patient_id, study.issuer_of_patient_id) == patient.key
    latest = _latest_revision(connection, study_instance_uid)
    if latest is not None and latest.state == RECEIVING:
        return OpenRevision(
            StudyKey(study_instance_uid, latest.revision), is_new=False, same_patient=same
        )
    key = StudyKey(study_instance_uid, 1 if latest is None else latest.revision + 1)
    connection.execute(
        sa.insert(study_revisions).values(
            study_instance_uid=study_instance_uid,
            revision=key.revision,
            state=RECEIVING,
            due_at=at,
            evidence=EvidenceKind.QUIET_TIME.value,
            received_instances=0 if latest is None else latest.received_instances,
            expected_instances=None if latest is None else latest.expected_instances,
            last_received_at=at,
        )
    )
    return OpenRevision(key, is_new=True, same_patient=same)


def count_instance(
    connection: sa.Connection, key: StudyKey, *, at: datetime, due_at: datetime
) -> None:
    """One more instance: the quiet time starts again, unless the expected count is reached."""
    revisions = study_revisions
    received = revisions.c.received_instances + 1
    # A missing expectation compares as NULL, which is not true: then the quiet time holds.
    reached = received >= revisions.c.expected_instances
    connection.execute(
        sa.update(revisions)
        .where(*_is(key))
        .values(
            received_instances=received,
            last_received_at=at,
            due_at=sa.case((reached, _moment(at)), else_=_moment(due_at)),
            evidence=sa.case(
                (reached, EvidenceKind.EXPECTED_COUNT.value), else_=EvidenceKind.QUIET_TIME.value
            ),
        )
    )


def expect_instances(
    connection: sa.Connection, key: StudyKey, expected: int, *, at: datetime
) -> None:
    """A source learned how many instances the study has (the strongest evidence)."""
    revisions = study_revisions
    reached = revisions.c.received_instances >= expected
    connection.execute(
        sa.update(revisions)
        .where(*_is(key), revisions.c.state == RECEIVING)
        .values(
            expected_instances=expected,
            due_at=sa.case((reached, _moment(at)), else_=revisions.c.due_at),
            evidence=sa.case(
                (reached, EvidenceKind.EXPECTED_COUNT.value), else_=revisions.c.evidence
            ),
        )
    )


def bring_forward_after_release(
    connection: sa.Connection, study_instance_uid: str, *, due_at: datetime
) -> None:
    """The sender said it is done: a short quiet time is enough, if no other transfer is open."""
    # Of two transfers that end at once, the second one must see that the first has ended.
    # A study that holds only conflicting instances has no row of its own.
    _lock_study(connection, study_instance_uid).one_or_none()
    others = (
        sa.select(association_studies.c.association_id)
        .join(
            associations,
            associations.c.association_id == association_studies.c.association_id,
        )
        .where(
            association_studies.c.study_instance_uid == study_instance_uid,
            associations.c.closed_at.is_(None),
        )
    )
    connection.execute(
        sa.update(study_revisions)
        .where(
            study_revisions.c.study_instance_uid == study_instance_uid,
            study_revisions.c.state == RECEIVING,
            study_revisions.c.due_at > due_at,
            ~sa.exists(others),
        )
        .values(due_at=due_at, evidence=EvidenceKind.ASSOCIATION_RELEASED.value)
    )


def due(connection: sa.Connection, now: datetime, limit: int) -> list[StudyKey]:
    """Revisions whose evidence says that they are complete."""
    rows = connection.execute(
        sa.select(study_revisions.c.study_instance_uid, study_revisions.c.revision)
        .where(study_revisions.c.state == RECEIVING, study_revisions.c.due_at <= now)
        .order_by(study_revisions.c.due_at)
        .limit(limit)
    )
    return [StudyKey(row.study_instance_uid, row.revision) for row in rows]


def complete(connection: sa.Connection, key: StudyKey, now: datetime) -> bool:
    """Close a due revision; False when another worker did, or an image came in between."""
    done = connection.execute(
        sa.update(study_revisions)
        .where(*_is(key), study_revisions.c.state == RECEIVING, study_revisions.c.due_at <= now)
        .values(state=COMPLETE, completed_at=now)
    )
    return done.rowcount == 1


def evidence_of(connection: sa.Connection, key: StudyKey) -> dict[str, object]:
    """What made a revision complete."""
    row = connection.execute(sa.select(study_revisions).where(*_is(key))).one()
    return {
        "evidence": row.evidence,
        "received_instances": row.received_instances,
        "expected_instances": row.expected_instances,
    }


def state_of(connection: sa.Connection, key: StudyKey) -> str:
    """``receiving``, ``complete`` or ``routed``; locks the row for the transaction."""
    query = sa.select(study_revisions.c.state).where(*_is(key))
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return str(connection.execute(query).scalar_one())


def mark_routed(
    connection: sa.Connection, key: StudyKey, decisions: Sequence[Decision], at: datetime
) -> None:
    """Keep each route's answer, the negative ones too."""
    connection.execute(sa.update(study_revisions).where(*_is(key)).values(state=ROUTED))
    for decision in decisions:
        connection.execute(
            sa.insert(route_decisions).values(
                study_instance_uid=key.study_instance_uid,
                revision=key.revision,
                route=decision.route,
                decision=_DECISION_NAMES.get(type(decision), "rule-error"),
                reasons=list(decision.reasons),
                decided_at=at,
            )
        )


def add_problem(connection: sa.Connection, study_instance_uid: str, problem: str) -> bool:
    """Hold a study back; False when this problem is known already."""
    study = _lock_study(connection, study_instance_uid).one()
    if problem in study.problems:
        return False
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_instance_uid == study_instance_uid)
        .values(problems=[*study.problems, problem])
    )
    return True


_DECISION_NAMES = {Match: "match", NoMatch: "no-match"}


def _moment(at: datetime) -> sa.ColumnElement[datetime]:
    """A time inside an expression, where its type cannot be told from a column."""
    return sa.literal(at, UtcTime())


def _is(key: StudyKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        study_revisions.c.study_instance_uid == key.study_instance_uid,
        study_revisions.c.revision == key.revision,
    )


def _lock_study(connection: sa.Connection, study_instance_uid: str) -> sa.CursorResult[Any]:
    query = sa.select(studies).where(studies.c.study_instance_uid == study_instance_uid)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return connection.execute(query)


def _latest_revision(connection: sa.Connection, study_instance_uid: str) -> sa.Row[Any] | None:
    """Locked, so that it is not completed while an instance is added to it."""
    query = (
        sa.select(study_revisions)
        .where(study_revisions.c.study_instance_uid == study_instance_uid)
        .order_by(study_revisions.c.revision.desc())
        .limit(1)
    )
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return connection.execute(query).one_or_none()
