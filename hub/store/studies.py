"""Studies and their revisions: what the indexer writes and completeness reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.routing import Decision, Incomplete, Match, NoMatch, Suspended
from hub.domain.study import EvidenceKind, StudyKey
from hub.ports import Expectation, ExpectationSource
from hub.store.database import insert_new
from hub.store.schema import (
    UtcTime,
    association_studies,
    associations,
    expectations,
    instances,
    route_decisions,
    studies,
    study_revisions,
)

RECEIVING, COMPLETE, ROUTED = "receiving", "complete", "routed"
_TRUST = [source.value for source in ExpectationSource]


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """The revision that a newly arrived instance belongs to."""

    key: StudyKey
    is_new: bool
    """It was opened by this call."""
    patient_key: tuple[str, str]
    """`PatientIdentity.key` of the study."""
    has_accession_number: bool = True


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
    afresh = study.purged_at is not None
    if afresh:
        study = _start_afresh(connection, study_instance_uid, patient)
    patient_key = (study.patient_id, study.issuer_of_patient_id)
    latest = _latest_revision(connection, study_instance_uid)
    if latest is not None and latest.state == RECEIVING:
        key = StudyKey(study_instance_uid, latest.revision)
        return OpenRevision(
            key,
            is_new=False,
            patient_key=patient_key,
            has_accession_number=bool(study.accession_number),
        )
    key = StudyKey(study_instance_uid, 1 if latest is None else latest.revision + 1)
    connection.execute(
        sa.insert(study_revisions).values(
            study_instance_uid=study_instance_uid,
            revision=key.revision,
            state=RECEIVING,
            due_at=at,
            evidence=EvidenceKind.QUIET_TIME.value,
            received_instances=0 if latest is None or afresh else latest.received_instances,
            expected_instances=None if latest is None else latest.expected_instances,
            last_received_at=at,
        )
    )
    return OpenRevision(
        key,
        is_new=True,
        patient_key=patient_key,
        has_accession_number=bool(study.accession_number),
    )


def _start_afresh(
    connection: sa.Connection, study_instance_uid: str, patient: PatientIdentity
) -> sa.Row[Any]:
    """A study whose images were deleted comes again: what held those back says nothing of these."""
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_instance_uid == study_instance_uid)
        .values(
            patient_id=patient.patient_id,
            issuer_of_patient_id=patient.issuer_of_patient_id,
            accession_number="",
            issuer_of_accession_number="",
            problems=[],
            purged_at=None,
        )
    )
    return _lock_study(connection, study_instance_uid).one()


def count_instances(
    connection: sa.Connection, key: StudyKey, number: int, *, at: datetime, due_at: datetime
) -> None:
    """So many more instances, the last one received at a time: the quiet time starts again.
    ``apply_expectations`` then tells whether anybody has to wait for it."""
    revisions = study_revisions
    last = sa.case(
        (revisions.c.last_received_at > _moment(at), revisions.c.last_received_at),
        else_=_moment(at),
    )
    connection.execute(
        sa.update(revisions)
        .where(*_is(key))
        .values(
            received_instances=revisions.c.received_instances + number,
            last_received_at=last,
            due_at=due_at,
            evidence=EvidenceKind.QUIET_TIME.value,
        )
    )


def expect(connection: sa.Connection, expectation: Expectation, at: datetime) -> None:
    """Record what a study will consist of, in place of what the same source said before."""
    keys = {
        "study_instance_uid": expectation.study_instance_uid,
        "source": expectation.source.value,
    }
    values = {
        "number_of_instances": expectation.number_of_instances,
        "sop_instance_uids": list(dict.fromkeys(expectation.sop_instance_uids)),
        "series": [[one.series_instance_uid, one.sop_instance_uids] for one in expectation.series],
        "learned_at": at,
    }
    if not insert_new(connection, expectations, **keys, **values):
        connection.execute(
            sa.update(expectations)
            .where(*(expectations.c[name] == value for name, value in keys.items()))
            .values(**values)
        )
    apply_expectations(connection, expectation.study_instance_uid, at)


def apply_expectations(connection: sa.Connection, study_instance_uid: str, at: datetime) -> bool:
    """Hold what is known of a study against what has arrived: a study of which all is there is
    due at once (the strongest evidence), one that lacks something waits as before.

    The most trusted source decides (`hub.ports.ExpectationSource`). What an earlier revision
    satisfied already says nothing about when the late images of this one are all there.

    Returns:
        Whether it is due at once.
    """
    expected = _expectation(connection, study_instance_uid)
    if expected is None:
        return False
    _lock_study(connection, study_instance_uid).one_or_none()
    revision = _latest_revision(connection, study_instance_uid)
    if revision is None or revision.state != RECEIVING:
        return False
    named = frozenset(expected.sop_instance_uids)
    number = len(named) or expected.number_of_instances
    if number is None:
        return False
    values: dict[str, Any] = {"expected_instances": number}
    key = StudyKey(study_instance_uid, revision.revision)
    if revision.received_instances >= number and _is_reached(connection, key, number, named):
        values |= {"due_at": at, "evidence": EvidenceKind.EXPECTED_COUNT.value}
    connection.execute(sa.update(study_revisions).where(*_is(key)).values(**values))
    return "due_at" in values


def _expectation(
    connection: sa.Connection, study_instance_uid: str
) -> sa.Row[tuple[Any, ...]] | None:
    """What the most trusted source says that says anything."""
    query = sa.select(expectations).where(expectations.c.study_instance_uid == study_instance_uid)
    said = [
        row
        for row in connection.execute(query)
        if row.sop_instance_uids or row.number_of_instances is not None
    ]
    return min(said, key=lambda row: _TRUST.index(row.source), default=None)


def _is_reached(
    connection: sa.Connection, key: StudyKey, number: int, named: frozenset[str]
) -> bool:
    """All is there now, and was not with the last revision of the whole study."""
    last = latest_whole_revision(connection, key.study_instance_uid)
    last_whole = 0 if last is None else last.revision
    if not named:
        query = sa.select(study_revisions.c.received_instances).where(
            *_is(StudyKey(key.study_instance_uid, last_whole))
        )
        before: int = connection.execute(query).scalar() or 0
        return before < number
    current = connection.execute(
        sa.select(instances.c.sop_instance_uid, instances.c.revision).where(
            instances.c.study_instance_uid == key.study_instance_uid,
            instances.c.state == "current",
        )
    ).all()
    return named <= {row.sop_instance_uid for row in current} and not named <= {
        row.sop_instance_uid for row in current if row.revision <= last_whole
    }


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
    set_routed(connection, key)
    for decision in decisions:
        _keep_decision(connection, key, decision, at)


def set_routed(connection: sa.Connection, key: StudyKey) -> None:
    """The routes were applied to a revision."""
    connection.execute(sa.update(study_revisions).where(*_is(key)).values(state=ROUTED))


def decide_again(
    connection: sa.Connection, key: StudyKey, decision: Decision, at: datetime
) -> None:
    """Keep a route's answer about a revision in place of the one that it gave before."""
    connection.execute(
        sa.delete(route_decisions).where(
            route_decisions.c.study_instance_uid == key.study_instance_uid,
            route_decisions.c.revision == key.revision,
            route_decisions.c.route == decision.route,
        )
    )
    _keep_decision(connection, key, decision, at)


