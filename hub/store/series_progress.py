"""Series that are complete while their study is still arriving.

Only looked at where a route starts with a series: it closes the running revision early (scope
``series``), and the next one, which is opened at once, goes on waiting for the whole study.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from hub.domain.study import EvidenceKind, StudyKey
from hub.ports import ExpectationSource
from hub.store.schema import (
    associations,
    expectations,
    instances,
    procedure_steps,
    studies,
    study_revisions,
)

SERIES_SCOPE = "series"
_COMPLETED, _IN_PROGRESS = "COMPLETED", "IN PROGRESS"
"""Performed Procedure Step Status (0040,0252)."""
NAMED, NEXT_SERIES, RELEASED, QUIET = (
    "named-instances",
    "next-series",
    "association-released",
    "quiet-time",
)
"""What says that a series is complete, in order of trust. Where somebody names its instances
(``named_series``), only silence makes it complete without them."""


@dataclass(frozen=True, slots=True)
class SeriesTimes:
    """How long a series must be silent before it counts as complete."""

    next_series: timedelta = timedelta(seconds=1)
    """Where its transfer goes on with another series; senders that mix series never pause."""
    quiet: timedelta = timedelta(seconds=5)
    """Where nothing else tells."""


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A revision that is being received."""

    key: StudyKey
    received: int


@dataclass(slots=True)
class SeriesWatch:
    """What was looked at already: a study is judged again only when another series of it is
    complete. It may be forgotten at any time."""

    _judged: dict[StudyKey, frozenset[str]] = field(default_factory=dict)

    def is_news(self, key: StudyKey, complete: Mapping[str, str]) -> bool:
        """Whether there is a complete series that there was not the last time."""
        series = frozenset(complete)
        return bool(series - self._judged.get(key, frozenset()))

    def judged(self, key: StudyKey, complete: Mapping[str, str]) -> None:
        self._judged[key] = frozenset(complete)

    def keep(self, keys: set[StudyKey]) -> None:
        """Forget all other studies."""
        for key in self._judged.keys() - keys:
            del self._judged[key]


def open_studies(connection: sa.Connection, now: datetime) -> list[OpenStudy]:
    """Revisions that are being received and not yet due as a whole."""
    revisions = study_revisions.c
    rows = connection.execute(
        sa.select(
            revisions.study_instance_uid, revisions.revision, revisions.received_instances
        ).where(revisions.state == "receiving", revisions.due_at > now)
    )
    return [
        OpenStudy(StudyKey(row.study_instance_uid, row.revision), row.received_instances)
        for row in rows
    ]


def complete_series(
    connection: sa.Connection, study_instance_uid: str, now: datetime, times: SeriesTimes
) -> dict[str, str]:
    """Series of a study that are complete -> what says so."""
    parts = connection.execute(
        sa.select(
            instances.c.series_instance_uid,
            instances.c.association_id,
            sa.func.max(instances.c.received_at).label("last"),
            sa.func.max(associations.c.closed_at).label("closed_at"),
            sa.func.max(associations.c.end).label("end"),
        )
        .outerjoin(associations, associations.c.association_id == instances.c.association_id)
        .where(instances.c.study_instance_uid == study_instance_uid, instances.c.state == "current")
        .group_by(instances.c.series_instance_uid, instances.c.association_id)
    ).all()
    by_transfer: dict[str, dict[str, datetime]] = defaultdict(dict)
    last: dict[str, datetime] = {}
    open_transfers: set[str] = set()
    for row in parts:
        by_transfer[row.association_id][row.series_instance_uid] = row.last
        last[row.series_instance_uid] = max(row.last, last.get(row.series_instance_uid, row.last))
        if row.closed_at is None or row.end != "released":
            open_transfers.add(row.association_id)
    lacking = _lacking(connection, study_instance_uid)
    found: dict[str, str] = {}
    for uid, at in sorted(last.items()):
        if uid in lacking:
            if not lacking[uid]:
                found[uid] = NAMED
            elif now - at >= times.quiet:
                found[uid] = QUIET
            continue
        transfers = [t for t, series in by_transfer.items() if uid in series]
        gone_on = any(
            moment > at
            for t in transfers
            for other, moment in by_transfer[t].items()
            if other != uid
        )
        if gone_on and now - at >= times.next_series:
            found[uid] = NEXT_SERIES
        elif not open_transfers.intersection(transfers):
            found[uid] = RELEASED
        elif now - at >= times.quiet:
            found[uid] = QUIET
    return found


