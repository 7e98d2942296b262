"""What may be deleted and what must be kept; the deletion of one study, and legal holds.

Deleting is one transaction: the index rows go, the segments are marked ``released`` (the indexer
overwrites them with zeros), the documents are marked too, and the audit log says what went, on
whose word and why. Only then do files go. A crash in between leaves work that the next turn does;
nothing is ever referred to that is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from hub.errors import RejectedError
from hub.store import deletion, order_rows
from hub.store.database import Database
from hub.store.deletion import RELEASED, SEALED
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.results import OPEN_STATES
from hub.store.schema import (
    UtcTime,
    association_studies,
    associations,
    critical_alerts,
    deliveries,
    documents,
    fetches,
    instances,
    report_versions,
    requests,
    route_decisions,
    segments,
    studies,
    study_revisions,
)
from hub.store.schema_orders import case_observations, fhir_resources, orders

Condition = sa.ColumnElement[bool]

_OPEN = [state.value for state in OPEN_STATES]
_this = studies.c.study_instance_uid
_later = route_decisions.alias("later")
_newer = report_versions.alias("newer")


@dataclass(frozen=True, slots=True)
class Kept:
    """How long a study is kept, counted from its last image."""

    images: timedelta
    results: timedelta


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is deleted without anybody asking."""

    general: Kept
    by_route: Mapping[str, Kept] = field(default_factory=dict)
    """Every configured route; of those that match a study, the longest counts."""
    minimum_free_bytes: int = 0
    """Below this, the oldest delivered studies go before their time."""
    youngest: timedelta = timedelta(days=1)
    """But none whose last image is younger."""

    @property
    def longest(self) -> timedelta:
        """How long anything of a study may be kept."""
        return max(max(k.images, k.results) for k in (self.general, *self.by_route.values()))


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted of one study."""

    instances: int = 0
    length: int = 0
    """Bytes of its images."""
    documents: int = 0
    segments: int = 0
    """Files of images, among them those of which nothing could be indexed."""
    values: int = 0
    """Measured values of a case."""
    orders: int = 0


# --- what must be kept -------------------------------------------------------------------


LEGAL_HOLD = "a legal hold is on it"
BEING_WRITTEN = "a transfer still writes to it"


def at_work() -> dict[str, Condition]:
    """Reasons that pass by themselves: conditions on a row of ``studies``."""
    of_study = requests.c.study_instance_uid == _this
    named_as_prior = sa.cast(requests.c.priors, sa.Text).contains(_this)
    return {
        "it is still being received or routed": sa.exists().where(
            study_revisions.c.study_instance_uid == _this, study_revisions.c.state != "routed"
        ),
        BEING_WRITTEN: _is_being_written(_this),
        "a model is still asked about it": sa.exists().where(of_study, requests.c.state.in_(_OPEN)),
        "a report is still on its way": sa.exists().where(
            deliveries.c.study_instance_uid == _this,
            deliveries.c.state.in_(["pending", "retrying", "confirming"]),
        ),
        "a report of it is being made": _has_version("asked"),
        "an archive is still asked about it": sa.exists().where(
            fetches.c.study_instance_uid == _this, fetches.c.state == "running"
        ),
        "a model is given it as a prior": sa.exists().where(
            requests.c.state.in_(_OPEN), named_as_prior
        ),
        "an order waits for it": sa.exists().where(
            orders.c.study_instance_uid == _this, orders.c.state.in_(["placed", "waiting"])
        ),
    }


def _is_being_written(uid: sa.ColumnElement[str]) -> Condition:
    return sa.or_(
        sa.exists().where(
            segments.c.study_instance_uid == uid, segments.c.state.not_in([SEALED, RELEASED])
        ),
        sa.exists().where(
            association_studies.c.study_instance_uid == uid,
            association_studies.c.association_id == associations.c.association_id,
            associations.c.closed_at.is_(None),
        ),
    )


def for_a_person() -> dict[str, Condition]:
    """Reasons that a person has to settle: conditions on a row of ``studies``."""
    of_study = requests.c.study_instance_uid == _this
    mended = sa.exists().where(
        _later.c.study_instance_uid == route_decisions.c.study_instance_uid,
        _later.c.route == route_decisions.c.route,
        _later.c.revision > route_decisions.c.revision,
    )
    encoded = sa.exists().where(
        documents.c.request_id == requests.c.request_id,
        documents.c.kind != "record",
        # What is there to be read, and the page in it, need not have been sent.
        ~sa.and_(
            documents.c.kind.in_(["fhir", "pdf"]),
            sa.exists().where(fhir_resources.c.request_id == documents.c.request_id),
        ),
    )
    sent = sa.exists().where(deliveries.c.request_id == requests.c.request_id)
    held = sa.exists().where(  # an escalation stands for it
        critical_alerts.c.request_id == requests.c.request_id, critical_alerts.c.state != "sent"
    )
    return {
        "it is held back": sa.cast(studies.c.problems, sa.Text) != "[]",
        "a rule failed on it": sa.exists().where(
            route_decisions.c.study_instance_uid == _this,
            route_decisions.c.decision == "rule-error",
            ~mended,
        ),
        "a request about it failed": sa.exists().where(
            of_study, requests.c.state.in_(["failed", "quarantined"])
        ),
        "a report of it could not be delivered": sa.exists().where(
            deliveries.c.study_instance_uid == _this,
            deliveries.c.state.in_(["dead", "quarantined"]),
        ),
        "a report of it was never sent": sa.exists().where(
            of_study, requests.c.state == "done", encoded, ~sent, ~held
        ),
        "a report of it could not be changed": _has_version("failed"),
    }


def _has_version(state: str) -> Condition:
    """A version is in this state, and no later one has taken its place."""
    replaced = sa.exists().where(
        _newer.c.request_id == report_versions.c.request_id,
        _newer.c.version > report_versions.c.version,
    )
    return sa.exists().where(
        ~replaced,
        requests.c.study_instance_uid == _this,
        report_versions.c.request_id == requests.c.request_id,
        report_versions.c.state == state,
    )


def _settled() -> Condition:
    reasons = [*at_work().values(), *for_a_person().values()]
    return sa.and_(studies.c.legal_hold.is_(None), *(~reason for reason in reasons))


# --- what is due -------------------------------------------------------------------------


def _last_image() -> sa.ScalarSelect[datetime]:
    return (
        sa.select(sa.func.max(study_revisions.c.last_received_at))
        .where(study_revisions.c.study_instance_uid == _this)
        .scalar_subquery()
    )


def _is_old_enough(
    now: datetime, general: timedelta, by_route: Mapping[str, timedelta]
) -> list[Condition]:
    """Every route that matches has had its time; where none does, the general one counts."""
    matched = sa.exists().where(
        route_decisions.c.study_instance_uid == _this, route_decisions.c.decision == "match"
    )
    by_time: dict[timedelta, list[str]] = {}
    for route, kept in by_route.items():
        by_time.setdefault(kept, []).append(route)
    of_others = matched.where(route_decisions.c.route.not_in(list(by_route)))
    of_known = matched.where(route_decisions.c.route.in_(list(by_route)))
    conditions: list[Condition] = [
        sa.or_(_last_image() <= now - kept, ~matched.where(route_decisions.c.route.in_(names)))
        for kept, names in by_time.items()
    ]
    only_known = sa.and_(of_known, ~of_others)
    conditions.append(sa.or_(_last_image() <= now - general, only_known))
    return conditions


def due_images(
    connection: sa.Connection, policy: RetentionPolicy, now: datetime, limit: int
) -> list[str]:
    """Studies whose images have had their time, the oldest first."""
    by_route = {route: kept.images for route, kept in policy.by_route.items()}
    found = _oldest(
        connection,
        [
            sa.or_(_has_images(), _has_values()),
            *_is_old_enough(now, policy.general.images, by_route),
        ],
        limit,
    )
    return [*found, *_strays(connection, now - policy.general.images, limit - len(found))]


def _strays(connection: sa.Connection, before: datetime, limit: int) -> list[str]:
    """Studies of which there are only conflicts with other studies' images: no row of ``studies``
    tells of them. What holds no object at all is left for the person who was told of it."""
    at = segments.alias("at").c  # so that no condition takes it for its own
    uid = at.study_instance_uid
    query = (
        sa.select(uid)
        .where(
            ~sa.exists().where(_this == uid),
            sa.exists().where(instances.c.study_instance_uid == uid),
            ~_is_being_written(uid),
        )
        .group_by(uid)
        .having(sa.func.max(at.opened_at) <= sa.literal(before, UtcTime()))
        .order_by(sa.func.max(at.opened_at))
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def due_results(
    connection: sa.Connection, policy: RetentionPolicy, now: datetime, limit: int
) -> list[str]:
    """Studies whose encoded results have had their time, the oldest first."""
    by_route = {route: kept.results for route, kept in policy.by_route.items()}
    has_documents = sa.exists().where(
        requests.c.study_instance_uid == _this,
        documents.c.request_id == requests.c.request_id,
        documents.c.purged_at.is_(None),
    )
    return _oldest(
        connection,
        [has_documents, *_is_old_enough(now, policy.general.results, by_route)],
        limit,
    )


def oldest_delivered(connection: sa.Connection, before: datetime, limit: int) -> list[str]:
    """Studies that are dealt with and whose last image is older, the oldest first."""
    return _oldest(connection, [_has_images(), _last_image() <= before], limit)


def is_erasing(connection: sa.Connection) -> bool:
    """Whether space that was given up is still to become free."""
    query = sa.select(sa.exists().where(segments.c.state == RELEASED))
    return bool(connection.execute(query).scalar_one())


def _has_images() -> Condition:
    return sa.exists().where(instances.c.study_instance_uid == _this)


def _has_values() -> Condition:
    return sa.exists().where(
        case_observations.c.study_instance_uid == _this, case_observations.c.purged_at.is_(None)
    )


def _oldest(connection: sa.Connection, conditions: Sequence[Condition], limit: int) -> list[str]:
    query = sa.select(_this).where(_settled(), *conditions).order_by(_last_image()).limit(limit)
    return list(connection.execute(query).scalars())


# --- deleting ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StudyKeeper:
    """Deletes studies, and keeps those on which a legal hold is."""

    database: Database
    documents: DocumentStore
    journal: Journal

    def purge_by_hand(self, study_instance_uid: str, reason: str, *, force: bool) -> Purged:
        """A person deletes a study's images and encoded results. ``force`` also where something
        is left for a person to settle; never on a legal hold or in the middle of work.

        Raises:
            RejectedError: it must be kept, or there is nothing to delete; says why.
        """
        uid = study_instance_uid
        with self.database.write() as connection:
            reasons = _reasons(connection, uid, {**at_work(), **({} if force else for_a_person())})
            if reasons:
                raise RejectedError(f"study {uid} is not deleted: {'; '.join(reasons)}")
            purged, files = self._mark(connection, uid, reason, images=True, results=True)
            if purged == Purged():
                raise RejectedError(f"nothing of study {uid} is held any more")
        self._delete_files(files)
        return purged

    def purge(self, study_instance_uid: str, why: str, *, images: bool, results: bool) -> Purged:
        """The hub deletes what has had its time; nothing where it must be kept after all."""
        uid = study_instance_uid
        with self.database.write() as connection:
            if _reasons(connection, uid, {**at_work(), **for_a_person()}):
                return Purged()
            purged, files = self._mark(connection, uid, why, images=images, results=results)
        self._delete_files(files)
        return purged

    def hold(self, study_instance_uid: str, reason: str) -> None:
        """Nothing of the study is deleted until the hold is released.

        Raises:
            RejectedError: there is no such study.
        """
        uid = study_instance_uid
        with self.database.write() as connection:
            _lock(connection, uid)
            _set_hold(connection, uid, f"{reason} ({self.journal.actor})")
            self.journal.record(connection, "study.legal-hold", f"study:{uid}", uid, reason=reason)

    def release_hold(self, study_instance_uid: str, reason: str) -> None:
        """The study is deleted in its time, as others are.

        Raises:
            RejectedError: there is no such study, or no hold on it.
        """
        uid = study_instance_uid
        with self.database.write() as connection:
            _lock(connection, uid)
            hold = connection.execute(sa.select(studies.c.legal_hold).where(_this == uid)).scalar()
            if hold is None:
                raise RejectedError(f"no legal hold is on study {uid}")
            _set_hold(connection, uid, None)
            self.journal.record(
                connection,
                "study.legal-hold-released",
                f"study:{uid}",
                uid,
                reason=reason,
                hold=hold,
            )

    def _mark(
        self, connection: sa.Connection, uid: str, why: str, *, images: bool, results: bool
    ) -> tuple[Purged, list[str]]:
        """In the caller's transaction; returns what goes, and the documents whose files may."""
        now = self.journal.clock.now()
        digests, length = deletion.delete_images(connection, uid, now) if images else ([], 0)
        given_up = deletion.release_segments(connection, uid) if images else 0
        values = deletion.erase_values(connection, uid, now) if images else 0
        files = deletion.mark_documents(connection, uid, now) if results else []
        gone = order_rows.forget_of_study(connection, uid) if results else 0
        purged = Purged(len(digests), length, len(files), given_up, values, gone)
        if purged != Purged():
            self.journal.record(
                connection,
                "study.purged",
                f"study:{uid}",
                uid,
                reason=why,
                instances=purged.instances,
                bytes=length,
                values=values,
                orders=gone,
                sha256_of_digests=hashlib.sha256("".join(digests).encode()).hexdigest(),
                documents=sorted(files),
            )
        return purged, files

    def _delete_files(self, sha256s: Sequence[str]) -> None:
        with self.database.read() as connection:
            kept = still_needed(connection, sha256s)
        for sha256 in set(sha256s) - kept:
            self.documents.delete(sha256)


