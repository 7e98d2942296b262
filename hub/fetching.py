"""What the hub asks archives for: how many images a study has, missing images, whole studies.

Archives are slow and away now and then, so nothing waits for them: the questions have a loop of
their own in the worker, and what is to be sent is a durable job with a time limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from hub.domain.audit import AuditOutcome
from hub.domain.identity import derived_uuid
from hub.domain.study import StudyKey
from hub.errors import CaidxError, RejectedError, TransientError
from hub.ports import Archive, Expectation, ExpectationSource, Job, Jobs, StudyQuery
from hub.store import fetches, order_rows, studies
from hub.store.database import Database
from hub.store.fetches import ArchiveSenders, Fetch, FetchKind, FetchState
from hub.store.journal import Journal

log = structlog.get_logger(__name__)

FETCH_JOB, FETCH_QUEUE = "fetch", "fetches"
FETCHES_AT_ONCE = 2
"""Of one archive, by all workers together."""
_ASKED_AT_ONCE = 20
_RETRY_SECONDS = 5.0
_INDEXING_SECONDS = 1.0
"""What an archive has sent may take so long to be in the index."""
ENDPOINT_OF = "order:"
"""Begins, in place of an archive's name, the order that says where its study lies."""
STUDY_FETCH_SECONDS = 3600.0
"""Within which a study that a person named has to arrive."""