def named_series(connection: sa.Connection, study_instance_uid: str) -> dict[str, frozenset[str]]:
    """Series -> its SOP Instance UIDs, where a procedure step that was COMPLETED, or an
    availability notification, names them. What a step in progress works on is not known yet."""
    steps = connection.execute(
        sa.select(procedure_steps.c.status, procedure_steps.c.performed_series).where(
            procedure_steps.c.study_instance_uid == study_instance_uid
        )
    ).all()
    notified = connection.execute(
        sa.select(expectations.c.series).where(
            expectations.c.study_instance_uid == study_instance_uid,
            expectations.c.source == ExpectationSource.AVAILABILITY_NOTIFICATION.value,
        )
    ).scalars()
    made: dict[str, list[tuple[str, list[str]]]] = {
        status: [] for status in (_COMPLETED, _IN_PROGRESS)
    }
    for step in steps:
        made.setdefault(step.status, []).extend(step.performed_series)
    named: dict[str, frozenset[str]] = {}
    for series, uids in [*made[_COMPLETED], *(pair for said in notified for pair in said)]:
        named[series] = named.get(series, frozenset()).union(uids)
    growing = {series for series, _ in made[_IN_PROGRESS]}
    return {series: uids for series, uids in named.items() if uids and series not in growing}


def _lacking(connection: sa.Connection, study_instance_uid: str) -> dict[str, frozenset[str]]:
    """Series whose instances are named -> those of them that are not there."""
    named = named_series(connection, study_instance_uid)
    if not named:
        return {}
    there: dict[str, set[str]] = defaultdict(set)
    rows = connection.execute(
        sa.select(instances.c.series_instance_uid, instances.c.sop_instance_uid).where(
            instances.c.study_instance_uid == study_instance_uid,
            instances.c.state == "current",
            instances.c.series_instance_uid.in_(named),
        )
    )
    for row in rows:
        there[row.series_instance_uid].add(row.sop_instance_uid)
    return {series: uids - there[series] for series, uids in named.items()}


def close_early(
    connection: sa.Connection, open_study: OpenStudy, complete: Mapping[str, str], now: datetime
) -> bool:
    """Close a revision for the series that are complete, and open the one that waits for the
    rest; False when an image came in between, or it was closed."""
    revisions, key = study_revisions, open_study.key
    if connection.dialect.name == "postgresql":  # in the order in which the indexer locks
        connection.execute(
            sa.select(studies.c.study_instance_uid)
            .where(studies.c.study_instance_uid == key.study_instance_uid)
            .with_for_update()
        )
    is_key = (
        revisions.c.study_instance_uid == key.study_instance_uid,
        revisions.c.revision == key.revision,
    )
    before = connection.execute(sa.select(revisions).where(*is_key)).one()
    done = connection.execute(
        sa.update(revisions)
        .where(
            *is_key,
            revisions.c.state == "receiving",
            revisions.c.due_at > now,
            revisions.c.received_instances == open_study.received,
        )
        .values(
            state="complete",
            completed_at=now,
            scope=SERIES_SCOPE,
            evidence=EvidenceKind.SERIES_COMPLETE.value,
            complete_series=dict(complete),
        )
    )
    if done.rowcount != 1:
        return False
    goes_on = {**before._mapping, "revision": key.revision + 1}  # noqa: SLF001 - documented accessor
    goes_on.pop("complete_series")  # null, which is not JSON's null
    connection.execute(sa.insert(revisions).values(**goes_on))
    return True


def complete_series_of(connection: sa.Connection, key: StudyKey) -> dict[str, str] | None:
    """The series for which a revision was closed early; None where it is of the whole study."""
    row = connection.execute(
        sa.select(study_revisions.c.scope, study_revisions.c.complete_series).where(
            study_revisions.c.study_instance_uid == key.study_instance_uid,
            study_revisions.c.revision == key.revision,
        )
    ).one()
    return dict(row.complete_series or {}) if row.scope == SERIES_SCOPE else None
