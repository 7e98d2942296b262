"""What the hub asked archives for, and what it must know for that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from hub.domain.study import StudyKey
from hub.ports import EndOfTransfer
from hub.store.database import insert_new
from hub.store.schema import (
    association_studies,
    associations,
    documents,
    fetches,
    instances,
    requests,
    route_decisions,
    studies,
    study_revisions,
)
from hub.store.studies import RECEIVING, ROUTED, latest_whole_revision

PRIOR_REASON = "the study was fetched as a prior of another one"
_MOST_HELD = 200


class FetchKind(StrEnum):
    STUDY = "study"
    """A person, or an order, named it."""
    MISSING = "missing"
    """The rest of a study."""
    PRIOR = "prior"


class FetchState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    NOTHING_FOUND = "nothing-found"
    FAILED = "failed"
    TIMED_OUT = "timed-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A study, or the rest of one, that an archive is asked to send."""

    fetch_id: str
    study_instance_uid: str
    """What is fetched."""
    revision: int = 0
    """Of a study of which images are missing."""
    request_id: str | None = None
    """Who wants the prior."""
    kind: FetchKind
    archive: str
    asked_at: datetime
    deadline_at: datetime
    state: FetchState = FetchState.RUNNING
    attempts: int = 0
    detail: str = ""


def add(connection: sa.Connection, fetch: Fetch) -> bool:
    """Record it; False when it is known already."""
    return insert_new(
        connection,
        fetches,
        fetch_id=fetch.fetch_id,
        study_instance_uid=fetch.study_instance_uid,
        revision=fetch.revision,
        request_id=fetch.request_id,
        kind=fetch.kind.value,
        archive=fetch.archive,
        state=fetch.state.value,
        wanted=[],
        found=[],
        attempts=fetch.attempts,
        detail=fetch.detail,
        asked_at=fetch.asked_at,
        deadline_at=fetch.deadline_at,
    )


def get(connection: sa.Connection, fetch_id: str) -> Fetch:
    """One fetch; its row is locked for the transaction on PostgreSQL."""
    query = sa.select(fetches).where(fetches.c.fetch_id == fetch_id)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return _fetch(connection.execute(query).one())


def running_until(connection: sa.Connection, fetch_id: str) -> datetime | None:
    """Deadline of a fetch that has not ended; None where it has, or never began."""
    query = sa.select(fetches.c.deadline_at).where(
        fetches.c.fetch_id == fetch_id, fetches.c.state == FetchState.RUNNING.value
    )
    return connection.execute(query).scalar()


def of_request(connection: sa.Connection, request_id: str) -> list[Fetch]:
    """The priors that were asked for on behalf of a request."""
    query = sa.select(fetches).where(fetches.c.request_id == request_id)
    return [_fetch(row) for row in connection.execute(query)]


def of_study(connection: sa.Connection, study_instance_uid: str) -> list[Fetch]:
    """Everything of a study that was asked for, in order."""
    query = (
        sa.select(fetches)
        .where(fetches.c.study_instance_uid == study_instance_uid)
        .order_by(fetches.c.asked_at)
    )
    return [_fetch(row) for row in connection.execute(query)]


def begin_attempt(connection: sa.Connection, fetch: Fetch) -> None:
    """Count one more attempt."""
    connection.execute(
        sa.update(fetches)
        .where(fetches.c.fetch_id == fetch.fetch_id)
        .values(attempts=fetch.attempts + 1)
    )


def finish(
    connection: sa.Connection, fetch: Fetch, state: FetchState, detail: str, at: datetime
) -> bool:
    """It ended; False when it had ended before."""
    done = connection.execute(
        sa.update(fetches)
        .where(fetches.c.fetch_id == fetch.fetch_id, fetches.c.state == FetchState.RUNNING.value)
        .values(state=state.value, detail=detail, finished_at=at)
    )
    return done.rowcount == 1


def _fetch(row: sa.Row[Any]) -> Fetch:
    return Fetch(
        fetch_id=row.fetch_id,
        study_instance_uid=row.study_instance_uid,
        revision=row.revision,
        request_id=row.request_id,
        kind=FetchKind(row.kind),
        archive=row.archive,
        asked_at=row.asked_at,
        deadline_at=row.deadline_at,
        state=FetchState(row.state),
        attempts=row.attempts,
        detail=row.detail,
    )


# --- studies, as fetching needs them --------------------------------------------------------


