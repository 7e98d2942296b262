"""What others were asked about a study, and what they said: expectations, fetches, priors.

For people: read-only, and each in plain words. A study is known by its UID.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from hub.ports import ExpectationSource
from hub.store.fetches import FetchKind
from hub.store.schema import expectations, fetches, requests

_WHO = {
    ExpectationSource.ARCHIVE.value: "an archive",
    ExpectationSource.AVAILABILITY_NOTIFICATION.value: "an availability notification",
    ExpectationSource.PERFORMED_PROCEDURE_STEP.value: "a performed procedure step",
    ExpectationSource.ORDER.value: "an order",
}


@dataclass(frozen=True, slots=True)
class ExpectationRow:
    """How many images somebody says a study has."""

    source: str
    """archive, availability-notification, performed-procedure-step or order."""
    number_of_instances: int | None
    named: bool
    """Whether it names them: then no others count."""
    learned_at: datetime

    @property
    def in_words(self) -> str:
        """One sentence."""
        named = ", and names them" if self.named else ""
        who = _WHO.get(self.source, self.source)
        return f"{self.number_of_instances} images are expected, as {who} says{named}"


@dataclass(frozen=True, slots=True)
class FetchRow:
    """What an archive was asked to send."""

    fetch_id: str
    study_instance_uid: str
    """What is fetched: this study, or a prior of it."""
    revision: int
    """Of the study whose missing images are fetched; else 0."""
    request_id: str | None
    """The request that wants the prior."""
    kind: str
    """study, missing or prior."""
    archive: str
    state: str
    """running, done, nothing-found, failed or timed-out."""
    attempts: int
    detail: str
    """Why it did not come."""
    asked_at: datetime
    finished_at: datetime | None

    def in_words(self, study_instance_uid: str) -> str:
        """One sentence, for the timeline of a study."""
        what = "this study"
        if self.kind == FetchKind.MISSING.value:
            what = f"what revision {self.revision} lacks"
        elif self.kind == FetchKind.PRIOR.value:
            is_it = self.study_instance_uid == study_instance_uid
            what = f"{what}, as a prior" if is_it else f"the prior {self.study_instance_uid}"
        because = f": {self.detail}" if self.detail else ""
        return f"archive {self.archive} was asked for {what}: {self.state}{because}"


@dataclass(frozen=True, slots=True)
class PriorsRow:
    """What a request that wants priors was given."""

    request_id: str
    chosen: tuple[str, ...]
    """Studies that suit, as far as the hub or an archive describes them."""
    used: tuple[str, ...] | None
    """Those that came and do suit; null while they are waited for."""
    notes: tuple[str, ...]
    """Why others were not used."""

    @property
    def in_words(self) -> str:
        """One sentence."""
        found = f"{len(self.chosen)} prior examinations were found"
        because = f": {' '.join(self.notes)}" if self.notes else ""
        if self.used is None:
            return f"request {self.request_id}: {found}, and are waited for{because}"
        return f"request {self.request_id}: {found}, {len(self.used)} are used{because}"


def expectations_of(
    connection: sa.Connection, study_instance_uid: str
) -> tuple[ExpectationRow, ...]:
    """What is known of a study, the first said first."""
    query = (
        sa.select(expectations)
        .where(expectations.c.study_instance_uid == study_instance_uid)
        .order_by(expectations.c.learned_at, expectations.c.source)
    )
    return tuple(
        ExpectationRow(
            source=row.source,
            number_of_instances=len(row.sop_instance_uids) or row.number_of_instances,
            named=bool(row.sop_instance_uids),
            learned_at=row.learned_at,
        )
        for row in connection.execute(query)
    )


def fetches_for(connection: sa.Connection, study_instance_uid: str) -> tuple[FetchRow, ...]:
    """What was fetched of a study, and as priors for its requests; the first asked first."""
    its_requests = sa.select(requests.c.request_id).where(
        requests.c.study_instance_uid == study_instance_uid
    )
    columns = [fetches.c[name] for name in FetchRow.__dataclass_fields__]
    query = (
        sa.select(*columns)
        .where(
            sa.or_(
                fetches.c.study_instance_uid == study_instance_uid,
                fetches.c.request_id.in_(its_requests),
            )
        )
        .order_by(fetches.c.asked_at, fetches.c.fetch_id)
    )
    return tuple(FetchRow(**row) for row in connection.execute(query).mappings())


def priors_of(connection: sa.Connection, study_instance_uid: str) -> tuple[PriorsRow, ...]:
    """Of each request that wants priors, once they were looked for."""
    query = (
        sa.select(requests.c.request_id, requests.c.priors)
        .where(requests.c.study_instance_uid == study_instance_uid)
        .order_by(requests.c.created_at, requests.c.request_id)
    )
    return tuple(
        PriorsRow(
            request_id=row.request_id,
            chosen=tuple(uid for uid, _ in row.priors.get("chosen", ())),
            used=tuple(row.priors["used"]) if "used" in row.priors else None,
            notes=tuple(row.priors.get("notes", ())),
        )
        for row in connection.execute(query)
        if row.priors is not None
    )


def in_words(
    study_instance_uid: str,
    expected: tuple[ExpectationRow, ...],
    fetched: tuple[FetchRow, ...],
    priors: tuple[PriorsRow, ...],
) -> Iterator[str]:
    """All of it, a sentence each."""
    yield from (row.in_words for row in expected if row.number_of_instances is not None)
    yield from (row.in_words(study_instance_uid) for row in fetched)
    yield from (row.in_words for row in priors)
