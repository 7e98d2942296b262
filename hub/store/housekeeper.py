"""The turns in which what has had its time is deleted; one process at a time makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import structlog

from hub.domain.audit import AuditOutcome
from hub.store import alerts, claims, deferred, forgetting, retention, workers
from hub.store.confirmations import forget_reports
from hub.store.retention import Purged, RetentionPolicy, StudyKeeper

_AT_ONCE = 100
"""Studies of one kind in one turn."""
_CLAIM, _CLAIM_LASTS = "retention", timedelta(minutes=10)
_TIDY_EVERY = timedelta(hours=1)
_SETTLED = timedelta(days=1)
"""A file so old belongs to a document that is on record, or to nothing."""
_UNCLAIMED = timedelta(hours=1)
"""By then a report of storage commitment has the delivery that waits for it, or never will."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecords:
    """What the job engine keeps, as far as the housekeeper has to know."""

    forget_finished: Callable[[datetime], int]
    """Drops the records of jobs that ended before."""
    holders: Callable[[], frozenset[str]]
    """Processes that hold work."""
    kept: timedelta
    """How long records of finished jobs and ended processes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Housekeeper:
    """Deletes what has had its time, oldest first, each study in a transaction of its own."""

    keeper: StudyKeeper
    policy: RetentionPolicy
    holder: str
    """This process, for the claim."""
    free_bytes: Callable[[], int]
    """What is free on the disk that the images lie on."""
    engine: EngineRecords

    def turn(self) -> None:
        """Do all that is due now, unless another process does."""
        if not self._is_mine():
            return
        now = self.keeper.journal.clock.now()
        for why, images, results, uids in self._due(now):
            for uid in uids:
                self._purge(uid, why, images=images, results=results)
        self._make_room(now)
        if self._is_time_to_tidy(now):
            self._sweep_documents(now)
            self._forget(now)

    def _is_mine(self) -> bool:
        now = self.keeper.journal.clock.now()
        with self.keeper.database.write() as connection:
            return claims.take(connection, _CLAIM, self.holder, now=now, lasting=_CLAIM_LASTS)

    def _is_time_to_tidy(self, now: datetime) -> bool:
        """Once in ``_TIDY_EVERY``: each time another holder takes the claim, so that it has to
        have run out."""
        holder = f"{now.isoformat()} {self.holder}"[:160]
        with self.keeper.database.write() as connection:
            return claims.take(connection, "tidy", holder, now=now, lasting=_TIDY_EVERY)

    def _due(self, now: datetime) -> Iterator[tuple[str, bool, bool, list[str]]]:
        database, policy = self.keeper.database, self.policy
        with database.read() as connection:
            images = retention.due_images(connection, policy, now, _AT_ONCE)
        yield "its images have had their time", True, False, images
        with database.read() as connection:
            results = retention.due_results(connection, policy, now, _AT_ONCE)
        yield "its results have had their time", False, True, results

    def _purge(self, uid: str, why: str, *, images: bool, results: bool) -> Purged:
        purged = self.keeper.purge(uid, why, images=images, results=results)
        log.info(
            "study.purged",
            study_instance_uid=uid,
            instances=purged.instances,
            documents=purged.documents,
            bytes=purged.length,
        )
        return purged

    def _make_room(self, now: datetime) -> None:
        """Delete before its time what is delivered, where the disk is nearly full."""
        missing = self.policy.minimum_free_bytes - self.free_bytes()
        if missing <= 0:
            return
        with self.keeper.database.read() as connection:
            if retention.is_erasing(connection):
                return  # what was given up is not free yet
            before = now - self.policy.youngest
            oldest = retention.oldest_delivered(connection, before, _AT_ONCE)
        for uid in oldest:
            purged = self._purge(uid, "the disk is nearly full", images=True, results=False)
            missing -= purged.length
            if missing <= 0:
                return
        if not oldest:
            self._tell_of_lack(now)

    def _tell_of_lack(self, now: datetime) -> None:
        """Once a day."""
        message = f"{now:%Y-%m-%d}: the disk is nearly full, and no study may be deleted"
        with self.keeper.database.write() as connection:
            if alerts.raise_alert(
                connection, kind="retention.no-space", entity="disk:data", message=message, at=now
            ):
                self.keeper.journal.record(
                    connection,
                    "retention.no-space",
                    "disk:data",
                    outcome=AuditOutcome.SERIOUS_FAILURE,
                    reason=message,
                )

    def _sweep_documents(self, now: datetime) -> None:
        """Files of documents that were deleted, or that a crash left without a record."""
        old = self.keeper.documents.older_than(now - _SETTLED)
        for some in _some(old):
            with self.keeper.database.read() as connection:
                kept = retention.still_needed(connection, [path.name for path in some])
            for path in some:
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _forget(self, now: datetime) -> None:
        before = now - self.engine.kept
        self.engine.forget_finished(before)
        with self.keeper.database.write() as connection:
            workers.forget(connection, before, self.engine.holders())
            forgetting.forget_messages(connection, before)
            forgetting.forget_transfers(connection, before)
            forgetting.forget_orders(connection, now - self.policy.longest)
            forgetting.forget_patients(connection, now - self.policy.longest)
            forgetting.forget_critical_alerts(connection, before)
            deferred.forget_callbacks(connection, before)
            forget_reports(connection, now - _UNCLAIMED)


def _some(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while some := list(islice(paths, _AT_ONCE)):
        yield some