def was_fetched_as_prior(connection: sa.Connection, key: StudyKey) -> bool:
    """Whether this revision is there only because a model wanted it as a prior: its first image
    came while it was being fetched, and nobody asked for the study itself. A revision without
    images of its own goes on from one that was closed early for its series."""
    first = connection.execute(
        sa.select(sa.func.min(instances.c.received_at))
        .where(
            instances.c.study_instance_uid == key.study_instance_uid,
            instances.c.revision <= key.revision,
        )
        .group_by(instances.c.revision)
        .order_by(instances.c.revision.desc())
        .limit(1)
    ).scalar()
    if first is None:
        return False
    known = connection.execute(
        sa.select(fetches).where(fetches.c.study_instance_uid == key.study_instance_uid)
    ).all()
    if any(row.kind != FetchKind.PRIOR.value for row in known):
        return False
    return any(
        row.asked_at <= first and (row.finished_at is None or first <= row.finished_at)
        for row in known
    )


def ask_for_itself(connection: sa.Connection, study_instance_uid: str) -> bool:
    """Somebody wants the study itself, which came as a prior (``was_fetched_as_prior``); False
    where nothing of it was fetched as one."""
    done = connection.execute(
        sa.update(fetches)
        .where(
            fetches.c.study_instance_uid == study_instance_uid,
            fetches.c.kind == FetchKind.PRIOR.value,
            fetches.c.state != FetchState.RUNNING.value,
        )
        .values(kind=FetchKind.STUDY.value)
    )
    return done.rowcount > 0


@dataclass(frozen=True, slots=True)
class ArchiveSenders:
    """Who sends for archives: a transfer from one of these is an answer to a question."""

    sources: frozenset[str] = frozenset()
    """What comes on an association, or in a response, of the hub's own: names of archives."""
    ae_titles: frozenset[str] = frozenset()
    """With which archives call a source of the hub's (C-MOVE)."""


def priors_sent_for_themselves(
    connection: sa.Connection, archives: ArchiveSenders, limit: int
) -> list[str]:
    """Studies that no route was asked about because they were fetched as priors, and that somebody
    sent whole transfers of as well: not for an archive, or when nothing was being fetched any
    more. What an archive sends after it was too late may still be the prior."""
    uid, revisions, transfer = fetches.c.study_instance_uid, study_revisions.c, associations.c
    latest = sa.select(sa.func.max(revisions.revision)).where(revisions.study_instance_uid == uid)
    is_left_out = sa.exists().where(
        route_decisions.c.study_instance_uid == uid,
        route_decisions.c.revision == latest.scalar_subquery(),
        sa.cast(route_decisions.c.reasons, sa.Text).contains(PRIOR_REASON),
    )
    is_under_way = sa.exists().where(revisions.study_instance_uid == uid, revisions.state != ROUTED)
    other = fetches.alias("other").c
    is_fetched = sa.exists().where(
        other.study_instance_uid == uid, other.state == FetchState.RUNNING.value
    )
    within_another = sa.exists().where(
        other.study_instance_uid == uid,
        other.asked_at <= transfer.opened_at,
        sa.or_(other.finished_at >= transfer.opened_at, other.state != FetchState.DONE.value),
    )
    is_sent = sa.exists().where(
        association_studies.c.study_instance_uid == uid,
        association_studies.c.association_id == transfer.association_id,
        transfer.end == EndOfTransfer.RELEASED.value,
        transfer.closed_at >= fetches.c.asked_at,
        transfer.source.not_in(archives.sources),
        sa.or_(
            transfer.calling_ae_title.not_in(archives.ae_titles),
            sa.and_(transfer.opened_at > fetches.c.asked_at, ~within_another),
        ),
    )
    is_here = sa.exists().where(instances.c.study_instance_uid == uid)
    query = sa.select(uid).where(
        fetches.c.kind == FetchKind.PRIOR.value,
        is_left_out,
        is_here,
        is_sent,
        ~is_fetched,
        ~is_under_way,
    )
    return list(connection.execute(query.distinct().limit(limit)).scalars())


def is_arriving(connection: sa.Connection, study_instance_uid: str) -> bool:
    """Whether images of a study are being received."""
    query = sa.select(study_revisions.c.revision).where(
        study_revisions.c.study_instance_uid == study_instance_uid,
        study_revisions.c.state == RECEIVING,
    )
    return connection.execute(query.limit(1)).first() is not None