@dataclass(frozen=True, slots=True)
class AskRule:
    """What is asked about the studies of a source."""

    archive: str
    after: timedelta = timedelta(seconds=0.5)
    """Silence before the question: the archive may still be receiving the same images."""
    fetch_missing: bool = False
    fetch_within: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Asks archives, and has them send."""

    database: Database
    jobs: Jobs
    journal: Journal
    archives: Mapping[str, Archive] = field(default_factory=dict)
    """By name."""
    rules: Mapping[str, AskRule] = field(default_factory=dict)
    """By name of the source."""
    ae_titles: frozenset[str] = frozenset()
    """With which the archives call the hub's own sources."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """Base URL of each archive that has one."""
    open_endpoint: Callable[[str], Archive] | None = None
    """A DICOMweb service by its base URL, which an order brought: guarded."""

    @property
    def senders(self) -> ArchiveSenders:
        """Who sends what was asked for."""
        return ArchiveSenders(frozenset(self.archives), self.ae_titles)

    # --- how many images a study has -----------------------------------------------------------

    def ask_archives(self) -> int:
        """Ask about every arriving study whose source has an archive, once for each revision, as
        soon as it is quiet; returns about how many."""
        if not self.rules:
            return 0
        with self.database.read() as connection:
            found = fetches.to_ask_about(connection, list(self.rules), _ASKED_AT_ONCE)
            sources = {
                key: fetches.source_of(connection, key.study_instance_uid) for key, _ in found
            }
        now, asked = self.journal.clock.now(), 0
        for key, last_received_at in found:
            rule = self.rules.get(sources[key])
            if rule is None or last_received_at + rule.after > now:
                continue
            with self.database.write() as connection:
                is_ours = fetches.claim_asking(connection, key, now)
            if is_ours:
                self._ask(key, rule)
                asked += 1
        return asked

    def _ask(self, key: StudyKey, rule: AskRule) -> None:
        uid = key.study_instance_uid
        with self.database.read() as connection:
            ours = fetches.results_elsewhere(connection, uid)
        try:
            number = self._number_of_instances(self._archive(rule.archive), uid, ours)
        except CaidxError as error:
            self._record_silence(key, rule, str(error))
            return
        with self.database.write() as connection:
            if number:
                said = Expectation(uid, ExpectationSource.ARCHIVE, number_of_instances=number)
                studies.expect(connection, said, self.journal.clock.now())
            self.journal.record(
                connection,
                "study.expected",
                f"study:{key}",
                uid,
                expected_instances=number,
                said_by=f"archive {rule.archive}",
            )

    def _record_silence(self, key: StudyKey, rule: AskRule, reason: str) -> None:
        """An archive that cannot tell stops nothing: the study is complete when it is quiet."""
        log.warning("archive.not-asked", archive=rule.archive, reason=reason)
        with self.database.write() as connection:
            self.journal.record(
                connection,
                "archive.not-asked",
                f"study:{key}",
                key.study_instance_uid,
                outcome=AuditOutcome.MINOR_FAILURE,
                archive=rule.archive,
                reason=reason,
            )

    @staticmethod
    def _number_of_instances(archive: Archive, uid: str, ours: Collection[str]) -> int:
        """Without the hub's own results, ``ours``; 0 where it does not know the study."""
        for found in archive.find_studies(StudyQuery(study_instance_uid=uid), 1):
            if found.number_of_instances is None or ours:
                return len(archive.find_instances(uid).keys() - set(ours))
            return found.number_of_instances
        return 0

    # --- missing images --------------------------------------------------------------------------

    def fetch_missing(self, connection: sa.Connection, key: StudyKey) -> bool:
        """Instead of completing a study that is due but lacks images: have them sent, once for
        each revision, and wait until that ended; False where nothing is to be waited for."""
        if not any(rule.fetch_missing for rule in self.rules.values()):
            return False
        missing = fetches.lacking(connection, key)
        fetch_id = str(derived_uuid("fetch", "missing", str(key)))
        deadline_at = fetches.running_until(connection, fetch_id)
        if missing and deadline_at is not None and self.journal.clock.now() < deadline_at:
            # A part of it came, and the transfer of that part has ended.
            fetches.postpone(connection, key, deadline_at)
            return True
        rule = self.rules.get(fetches.source_of(connection, key.study_instance_uid))
        if not missing or rule is None or not rule.fetch_missing:
            return False
        now = self.journal.clock.now()
        fetch = Fetch(
            fetch_id=fetch_id,
            study_instance_uid=key.study_instance_uid,
            revision=key.revision,
            kind=FetchKind.MISSING,
            archive=rule.archive,
            asked_at=now,
            deadline_at=now + rule.fetch_within,
        )
        if not self.start(connection, fetch, missing=missing):
            return False  # fetched before: it goes on with what there is
        fetches.postpone(connection, key, fetch.deadline_at)
        return True

    # --- having something sent -------------------------------------------------------------------

    def fetch_study(self, study_instance_uid: str, archive: str) -> Fetch:
        """Somebody named a study that an archive has.

        Raises:
            RejectedError: there is no such archive.
        """
        self._archive(archive)
        return request_study(self.database, self.jobs, self.journal, study_instance_uid, archive)

    def start(self, connection: sa.Connection, fetch: Fetch, **detail: object) -> bool:
        """Record a fetch and enqueue its job; False when it is known already."""
        return start_fetch(connection, self.jobs, self.journal, fetch, **detail)

    def run_fetch(self, fetch_id: str) -> None:
        """The job of a fetch: one attempt. What fails for now starts the next one, later."""
        with self.database.write() as connection:
            fetch = fetches.get(connection, fetch_id)
            if fetch.state is not FetchState.RUNNING:
                return
            fetches.begin_attempt(connection, fetch)
        left = (fetch.deadline_at - self.journal.clock.now()).total_seconds()
        if left <= 0:
            self._end(fetch, FetchState.TIMED_OUT, fetch.detail or "not within its time limit")
            return
        try:
            self._retrieve(fetch, left)
        except RejectedError as error:
            self._end(fetch, FetchState.NOTHING_FOUND, str(error))
        except TransientError as error:
            self._try_again(fetch, str(error))
        else:
            self._end(fetch, FetchState.DONE, "")

    def _retrieve(self, fetch: Fetch, within: float) -> None:
        with self._lent(fetch.archive) as archive:
            self._retrieve_from(archive, fetch, within)

    def _retrieve_from(self, archive: Archive, fetch: Fetch, within: float) -> None:
        uid = fetch.study_instance_uid
        if fetch.kind is not FetchKind.MISSING:
            archive.retrieve(uid, within=within)
            return
        begun = self.journal.clock.now()
        with self.database.read() as connection:
            not_wanted = fetches.held_instances(connection, uid)
            not_wanted |= fetches.results_elsewhere(connection, uid)
        wanted: dict[str, list[str]] = defaultdict(list)
        for sop_instance_uid, series_instance_uid in archive.find_instances(uid).items():
            if sop_instance_uid not in not_wanted:
                wanted[series_instance_uid].append(sop_instance_uid)
        for series_instance_uid, uids in wanted.items():
            left = within - (self.journal.clock.now() - begun).total_seconds()
            if left <= 0:
                raise TransientError("the archive did not send everything in time")
            archive.retrieve(uid, series_instance_uid, uids, within=left)

    def _try_again(self, fetch: Fetch, reason: str) -> None:
        now = self.journal.clock.now()
        if now + timedelta(seconds=_RETRY_SECONDS) >= fetch.deadline_at:
            self._end(fetch, FetchState.TIMED_OUT, reason)
            return
        with self.database.write() as connection:
            attempt = fetch.attempts + 1
            self.jobs.enqueue(connection, _job(fetch, attempt, _RETRY_SECONDS))
            self._record(
                connection, "fetch.retrying", fetch, AuditOutcome.MINOR_FAILURE, reason=reason
            )

    def _end(self, fetch: Fetch, state: FetchState, reason: str) -> None:
        now = self.journal.clock.now()
        with self.database.write() as connection:
            if not fetches.finish(connection, fetch, state, reason, now):
                return
            if fetch.kind is FetchKind.MISSING:
                key = StudyKey(fetch.study_instance_uid, fetch.revision)
                soon = now + timedelta(seconds=_INDEXING_SECONDS)
                fetches.bring_forward(connection, key, soon)
            if fetch.kind is FetchKind.STUDY and state is not FetchState.DONE:
                self._alarm(connection, fetch, reason)
                order_rows.take_up(connection, self.jobs, fetch.study_instance_uid)
                return
            outcome = AuditOutcome.SUCCESS
            if state is not FetchState.DONE:
                outcome = AuditOutcome.MINOR_FAILURE
            self._record(
                connection, "fetch.ended", fetch, outcome, result=state.value, reason=reason
            )

    def fetch_failed(self, fetch_id: str, reason: str) -> None:
        """An attempt ended in a fault of the hub itself."""
        with self.database.read() as connection:
            fetch = fetches.get(connection, fetch_id)
        if fetch.state is FetchState.RUNNING:
            self._end(fetch, FetchState.FAILED, reason)

    @contextmanager
    def _lent(self, name: str) -> Iterator[Archive]:
        """An archive, or the service that an order names, as long as it is needed."""
        order_id = name.removeprefix(ENDPOINT_OF)
        if order_id == name:
            yield self._archive(name)
            return
        with self.database.read() as connection:
            row = order_rows.get(connection, order_id)
        if row is None or self.open_endpoint is None:
            raise RejectedError("the service that has the study is not known any more")
        archive = self.open_endpoint(row.order.endpoint)
        try:
            yield archive
        finally:
            archive.close()

    def _archive(self, name: str) -> Archive:
        archive = self.archives.get(name)
        if archive is None:
            raise RejectedError(f"there is no archive {name}")
        return archive

    def _alarm(self, connection: sa.Connection, fetch: Fetch, reason: str) -> None:
        self.journal.alarm(
            connection,
            "fetch.failed",
            f"fetch:{fetch.fetch_id}",
            fetch.study_instance_uid,
            reason=reason,
            archive=fetch.archive,
        )

    def _record(
        self,
        connection: sa.Connection,
        action: str,
        fetch: Fetch,
        outcome: AuditOutcome,
        **detail: object,
    ) -> None:
        self.journal.record(
            connection,
            action,
            f"fetch:{fetch.fetch_id}",
            fetch.study_instance_uid,
            outcome=outcome,
            kind=fetch.kind.value,
            archive=fetch.archive,
            **detail,
        )


