"""What people and monitoring ask: lists, the timeline of one study, counts. Read-only.

Nothing here holds a name, a patient ID or a birth date: a study is known by its UID.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from hub.domain.audit import AuditEvent
from hub.domain.study import EvidenceKind
from hub.store import audit, inquiries
from hub.store.case_overview import ValueRow, values_of_case
from hub.store.database import Database
from hub.store.inquiries import ExpectationRow, FetchRow, PriorsRow
from hub.store.report_overview import ReportVersionRow, reports_of_study
from hub.store.schema import (
    alerts,
    association_studies,
    associations,
    deliveries,
    documents,
    requests,
    results,
    route_decisions,
    studies,
    study_revisions,
)

Entry = TypeVar("Entry")
_TIMELINE_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """A part of a list, newest first."""

    items: tuple[Entry, ...]
    total: int
    """Length of the whole list."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One revision of a study: how far it is, and why."""

    study_instance_uid: str
    revision: int
    state: str
    """receiving, complete or routed."""
    evidence: str
    """What says that it is complete."""
    received_instances: int
    expected_instances: int | None
    first_received_at: datetime
    last_received_at: datetime
    completed_at: datetime | None
    problems: list[str]
    """Why it is held back; empty when it may be processed."""
    scope: str
    """study, or series: closed early for the routes that start with a complete series."""
    legal_hold: str | None
    """Why nothing of the study may be deleted; null when it may."""
    purged_at: datetime | None
    """When its images were deleted; null when they are there."""


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A transfer that carried instances of a study."""

    association_id: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    opened_at: datetime
    closed_at: datetime | None
    end: str | None
    """released or aborted; null while it is open."""


@dataclass(frozen=True, slots=True)
class RouteDecisionRow:
    """What one rule said about one revision: why AI was, or wasn't, run."""

    study_instance_uid: str
    revision: int
    route: str
    decision: str
    """match, no-match, incomplete, suspended or rule-error."""
    reasons: list[str]
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """One question to one model, and where it stands."""

    request_id: str
    study_instance_uid: str
    revision: int
    route: str
    mode: str
    model_id: str
    model_version: str
    model_sha256: str
    priority: int
    series: list[str]
    deliver_to: list[str]
    reasons: list[str]
    state: str
    """queued, running, retrying, done, failed, quarantined or discarded."""
    outcome: str | None
    """assessed, not-assessable or unsuitable; null while there is no answer."""
    attempts: int
    detail: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """An encoded result."""

    document_id: str
    request_id: str
    kind: str
    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A model's answer."""

    request_id: str
    study_instance_uid: str
    revision: int
    model_id: str
    model_version: str
    outcome: str
    findings: list[dict[str, Any]]
    reasons: list[str]
    warnings: list[str]
    timings: dict[str, float]
    """Seconds by part of the work."""
    made_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One document on its way to one destination."""

    delivery_id: str
    document_id: str
    request_id: str
    study_instance_uid: str
    destination: str
    kind: str
    state: str
    """pending, retrying, confirming, delivered, dead, superseded, quarantined or discarded."""
    attempts: int
    detail: str
    created_at: datetime
    next_attempt_at: datetime | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """What a person has to look at."""

    alert_id: str
    raised_at: datetime
    kind: str
    study_instance_uid: str
    entity: str
    message: str


@dataclass(frozen=True, slots=True)
class StudyTimeline:
    """Everything that happened to one study, over all its revisions."""

    revisions: tuple[StudyRow, ...]
    transfers: tuple[TransferRow, ...]
    decisions: tuple[RouteDecisionRow, ...]
    requests: tuple[RequestSummary, ...]
    results: tuple[ResultRow, ...]
    documents: tuple[DocumentRow, ...]
    deliveries: tuple[DeliveryRow, ...]
    alerts: tuple[AlertRow, ...]
    events: tuple[AuditEvent, ...]
    expectations: tuple[ExpectationRow, ...]
    fetches: tuple[FetchRow, ...]
    priors: tuple[PriorsRow, ...]
    reports: tuple[ReportVersionRow, ...]
    values: tuple[ValueRow, ...] = ()
    """Of a case."""

    @property
    def explanation(self) -> tuple[str, ...]:
        """Why AI was, or wasn't, run on each revision, and what others said, in plain words."""
        said = inquiries.in_words(
            self.revisions[0].study_instance_uid, self.expectations, self.fetches, self.priors
        )
        return (*(line for row in self.revisions for line in _explained(self, row)), *said)


# --- lists -------------------------------------------------------------------------------


