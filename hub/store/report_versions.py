"""Versions of reports: which there are, what each replaces, and who got what of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.coding import Code
from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.domain.finding import Finding
from hub.domain.inference import Outcome
from hub.domain.report import WITHDRAWN, Person, ReportCause, ReportStatus
from hub.store.results import RequestRow
from hub.store.schema import deliveries, documents, report_versions, requests, results
from hub.store.superseding import NEVER_TRIED

NO_RECORD = "no other report can be made: its record was deleted, or never kept"
_FINDINGS = TypeAdapter(tuple[Finding, ...])


class VersionState(StrEnum):
    ASKED = "asked"
    """A job makes it."""
    MADE = "made"
    """Its documents stand in ``documents``, and their deliveries have begun."""
    PASSED_OVER = "passed-over"
    """A newer version was asked for before it was made: only that one is sent."""
    FAILED = "failed"
    """It could not be made: an alert says why; who asks for the same again tries it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """A version as recorded."""

    request_id: str
    version: int
    status: ReportStatus
    cause: ReportCause
    outcome: Outcome
    reason: str = ""
    person: Person | None = None
    changes: tuple[Finding, ...] | None = None
    """All findings, as a person changed them."""
    actor: str
    """Who did it, as in the audit log."""
    state: VersionState
    made_at: datetime

    @property
    def is_withdrawn(self) -> bool:
        """The report must not be used any more."""
        return self.cause in WITHDRAWN


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """A document of a version, and where its bytes are."""

    kind: DocumentKind
    document_id: str
    sha256: str
    version: int


def add(connection: sa.Connection, row: VersionRow) -> None:
    """Record a new version."""
    changes = None if row.changes is None else _FINDINGS.dump_python(row.changes, mode="json")
    connection.execute(
        sa.insert(report_versions).values(
            request_id=row.request_id,
            version=row.version,
            status=row.status.value,
            cause=row.cause.value,
            outcome=row.outcome.value,
            reason=row.reason,
            person=None if row.person is None else asdict(row.person),
            changes=changes,
            actor=row.actor,
            state=row.state.value,
            made_at=row.made_at,
        )
    )


def set_state(
    connection: sa.Connection, request_id: str, version: int, state: VersionState
) -> None:
    """Move a version."""
    connection.execute(
        sa.update(report_versions)
        .where(report_versions.c.request_id == request_id, report_versions.c.version == version)
        .values(state=state.value)
    )


def versions_of(connection: sa.Connection, request_id: str) -> tuple[VersionRow, ...]:
    """Every version of the report of a request, the first one first."""
    table = report_versions
    query = sa.select(table).where(table.c.request_id == request_id).order_by(table.c.version)
    return tuple(_version(row) for row in connection.execute(query))


def version_of(connection: sa.Connection, document_id: str) -> int:
    """The version of the report that a document belongs to."""
    query = sa.select(documents.c.version).where(documents.c.document_id == document_id)
    return int(connection.execute(query).scalar_one())


def made_at(connection: sa.Connection, document_id: str) -> datetime | None:
    """When the version of the report that a document belongs to was made, or asked for; None of
    one without a version."""
    belongs = (
        report_versions.c.request_id == documents.c.request_id,
        report_versions.c.version == documents.c.version,
    )
    query = sa.select(report_versions.c.made_at).join(documents, sa.and_(*belongs))
    return connection.execute(query.where(documents.c.document_id == document_id)).scalar()


def has_record(connection: sa.Connection, request_id: str) -> bool:
    """Whether further versions of the report can be made."""
    kinds = (DocumentKind.RECORD,)
    known = versions_of(connection, request_id)
    return bool(known and documents_of(connection, request_id, kinds))


def line_of(connection: sa.Connection, request: RequestRow) -> tuple[str, ...]:
    """The requests whose reports are one and the same to those who get them: of the same study,
    route and model, the latest first. The request itself is the first; the reports of those
    behind it are replaced by its own."""
    earlier = _line(connection, request, requests.c.created_at <= request.created_at)
    return (request.request_id, *earlier)