def _set_hold(connection: sa.Connection, uid: str, hold: str | None) -> None:
    connection.execute(sa.update(studies).where(_this == uid).values(legal_hold=hold))


def still_needed(connection: sa.Connection, sha256s: Sequence[str]) -> set[str]:
    """Those of these documents that are not deleted."""
    query = sa.select(documents.c.sha256).where(
        documents.c.sha256.in_(list(sha256s)), documents.c.purged_at.is_(None)
    )
    return set(connection.execute(query).scalars())


def _is_known(connection: sa.Connection, uid: str) -> bool:
    """Whether images of it were ever used; its row is locked on PostgreSQL."""
    query = sa.select(studies.c.study_instance_uid).where(_this == uid)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return connection.execute(query).one_or_none() is not None


def _lock(connection: sa.Connection, uid: str) -> None:
    if not _is_known(connection, uid):
        raise RejectedError(f"no study {uid} has arrived")


def _reasons_of_stray(connection: sa.Connection, uid: str) -> tuple[str, ...]:
    """As ``_reasons``, of a study that has no row of ``studies``: nothing in it was ever used."""
    wrote = sa.exists().where(segments.c.study_instance_uid == uid)
    asked = sa.select(wrote, _is_being_written(sa.literal(uid)))
    is_there, is_being_written = connection.execute(asked).one()
    if not uid or not is_there:  # segments that name no study are for a person to look at
        raise RejectedError(f"no study {uid} has arrived")
    return (BEING_WRITTEN,) if is_being_written else ()


def _reasons(
    connection: sa.Connection, uid: str, conditions: Mapping[str, Condition]
) -> tuple[str, ...]:
    """Why a study must be kept; empty when it may go. It is locked from here on.

    Raises:
        RejectedError: nothing of it has arrived.
    """
    if not _is_known(connection, uid):
        return _reasons_of_stray(connection, uid)
    asked = [studies.c.legal_hold, *(c.label(f"r{n}") for n, c in enumerate(conditions.values()))]
    row = connection.execute(sa.select(*asked).where(_this == uid)).one()
    hold = () if row[0] is None else (f"{LEGAL_HOLD}: {row[0]}",)
    return (*hold, *(text for text, holds in zip(conditions, row[1:], strict=True) if holds))
