"""Inference requests and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.delivery import Document
from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import InferenceResult, ModelKey, Outcome, Priority
from hub.domain.study import StudyKey
from hub.store.database import insert_new
from hub.store.deferred import DeferredAnswer
from hub.store.schema import documents, requests, results
from hub.store.schema_orders import fhir_resources
from hub.store.schema_vendors import deferred_answers

_FINDINGS = TypeAdapter(tuple[Finding, ...])
_WAITING_AT_ONCE = 500


class RequestState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """The model was asked, and answers later: nothing runs for it meanwhile."""
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"
    """A dead letter: the reason is recorded, a person can ask for it again."""
    QUARANTINED = "quarantined"
    """The answer belongs to somebody else, or cannot be right; nothing of it was delivered. A
    person releases or discards it."""
    DISCARDED = "discarded"
    """A person discarded what was quarantined: it is no answer."""


OPEN_STATES = (
    RequestState.QUEUED,
    RequestState.RUNNING,
    RequestState.WAITING,
    RequestState.RETRYING,
)


@dataclass(frozen=True, slots=True)
class RequestRow:
    """An inference request as recorded: what it was pinned to, and where it stands."""

    request_id: str
    study: StudyKey
    route: str
    shadow: bool
    model: ModelKey
    queue: str
    """The queue of its jobs; its model is the line within."""
    priority: Priority
    series_instance_uids: tuple[str, ...]
    deliver_to: tuple[str, ...]
    reasons: tuple[str, ...]
    state: RequestState
    attempts: int
    detail: str
    created_at: datetime
    input_sha256: str = ""
    """`hub.domain.inference.input_digest` of what it asks about."""
    priors: Mapping[str, Any] | None = None
    """What was found of the priors that the model wants (`hub.prior_steps`)."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    """After this moment nobody waits for the answer."""
    order_id: str = ""
    """Of the order that asked for it; empty: a rule did."""
    deferred: DeferredAnswer | None = None
    """Whom a request that was begun again waits for."""


def add_request(connection: sa.Connection, request: RequestRow) -> bool:
    """Record a new request; False when it is known already (its identifier is deterministic)."""
    return insert_new(
        connection,
        requests,
        request_id=request.request_id,
        study_instance_uid=request.study.study_instance_uid,
        revision=request.study.revision,
        route=request.route,
        mode="shadow" if request.shadow else "active",
        model_id=request.model.model_id,
        model_version=request.model.version,
        model_sha256=request.model.sha256,
        queue=request.queue,
        priority=int(request.priority),
        series=list(request.series_instance_uids),
        deliver_to=list(request.deliver_to),
        reasons=list(request.reasons),
        state=request.state.value,
        attempts=request.attempts,
        detail=request.detail,
        created_at=request.created_at,
        input_sha256=request.input_sha256,
        deadline_at=request.deadline_at,
        order_id=request.order_id,
    )


@dataclass(frozen=True, slots=True)
class EarlierRequest:
    """What a route asked about a study before."""

    request_id: str
    revision: int
    model_id: str
    series_instance_uids: tuple[str, ...]
    input_sha256: str
    shadow: bool
    state: RequestState
    outcome: Outcome | None
    created_at: datetime

    @property
    def stands(self) -> bool:
        """It was answered, or will be."""
        return self.state is RequestState.DONE or self.state in OPEN_STATES

    @property
    def was_reported(self) -> bool:
        """A report of it was made: the model was asked, and not in shadow mode."""
        asked = self.outcome is not None and self.outcome is not Outcome.UNSUITABLE
        return asked and not self.shadow


def earlier_requests(
    connection: sa.Connection, study_instance_uid: str, route: str
) -> list[EarlierRequest]:
    """Every request of a route about a study, the latest revision first."""
    rows = connection.execute(
        sa.select(requests, results.c.outcome)
        .outerjoin(results, results.c.request_id == requests.c.request_id)
        .where(requests.c.study_instance_uid == study_instance_uid, requests.c.route == route)
        .order_by(requests.c.revision.desc(), requests.c.created_at.desc())
    )
    return [
        EarlierRequest(
            request_id=row.request_id,
            revision=row.revision,
            model_id=row.model_id,
            series_instance_uids=tuple(row.series),
            input_sha256=row.input_sha256,
            shadow=row.mode == "shadow",
            state=RequestState(row.state),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            created_at=row.created_at,
        )
        for row in rows
    ]


def amended_revision(connection: sa.Connection, request: RequestRow) -> int | None:
    """Revision of the study whose report a request's report will replace; None: there is none."""
    earlier = earlier_requests(connection, request.study.study_instance_uid, request.route)
    replaced = (
        one.revision
        for one in earlier
        if one.was_reported
        and one.model_id == request.model.model_id
        and one.request_id != request.request_id
        and one.created_at <= request.created_at
    )
    return next(replaced, None)