def revision_of_replacement(connection: sa.Connection, request: RequestRow) -> int | None:
    """Revision of the study whose report has replaced that of the request; None: it stands."""
    later = _line(connection, request, requests.c.created_at > request.created_at)
    query = (
        sa.select(requests.c.revision)
        .join(report_versions, report_versions.c.request_id == requests.c.request_id)
        .where(requests.c.request_id.in_(later))
        .order_by(requests.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).scalar()


def findings_of(
    connection: sa.Connection, request_ids: Sequence[str]
) -> dict[str, tuple[Finding, ...]]:
    """What models answered to requests, by request; nothing of those without an answer."""
    query = sa.select(results.c.request_id, results.c.findings).where(
        results.c.request_id.in_(list(request_ids))
    )
    found = {row.request_id: row.findings for row in connection.execute(query)}
    return {name: _FINDINGS.validate_python(found[name]) for name in request_ids if name in found}


def replaced_findings(connection: sa.Connection, request_ids: Sequence[str]) -> tuple[Finding, ...]:
    """Every finding that any report of these requests has had, each as it was last."""
    known: dict[tuple[str, str, Code, Code | None], Finding] = {}
    answered = findings_of(connection, request_ids)
    for name in request_ids:
        changed = [row.changes or () for row in reversed(versions_of(connection, name))]
        for findings in (*changed, answered.get(name, ())):
            for finding in findings:
                thing = (finding.tracking_uid, finding.tracking_identifier)
                known.setdefault((*thing, finding.code, finding.laterality), finding)
    return tuple(known.values())


def receivers(connection: sa.Connection, request_ids: Sequence[str]) -> frozenset[str]:
    """The destinations that something of the reports of these requests went, or is to go, to."""
    query = sa.select(deliveries.c.destination).where(
        deliveries.c.request_id.in_(list(request_ids))
    )
    return frozenset(connection.execute(query.distinct()).scalars())


def sent_objects(
    connection: sa.Connection, request_ids: Sequence[str], destinations: Collection[str]
) -> tuple[KeptDocument, ...]:
    """The DICOM objects of the reports of these requests that these destinations got, may have
    got or will get, the latest first, and whose bytes are still here."""
    went = sa.exists().where(
        deliveries.c.document_id == documents.c.document_id,
        deliveries.c.destination.in_(sorted(destinations)),
        sa.not_(NEVER_TRIED),
    )
    query = (
        _documents(request_ids, DICOM_KINDS)
        .where(went)
        .join(requests, requests.c.request_id == documents.c.request_id)
        .order_by(requests.c.created_at.desc(), documents.c.version.desc(), documents.c.document_id)
    )
    return _filed(connection, query)


def documents_of(
    connection: sa.Connection, request_id: str, kinds: Collection[DocumentKind]
) -> tuple[KeptDocument, ...]:
    """The documents of these kinds of a request, those of the latest version first, as far as
    their bytes are still here."""
    query = _documents((request_id,), kinds).order_by(
        documents.c.version.desc(), documents.c.document_id
    )
    return _filed(connection, query)


def _documents(request_ids: Sequence[str], kinds: Collection[DocumentKind]) -> sa.Select[Any]:
    columns = (documents.c[name] for name in KeptDocument.__dataclass_fields__)
    return sa.select(*columns).where(
        documents.c.request_id.in_(list(request_ids)),
        documents.c.kind.in_(sorted(kind.value for kind in kinds)),
        documents.c.purged_at.is_(None),
    )


def _filed(connection: sa.Connection, query: sa.Select[Any]) -> tuple[KeptDocument, ...]:
    return tuple(
        KeptDocument(DocumentKind(row.kind), row.document_id, row.sha256, row.version)
        for row in connection.execute(query)
    )


def _line(
    connection: sa.Connection, request: RequestRow, when: sa.ColumnElement[bool]
) -> tuple[str, ...]:
    query = sa.select(requests.c.request_id).where(
        requests.c.study_instance_uid == request.study.study_instance_uid,
        requests.c.route == request.route,
        requests.c.model_id == request.model.model_id,
        requests.c.mode == ("shadow" if request.shadow else "active"),
        requests.c.request_id != request.request_id,
        when,
    )
    order = (requests.c.created_at.desc(), requests.c.revision.desc(), requests.c.request_id)
    return tuple(connection.execute(query.order_by(*order)).scalars())


def _version(row: sa.Row[Any]) -> VersionRow:
    return VersionRow(
        request_id=row.request_id,
        version=row.version,
        status=ReportStatus(row.status),
        cause=ReportCause(row.cause),
        outcome=Outcome(row.outcome),
        reason=row.reason,
        person=None if row.person is None else Person(**row.person),
        changes=None if row.changes is None else _FINDINGS.validate_python(row.changes),
        actor=row.actor,
        state=VersionState(row.state),
        made_at=row.made_at,
    )
