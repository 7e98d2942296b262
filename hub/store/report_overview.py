"""The versions of reports, as people and programs read them. No name of a patient stands here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.store.database import Database
from hub.store.schema import report_versions, requests, results


@dataclass(frozen=True, slots=True)
class ReportVersionRow:
    """One version of the report of a request."""

    request_id: str
    version: int
    status: str
    """preliminary, final, amended or entered-in-error."""
    cause: str
    """model, accepted, modified, rejected, retracted, released or patient-changed."""
    outcome: str
    """assessed, not-assessable, unsuitable or failed."""
    reason: str
    person: dict[str, str] | None
    """Who answers for it."""
    changes: list[dict[str, Any]] | None
    """All findings, as a person changed them; null where nobody did."""
    state: str
    """asked, made, passed-over or failed."""
    made_at: datetime


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The report of a request: the model's answer, and every version up to now."""

    request_id: str
    study_instance_uid: str
    revision: int
    route: str
    model_id: str
    model_version: str
    state: str
    """Of the request."""
    findings: list[dict[str, Any]]
    """As the model gave them."""
    reasons: list[str]
    warnings: list[str]
    versions: tuple[ReportVersionRow, ...]
    """The first one first; none where the request has not ended."""


def reports_of_study(
    connection: sa.Connection, study_instance_uid: str
) -> tuple[ReportVersionRow, ...]:
    """Every version of every report about a study, oldest request first."""
    return _versions(connection, requests.c.study_instance_uid == study_instance_uid)


def report_of_request(database: Database, request_id: str) -> ReportRow | None:
    """The report of a request; None where there is no such request."""
    of_answer = ("findings", "reasons", "warnings")
    names = [name for name in ReportRow.__dataclass_fields__ if name in requests.c]
    columns = [requests.c[name] for name in names if name not in of_answer]
    query = (
        sa.select(*columns, *(results.c[name] for name in of_answer))
        .outerjoin(results, results.c.request_id == requests.c.request_id)
        .where(requests.c.request_id == request_id)
    )
    with database.snapshot() as connection:
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        versions = _versions(connection, requests.c.request_id == request_id)
    answer = {name: row[name] or [] for name in of_answer}
    return ReportRow(**{**row, **answer}, versions=versions)


def latest_versions(database: Database, request_ids: list[str]) -> dict[str, ReportVersionRow]:
    """The last version of the report of each of these requests."""
    with database.read() as connection:
        every = _versions(connection, requests.c.request_id.in_(request_ids))
    return {row.request_id: row for row in every}


def _versions(
    connection: sa.Connection, which: sa.ColumnElement[bool]
) -> tuple[ReportVersionRow, ...]:
    columns = [report_versions.c[name] for name in ReportVersionRow.__dataclass_fields__]
    query = (
        sa.select(*columns)
        .join(requests, requests.c.request_id == report_versions.c.request_id)
        .where(which)
        .order_by(requests.c.created_at, requests.c.request_id, report_versions.c.version)
    )
    return tuple(ReportVersionRow(**row) for row in connection.execute(query).mappings())