def get_request(connection: sa.Connection, request_id: str) -> RequestRow:
    """One request; its row is locked for the transaction on PostgreSQL."""
    query = sa.select(requests).where(requests.c.request_id == request_id)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    return request_from_row(connection.execute(query).one())


def waiting_for(connection: sa.Connection, models: Collection[str]) -> list[tuple[RequestRow, int]]:
    """Requests that wait for an answer of one of these models (SHA-256), which is not here yet; and
    how often they were put off. Some of them, where there are many: the oldest."""
    query = (
        sa.select(requests, deferred_answers.c.questions)
        .join(deferred_answers, deferred_answers.c.request_id == requests.c.request_id)
        .where(
            requests.c.state == RequestState.WAITING.value,
            requests.c.model_sha256.in_(models),
            deferred_answers.c.answer.is_(None),
        )
        .order_by(requests.c.created_at, requests.c.request_id)
        .limit(_WAITING_AT_ONCE)
    )
    return [(request_from_row(row), row.questions) for row in connection.execute(query)]


def lock_requests(connection: sa.Connection, study_instance_uid: str) -> None:
    """Lock the requests about a study for the transaction, in one order: before the orders that
    they answer, as whoever ends a request does. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        query = sa.select(requests.c.request_id)
        query = query.where(requests.c.study_instance_uid == study_instance_uid)
        query = query.order_by(requests.c.created_at, requests.c.request_id)
        connection.execute(query.with_for_update()).all()


def set_state(
    connection: sa.Connection, request_id: str, state: RequestState, **values: object
) -> None:
    """Move a request; ``values`` are further columns to set."""
    connection.execute(
        sa.update(requests)
        .where(requests.c.request_id == request_id)
        .values(state=state.value, **values)
    )


@dataclass(frozen=True, slots=True)
class FiledDocument:
    """A document whose bytes are kept."""

    document: Document
    sha256: str
    version: int
    """Of the report."""
    profile: str
    """The DICOM documents that the same destinations get."""


def add_result(connection: sa.Connection, result: InferenceResult, made_at: datetime) -> None:
    """Record an answer."""
    connection.execute(
        sa.insert(results).values(
            request_id=result.request_id,
            outcome=result.outcome.value,
            findings=_FINDINGS.dump_python(result.findings, mode="json"),
            reasons=list(result.reasons),
            warnings=list(result.warnings),
            timings={timing.part: timing.seconds for timing in result.timings},
            made_at=made_at,
        )
    )


def add_documents(connection: sa.Connection, filed: Iterable[FiledDocument]) -> None:
    """Record documents, each once: identifiers are deterministic."""
    for one in filed:
        document = one.document
        insert_new(
            connection,
            documents,
            document_id=document.document_id,
            request_id=document.request_id,
            kind=document.kind.value,
            identity=_identity_row(document.identity),
            related_uids=list(document.related_uids),
            sha256=one.sha256,
            length=len(document.content),
            version=one.version,
            profile=one.profile,
            patient_id=document.identity.patient.patient_id,
            accession_number=document.identity.accession_number,
        )


def add_fhir_resources(
    connection: sa.Connection, request_id: str, resources: Iterable[tuple[str, str]]
) -> None:
    """Note in which report FHIR resources stand: (type, id) of each."""
    for resource_type, resource_id in resources:
        insert_new(
            connection,
            fhir_resources,
            resource_type=resource_type,
            resource_id=resource_id,
            request_id=request_id,
        )


def identity_from_row(row: Mapping[str, Any]) -> StudyIdentity:
    """The reverse of what ``add_result`` kept of a document's identity."""
    return StudyIdentity(**{**row, "patient": PatientIdentity(**row["patient"])})


def request_from_row(row: sa.Row[Any]) -> RequestRow:
    """A row of ``requests`` as a value."""
    return RequestRow(
        request_id=row.request_id,
        study=StudyKey(row.study_instance_uid, row.revision),
        route=row.route,
        shadow=row.mode == "shadow",
        model=ModelKey(row.model_id, row.model_version, row.model_sha256),
        queue=row.queue,
        priority=Priority(row.priority),
        series_instance_uids=tuple(row.series),
        deliver_to=tuple(row.deliver_to),
        reasons=tuple(row.reasons),
        state=RequestState(row.state),
        attempts=row.attempts,
        detail=row.detail,
        created_at=row.created_at,
        input_sha256=row.input_sha256,
        priors=row.priors,
        started_at=row.started_at,
        finished_at=row.finished_at,
        deadline_at=row.deadline_at,
        order_id=row.order_id,
    )


def _identity_row(identity: StudyIdentity) -> dict[str, object]:
    patient = identity.patient
    return {
        "study_instance_uid": identity.study_instance_uid,
        "patient": {
            "patient_id": patient.patient_id,
            "issuer_of_patient_id": patient.issuer_of_patient_id,
        },
        "accession_number": identity.accession_number,
        "issuer_of_accession_number": identity.issuer_of_accession_number,
    }
