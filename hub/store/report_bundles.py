"""The reports that the hub has made, as FHIR, for those who read them from it (hub.ports.Reports).

Each version of a report is filed as a FHIR document where a source shows reports; the last one
counts. Of several of one version the one that names the most other documents is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from hub.domain.delivery import DocumentKind
from hub.domain.identity import PatientIdentity
from hub.errors import IntegrityError, TransientError
from hub.ports import ReportBundle, ReportQuery
from hub.store.database import Database
from hub.store.documents import DocumentStore
from hub.store.schema import documents, report_versions, requests
from hub.store.schema_orders import fhir_resources, order_requests

_identity = documents.c.identity
_better = documents.alias("better")


@dataclass(frozen=True, slots=True)
class StoredReports:
    """hub.ports.Reports, on the database and the document store. Thread-safe."""

    database: Database
    documents: DocumentStore

    def find(self, query: ReportQuery, limit: int, offset: int = 0) -> Sequence[ReportBundle]:
        """As hub.ports.Reports."""
        asked = (
            sa.select(
                documents.c.request_id,
                documents.c.sha256,
                documents.c.version,
                requests.c.order_id,
                report_versions.c.made_at,
            )
            .join(requests, requests.c.request_id == documents.c.request_id)
            .join(
                report_versions,
                sa.and_(
                    report_versions.c.request_id == documents.c.request_id,
                    report_versions.c.version == documents.c.version,
                ),
            )
            .where(*_is_shown(), *_conditions(query))
            .order_by(report_versions.c.made_at.desc(), documents.c.request_id)
        )
        with self.database.read() as connection:
            rows = connection.execute(asked.limit(limit).offset(offset)).mappings().all()
        return [self._bundle(row) for row in rows]

    def _bundle(self, row: sa.RowMapping) -> ReportBundle:
        try:
            content = self.documents.get(row["sha256"])
        except IntegrityError as error:  # a person mends it; "there is no report" would be wrong
            raise TransientError(f"a report cannot be read: {error}") from error
        return ReportBundle(
            request_id=row["request_id"],
            order_id=row["order_id"],
            bundle=orjson.loads(content),
            version=row["version"],
            made_at=row["made_at"],
        )


def _is_shown() -> list[sa.ColumnElement[bool]]:
    """The last version as FHIR R4, whose bytes are kept; of several the richest profile."""
    length, best = sa.func.length, _better.c
    is_better = sa.or_(
        best.version > documents.c.version,
        sa.and_(
            best.version == documents.c.version,
            sa.or_(
                length(best.profile) > length(documents.c.profile),
                sa.and_(
                    length(best.profile) == length(documents.c.profile),
                    best.document_id > documents.c.document_id,
                ),
            ),
        ),
    )
    others = sa.exists().where(
        best.request_id == documents.c.request_id,
        best.kind == DocumentKind.FHIR.value,
        best.purged_at.is_(None),
        is_better,
    )
    return [
        documents.c.kind == DocumentKind.FHIR.value,
        documents.c.purged_at.is_(None),
        ~others,
    ]


def _conditions(query: ReportQuery) -> list[sa.ColumnElement[bool]]:
    """Each field of the query that is set."""
    found = [column == value for column, value in _texts(query).items() if value]
    if query.patient is not None:
        found += _of_patient(query.patient)
    if query.order_id:
        answers = sa.select(order_requests.c.request_id).where(
            order_requests.c.order_id == query.order_id
        )
        found.append(documents.c.request_id.in_(answers))
    if query.sop_instance_uid:
        other = documents.alias("other").c
        with_it = sa.select(other.request_id).where(other.document_id == query.sop_instance_uid)
        found.append(documents.c.request_id.in_(with_it))
    if query.resource is not None:
        resource_type, resource_id = query.resource
        in_it = sa.select(fhir_resources.c.request_id).where(
            fhir_resources.c.resource_type == resource_type,
            fhir_resources.c.resource_id == resource_id,
        )
        found.append(documents.c.request_id.in_(in_it))
    if query.model is not None:
        model_id, version = query.model
        found += [requests.c.model_id == model_id, requests.c.model_version == version]
    return found


def _texts(query: ReportQuery) -> dict[sa.ColumnElement[Any], str]:
    return {
        requests.c.study_instance_uid: query.study_instance_uid,
        documents.c.request_id: query.request_id,
        documents.c.accession_number: query.accession_number,
    }


def _of_patient(patient: PatientIdentity) -> list[sa.ColumnElement[bool]]:
    """As the document names the patient, which follows when he is renamed or merged."""
    found = [documents.c.patient_id == patient.patient_id]
    if patient.issuer_of_patient_id:
        issuer = _identity[("patient", "issuer_of_patient_id")].as_string()
        found.append(issuer == patient.issuer_of_patient_id)
    return found
