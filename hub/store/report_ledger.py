"""The life of a report's versions: each change with its audit row and its next job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from hub.domain.assessment import Decision, changed
from hub.domain.delivery import DocumentKind
from hub.domain.finding import Finding
from hub.domain.inference import Outcome
from hub.domain.report import ReportCause, ReportStatus
from hub.errors import RejectedError
from hub.ports import Job, Jobs
from hub.store import report_versions
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.report_versions import VersionRow, VersionState
from hub.store.results import RequestRow, RequestState, amended_revision, get_request

REPORT_JOB = "report"
REPORT_QUEUE = "studies"
"""That of the study revisions: these jobs are few and short, and each queue costs its polling."""

_ASSESSED = (ReportCause.ACCEPTED, ReportCause.MODIFIED, ReportCause.REJECTED)
_ANSWERS = (Outcome.ASSESSED, Outcome.NOT_ASSESSABLE)


class NoSuchRequestError(RejectedError):
    """There is no such request."""


class NotDecidableError(RejectedError):
    """The report cannot be decided on as it stands; the message says why."""


@dataclass(frozen=True, slots=True)
class ReportLedger:
    """asked -> made | passed-over | failed; a version that failed starts again when it is asked
    for once more."""

    database: Database
    jobs: Jobs
    journal: Journal

    # --- what people decide --------------------------------------------------------------

    def decide(self, request_id: str, decision: Decision) -> tuple[VersionRow, bool]:
        """A person's word on the report of a request makes a new version of it, once: the same
        word again changes nothing. Returns the version, and whether it is a new one.

        Raises:
            NoSuchRequestError: there is no such request.
            NotDecidableError: there is no answer to decide on, or it was withdrawn, replaced or
                deleted.
            RejectedError: the changes do not fit to the findings.
        """
        with self.database.write() as connection:
            request = _request(connection, request_id)
            versions = report_versions.versions_of(connection, request_id)
            same = self._same(connection, request, versions, decision)
            if same is not None:
                if same.state is VersionState.FAILED:
                    self._ask_again(connection, request, same)
                return same, False
            latest = _decidable(connection, request, versions)
            changes = None
            if decision.changes:
                findings = effective_findings(connection, request_id, versions)
                changes = _changed(findings, decision)
            row = VersionRow(
                request_id=request_id,
                version=latest.version + 1,
                status=decision.status,
                cause=decision.cause,
                outcome=latest.outcome,
                reason=decision.reason,
                person=decision.person,
                changes=changes,
                actor=self.journal.actor,
                state=VersionState.ASKED,
                made_at=self.journal.clock.now(),
            )
            self.ask(connection, request, row)
        return row, True

    @staticmethod
    def _same(
        connection: sa.Connection,
        request: RequestRow,
        versions: Sequence[VersionRow],
        decision: Decision,
    ) -> VersionRow | None:
        """The latest version, where it is what this person has decided already."""
        if not versions:
            return None
        *before, latest = versions
        said = (latest.cause, latest.person, latest.reason)
        if said != (decision.cause, decision.person, decision.reason):
            return None
        if decision.changes:
            findings = effective_findings(connection, request.request_id, before)
            if _changed(findings, decision) != latest.changes:
                return None
        return latest

    # --- versions ------------------------------------------------------------------------

    def ask(self, connection: sa.Connection, request: RequestRow, row: VersionRow) -> None:
        """A version will be made: recorded with its job, in the caller's transaction."""
        report_versions.add(connection, row)
        self._enqueue(connection, request, row)
        if row.cause in _ASSESSED:
            self._record(connection, request, row, "result.assessed")
        elif row.cause is ReportCause.RETRACTED:
            self._record(connection, request, row, "result.retracted")
        else:
            self._record(connection, request, row, "report.asked")

    def ask_for_failure(self, connection: sa.Connection, request: RequestRow) -> None:
        """A request has failed for good: whoever takes failures, or has an earlier report, is
        told; in the transaction that ends it."""
        if request.shadow:
            return
        versions = report_versions.versions_of(connection, request.request_id)
        amends = amended_revision(connection, request) is not None
        row = VersionRow(
            request_id=request.request_id,
            version=len(versions) + 1,
            status=ReportStatus.AMENDED if amends else ReportStatus.PRELIMINARY,
            cause=ReportCause.MODEL,
            outcome=Outcome.FAILED,
            actor=self.journal.actor,
            state=VersionState.ASKED,
            made_at=self.journal.clock.now(),
        )
        self.ask(connection, request, row)

    def add_made(self, connection: sa.Connection, request: RequestRow, row: VersionRow) -> None:
        """A version whose documents were made before it was recorded: a model's answer. Of the
        first one ``inference.finished`` tells, in the same transaction."""
        report_versions.add(connection, replace(row, state=VersionState.MADE))
        if row.version > 1:
            self._record(connection, request, row, "report.made")

    def finish(self, connection: sa.Connection, request: RequestRow, row: VersionRow) -> None:
        """A version that was asked for is made."""
        report_versions.set_state(connection, row.request_id, row.version, VersionState.MADE)
        self._record(connection, request, row, "report.made")

    def pass_over(self, connection: sa.Connection, request: RequestRow, row: VersionRow) -> None:
        """A newer version is asked for, which says all that this one would."""
        state = VersionState.PASSED_OVER
        report_versions.set_state(connection, row.request_id, row.version, state)
        self._record(connection, request, row, "report.passed-over")

    def fail(self, request: RequestRow, row: VersionRow, reason: str) -> None:
        """A version cannot be made: what was sent before still stands, so a person is told."""
        with self.database.write() as connection:
            report_versions.set_state(connection, row.request_id, row.version, VersionState.FAILED)
            self.journal.alarm(
                connection,
                "report.not-made",
                f"request:{row.request_id}",
                request.study.study_instance_uid,
                reason=f"version {row.version} of the report ({row.cause.value}): {reason}",
                version=row.version,
            )

    def _ask_again(self, connection: sa.Connection, request: RequestRow, row: VersionRow) -> None:
        report_versions.set_state(connection, row.request_id, row.version, VersionState.ASKED)
        self._enqueue(connection, request, row, again=True)
        self._record(connection, request, row, "report.asked-again")

    def _enqueue(
        self,
        connection: sa.Connection,
        request: RequestRow,
        row: VersionRow,
        *,
        again: bool = False,
    ) -> None:
        job_id = f"report:{row.request_id}:{row.version}"
        if again:
            job_id += f":{self.journal.clock.now():%Y%m%d%H%M%S%f}"
        self.jobs.enqueue(
            connection,
            Job(
                kind=REPORT_JOB,
                queue=REPORT_QUEUE,
                job_id=job_id,
                argument=f"{row.request_id}#{row.version}",
                priority=int(request.priority),
            ),
        )

    def _record(
        self, connection: sa.Connection, request: RequestRow, row: VersionRow, action: str
    ) -> None:
        by: dict[str, Any] = {} if row.person is None else {"by": row.person.name}
        self.journal.record(
            connection,
            action,
            f"request:{row.request_id}",
            request.study.study_instance_uid,
            version=row.version,
            status=row.status.value,
            cause=row.cause.value,
            result=row.outcome.value,
            reason=row.reason,
            **by,
        )