def held_studies_of(connection: sa.Connection, patient_id: str) -> list[StudyKey]:
    """Whole studies under a patient ID that may be used, the last received first."""
    rows = connection.execute(
        sa.select(studies.c.study_instance_uid, studies.c.problems)
        .where(studies.c.patient_id == patient_id, studies.c.purged_at.is_(None))
        .order_by(studies.c.first_received_at.desc())
        .limit(_MOST_HELD)
    ).all()
    uids = [row.study_instance_uid for row in rows if not row.problems]
    found = (latest_whole_revision(connection, uid) for uid in uids)
    return [key for key in found if key is not None]


def held_instances(connection: sa.Connection, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of all that is there of a study."""
    query = sa.select(instances.c.sop_instance_uid).where(
        instances.c.study_instance_uid == study_instance_uid
    )
    return set(connection.execute(query).scalars())


def results_elsewhere(connection: sa.Connection, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of the hub's own results of a study that it does not hold as images: an
    archive that got them counts them, and nobody will send them here."""
    query = (
        sa.select(documents.c.document_id)
        .join(requests, requests.c.request_id == documents.c.request_id)
        .where(requests.c.study_instance_uid == study_instance_uid)
    )
    made = set(connection.execute(query).scalars())
    return made - held_instances(connection, study_instance_uid) if made else made


def source_of(connection: sa.Connection, study_instance_uid: str) -> str:
    """Name of the source that a study came from last; empty where it has none."""
    query = (
        sa.select(associations.c.source)
        .join(
            association_studies,
            association_studies.c.association_id == associations.c.association_id,
        )
        .where(association_studies.c.study_instance_uid == study_instance_uid)
        .order_by(associations.c.opened_at.desc(), associations.c.association_id)
        .limit(1)
    )
    return str(connection.execute(query).scalar() or "")


def to_ask_about(
    connection: sa.Connection, sources: Collection[str], limit: int
) -> list[tuple[StudyKey, datetime]]:
    """Arriving revisions from these sources that no archive was asked about, with the time of
    their last image."""
    from_them = (
        sa.select(association_studies.c.association_id)
        .join(associations, associations.c.association_id == association_studies.c.association_id)
        .where(
            association_studies.c.study_instance_uid == study_revisions.c.study_instance_uid,
            associations.c.source.in_(sources),
        )
    )
    rows = connection.execute(
        sa.select(
            study_revisions.c.study_instance_uid,
            study_revisions.c.revision,
            study_revisions.c.last_received_at,
        )
        .where(
            study_revisions.c.state == RECEIVING,
            study_revisions.c.asked_archive_at.is_(None),
            sa.exists(from_them),
        )
        .order_by(study_revisions.c.last_received_at)
        .limit(limit)
    )
    return [(StudyKey(row.study_instance_uid, row.revision), row.last_received_at) for row in rows]


def claim_asking(connection: sa.Connection, key: StudyKey, at: datetime) -> bool:
    """Nobody else asks an archive about this revision; False when somebody did."""
    revisions = study_revisions
    done = connection.execute(
        sa.update(revisions)
        .where(*_is(key), revisions.c.asked_archive_at.is_(None), revisions.c.state == RECEIVING)
        .values(asked_archive_at=at)
    )
    return done.rowcount == 1


def lacking(connection: sa.Connection, key: StudyKey) -> int:
    """How many images an arriving revision is known to lack."""
    query = sa.select(
        study_revisions.c.expected_instances, study_revisions.c.received_instances
    ).where(*_is(key), study_revisions.c.state == RECEIVING)
    row = connection.execute(query).one_or_none()
    if row is None or row.expected_instances is None:
        return 0
    return max(0, int(row.expected_instances - row.received_instances))


def postpone(connection: sa.Connection, key: StudyKey, until: datetime) -> None:
    """An arriving revision waits for what is being fetched."""
    connection.execute(
        sa.update(study_revisions)
        .where(*_is(key), study_revisions.c.state == RECEIVING)
        .values(due_at=until)
    )


def bring_forward(connection: sa.Connection, key: StudyKey, due_at: datetime) -> None:
    """Nothing more is fetched: no need to wait longer."""
    connection.execute(
        sa.update(study_revisions)
        .where(
            *_is(key),
            study_revisions.c.state == RECEIVING,
            study_revisions.c.due_at > due_at,
        )
        .values(due_at=due_at)
    )


def _is(key: StudyKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        study_revisions.c.study_instance_uid == key.study_instance_uid,
        study_revisions.c.revision == key.revision,
    )