def request_study(
    database: Database, jobs: Jobs, journal: Journal, study_instance_uid: str, archive: str
) -> Fetch:
    """Have a whole study sent; a worker does it. The same one again within a second is one."""
    now = journal.clock.now()
    fetch = Fetch(
        fetch_id=str(derived_uuid("fetch", "study", study_instance_uid, archive, _second(now))),
        study_instance_uid=study_instance_uid,
        kind=FetchKind.STUDY,
        archive=archive,
        asked_at=now,
        deadline_at=now + timedelta(seconds=STUDY_FETCH_SECONDS),
    )
    with database.write() as connection:
        start_fetch(connection, jobs, journal, fetch)
    return fetch


def start_fetch(
    connection: sa.Connection, jobs: Jobs, journal: Journal, fetch: Fetch, **detail: object
) -> bool:
    """Record a fetch and enqueue its job; False when it is known already."""
    if not fetches.add(connection, fetch):
        return False
    jobs.enqueue(connection, _job(fetch, 0, 0.0))
    journal.record(
        connection,
        "fetch.started",
        f"fetch:{fetch.fetch_id}",
        fetch.study_instance_uid,
        outcome=AuditOutcome.SUCCESS,
        kind=fetch.kind.value,
        archive=fetch.archive,
        **detail,
    )
    return True


def _second(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _job(fetch: Fetch, attempt: int, delay_seconds: float) -> Job:
    return Job(
        kind=FETCH_JOB,
        queue=FETCH_QUEUE,
        partition=fetch.archive,
        job_id=f"fetch:{fetch.fetch_id}:{attempt}",
        argument=fetch.fetch_id,
        delay_seconds=delay_seconds,
    )