def effective_findings(
    connection: sa.Connection, request_id: str, versions: Sequence[VersionRow]
) -> tuple[Finding, ...]:
    """The findings as these versions have them: the model's, or as a person changed them."""
    for row in reversed(versions):
        if row.changes is not None:
            return row.changes
        if row.cause is ReportCause.MODEL:
            break
    return report_versions.findings_of(connection, (request_id,)).get(request_id, ())


def _request(connection: sa.Connection, request_id: str) -> RequestRow:
    try:
        return get_request(connection, request_id)
    except sa.exc.NoResultFound:
        raise NoSuchRequestError(f"there is no request {request_id}") from None


def _changed(findings: Sequence[Finding], decision: Decision) -> tuple[Finding, ...]:
    try:
        return changed(findings, decision.changes)
    except ValueError as error:
        raise RejectedError(str(error)) from None


def _decidable(
    connection: sa.Connection, request: RequestRow, versions: Sequence[VersionRow]
) -> VersionRow:
    """The latest version, if a person may decide on it.

    Raises:
        NotDecidableError: nobody may.
    """
    name = f"request {request.request_id}"
    if not versions and request.state is RequestState.DONE:  # before migration 0003
        raise NotDecidableError(f"{name} was answered by a release of the hub that kept no record")
    if not versions or request.state is not RequestState.DONE:
        raise NotDecidableError(f"{name} has no answer to decide on: it is {request.state.value}")
    latest = versions[-1]
    if latest.outcome not in _ANSWERS:
        raise NotDecidableError(f"{name} has no answer to decide on: it is {latest.outcome.value}")
    if latest.is_withdrawn:
        raise NotDecidableError(f"the report of {name} was withdrawn; that is final")
    revision = report_versions.revision_of_replacement(connection, request)
    if revision is not None:
        raise NotDecidableError(f"the report of {name} was replaced by that of revision {revision}")
    if not report_versions.documents_of(connection, request.request_id, (DocumentKind.RECORD,)):
        raise NotDecidableError(f"the record of {name} was deleted: its time of keeping is over")
    return latest