def _keep_decision(
    connection: sa.Connection, key: StudyKey, decision: Decision, at: datetime
) -> None:
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


def latest_whole_revision(connection: sa.Connection, study_instance_uid: str) -> StudyKey | None:
    """The last revision of the whole study that is complete; None where there is none."""
    revisions = study_revisions.c
    number = connection.execute(
        sa.select(sa.func.max(revisions.revision)).where(
            revisions.study_instance_uid == study_instance_uid,
            revisions.scope == "study",
            revisions.state != RECEIVING,
        )
    ).scalar()
    return None if number is None else StudyKey(study_instance_uid, number)


def reopen(connection: sa.Connection, key: StudyKey) -> None:
    """Drop the routes' answers about a revision, so that they are asked again."""
    connection.execute(sa.update(study_revisions).where(*_is(key)).values(state=COMPLETE))
    connection.execute(
        sa.delete(route_decisions).where(
            route_decisions.c.study_instance_uid == key.study_instance_uid,
            route_decisions.c.revision == key.revision,
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


_DECISION_NAMES = {
    Match: "match",
    NoMatch: "no-match",
    Incomplete: "incomplete",
    Suspended: "suspended",
}


def _moment(at: datetime) -> sa.ColumnElement[datetime]:
    """A time inside an expression, where its type cannot be told from a column."""
    return sa.literal(at, UtcTime())


def _is(key: StudyKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        study_revisions.c.study_instance_uid == key.study_instance_uid,
        study_revisions.c.revision == key.revision,
    )


def lock(connection: sa.Connection, study_instance_uids: Collection[str]) -> None:
    """Lock the studies that are there, in order; SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql" and study_instance_uids:
        connection.execute(
            sa.select(studies.c.study_instance_uid)
            .where(studies.c.study_instance_uid.in_(study_instance_uids))
            .order_by(studies.c.study_instance_uid)
            .with_for_update()
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