def list_studies(
    database: Database, *, state: str | None = None, limit: int = 50, offset: int = 0
) -> Page[StudyRow]:
    """Revisions of studies, the most recently received first."""
    query = _only(_studies(), (study_revisions.c.state, state))
    order = (study_revisions.c.last_received_at.desc(), study_revisions.c.study_instance_uid)
    return _page(database, query.order_by(*order), StudyRow, limit, offset)


def list_requests(
    database: Database,
    *,
    state: str | None = None,
    models: Collection[str] | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page[RequestSummary]:
    """Inference requests, newest first; ``models``: only to packages of these SHA-256."""
    query = _only(_requests(), (requests.c.state, state), (requests.c.model_sha256, models))
    order = (requests.c.created_at.desc(), requests.c.request_id)
    return _page(database, query.order_by(*order), RequestSummary, limit, offset)


def request_exists(database: Database, request_id: str) -> bool:
    """Whether there is such a request."""
    query = sa.select(sa.exists().where(requests.c.request_id == request_id))
    with database.read() as connection:
        return bool(connection.execute(query).scalar_one())


def list_results(
    database: Database,
    *,
    outcome: str | None = None,
    models: Collection[str] | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page[ResultRow]:
    """Answers of models, newest first; ``models`` as above."""
    query = _only(_results(), (results.c.outcome, outcome), (requests.c.model_sha256, models))
    order = (results.c.made_at.desc(), results.c.request_id)
    return _page(database, query.order_by(*order), ResultRow, limit, offset)


def list_deliveries(
    database: Database,
    *,
    state: str | None = None,
    destination: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page[DeliveryRow]:
    """Deliveries, newest first."""
    rows = sa.select(*_columns(deliveries, DeliveryRow))
    wanted = (deliveries.c.state, state), (deliveries.c.destination, destination)
    query = _only(rows, *wanted)
    order = (deliveries.c.created_at.desc(), deliveries.c.delivery_id)
    return _page(database, query.order_by(*order), DeliveryRow, limit, offset)


def list_alerts(database: Database, *, limit: int = 50, offset: int = 0) -> Page[AlertRow]:
    """Alerts, newest first."""
    query = sa.select(*_columns(alerts, AlertRow))
    order = (alerts.c.raised_at.desc(), alerts.c.alert_id)
    return _page(database, query.order_by(*order), AlertRow, limit, offset)


# --- one study ---------------------------------------------------------------------------


def study_timeline(database: Database, study_instance_uid: str) -> StudyTimeline | None:
    """Everything about one study, oldest first; None when it never arrived."""
    with database.snapshot() as connection:
        uid = study_instance_uid
        revisions = _all(
            connection,
            _studies()
            .where(study_revisions.c.study_instance_uid == uid)
            .order_by(study_revisions.c.revision),
            StudyRow,
        )
        if not revisions:
            return None
        return StudyTimeline(
            revisions=revisions,
            transfers=_transfers_of(connection, uid),
            decisions=_all(
                connection,
                sa.select(*_columns(route_decisions, RouteDecisionRow))
                .where(route_decisions.c.study_instance_uid == uid)
                .order_by(route_decisions.c.revision, route_decisions.c.route),
                RouteDecisionRow,
            ),
            requests=_all(
                connection,
                _requests()
                .where(requests.c.study_instance_uid == uid)
                .order_by(requests.c.created_at, requests.c.request_id),
                RequestSummary,
            ),
            results=_all(
                connection,
                _results()
                .where(requests.c.study_instance_uid == uid)
                .order_by(results.c.made_at, results.c.request_id),
                ResultRow,
            ),
            documents=_documents_of(connection, uid),
            deliveries=_all(
                connection,
                sa.select(*_columns(deliveries, DeliveryRow))
                .where(deliveries.c.study_instance_uid == uid)
                .order_by(deliveries.c.created_at, deliveries.c.delivery_id),
                DeliveryRow,
            ),
            alerts=_all(
                connection,
                sa.select(*_columns(alerts, AlertRow))
                .where(alerts.c.study_instance_uid == uid)
                .order_by(alerts.c.raised_at),
                AlertRow,
            ),
            events=tuple(audit.events(database, limit=_TIMELINE_EVENTS, study_instance_uid=uid)),
            expectations=inquiries.expectations_of(connection, uid),
            fetches=inquiries.fetches_for(connection, uid),
            priors=inquiries.priors_of(connection, uid),
            reports=reports_of_study(connection, uid),
            values=values_of_case(connection, uid),
        )


def _transfers_of(connection: sa.Connection, uid: str) -> tuple[TransferRow, ...]:
    query = (
        sa.select(*_columns(associations, TransferRow))
        .join(
            association_studies,
            association_studies.c.association_id == associations.c.association_id,
        )
        .where(association_studies.c.study_instance_uid == uid)
        .order_by(associations.c.opened_at)
    )
    return _all(connection, query, TransferRow)


def _documents_of(connection: sa.Connection, uid: str) -> tuple[DocumentRow, ...]:
    query = (
        sa.select(*_columns(documents, DocumentRow))
        .join(requests, requests.c.request_id == documents.c.request_id)
        .where(requests.c.study_instance_uid == uid)
        .order_by(requests.c.created_at, documents.c.kind)
    )
    return _all(connection, query, DocumentRow)


def _explained(timeline: StudyTimeline, row: StudyRow) -> Iterator[str]:
    head = f"revision {row.revision}"
    expected = "" if row.expected_instances is None else f" of {row.expected_instances}"
    instances = f"{row.received_instances}{expected} instances"
    if row.state == "receiving":
        yield f"{head}: still being received, {instances} so far"
        return
    held = "images"
    if row.evidence == EvidenceKind.ORDERED_VALUES.value:
        held = "values"
        instances = f"{sum(v.revision == row.revision for v in timeline.values)} measured values"
    yield f"{head}: complete with {instances} ({row.evidence})"
    if row.purged_at is not None:
        yield f"{head}: its {held} were deleted on {row.purged_at:%Y-%m-%d %H:%M} UTC"
    for text in row.problems:
        yield f"{head}: held back, no AI is run: {text}"
    if row.state != "routed":
        yield f"{head}: waits for a worker to apply the rules"
        return
    decisions = [d for d in timeline.decisions if d.revision == row.revision]
    if not decisions:
        yield f"{head}: AI was not run: no rule is configured"
    for decision in decisions:
        yield f"{head}: {_decided(timeline, decision)}"


def _decided(timeline: StudyTimeline, decision: RouteDecisionRow) -> str:
    reasons = "; ".join(decision.reasons)
    if decision.decision == "no-match":
        return f"rule {decision.route} does not match, AI was not run: {reasons}"
    if decision.decision in ("incomplete", "suspended"):
        return f"rule {decision.route} matches, AI was not run: {reasons}"
    if decision.decision == "rule-error":
        return f"rule {decision.route} failed and has to be mended, AI was not run: {reasons}"
    for request in timeline.requests:
        if (request.route, request.revision) == (decision.route, decision.revision):
            model = f"{request.model_id} {request.model_version}"
            answer = request.outcome or request.state
            because = f": {request.detail}" if request.detail else ""
            return f"rule {decision.route} matches, {model} was asked: {answer}{because}"
    return f"rule {decision.route} matches: {reasons}"


# --- queries -----------------------------------------------------------------------------


def _columns(table: sa.Table, entry: type[Any]) -> list[sa.Column[Any]]:
    return [table.c[name] for name in entry.__dataclass_fields__ if name in table.c]


def _studies() -> sa.Select[Any]:
    return sa.select(
        *_columns(study_revisions, StudyRow),
        studies.c.first_received_at,
        studies.c.problems,
        studies.c.legal_hold,
        studies.c.purged_at,
    ).join(studies, studies.c.study_instance_uid == study_revisions.c.study_instance_uid)


def _requests() -> sa.Select[Any]:
    return sa.select(*_columns(requests, RequestSummary), results.c.outcome).outerjoin(
        results, results.c.request_id == requests.c.request_id
    )


def _results() -> sa.Select[Any]:
    of_request = ("study_instance_uid", "revision", "model_id", "model_version")
    return sa.select(
        *_columns(results, ResultRow), *(requests.c[name] for name in of_request)
    ).join(requests, requests.c.request_id == results.c.request_id)


def _only(query: sa.Select[Any], *wanted: tuple[Any, str | Collection[str] | None]) -> Any:
    """The rows whose columns are as wanted: one value or one of several; None: whatever."""
    for column, value in wanted:
        if value is not None:
            query = query.where(column.in_([value] if isinstance(value, str) else value))
    return query


def _page(
    database: Database, query: sa.Select[Any], entry: type[Entry], limit: int, offset: int
) -> Page[Entry]:
    with database.snapshot() as connection:
        whole = query.order_by(None).subquery()
        total = connection.execute(sa.select(sa.func.count()).select_from(whole)).scalar_one()
        return Page(_all(connection, query.limit(limit).offset(offset), entry), total)


def _all(connection: sa.Connection, query: sa.Select[Any], entry: type[Entry]) -> tuple[Entry, ...]:
    rows = connection.execute(query).mappings()
    return tuple(entry(**row) for row in rows)
