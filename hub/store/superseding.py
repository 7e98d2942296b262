"""What is not sent any more because of what came after it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from hub.domain.delivery import Delivery, DeliveryState, DocumentKind
from hub.domain.report import WITHDRAWN
from hub.store.schema import deliveries, documents, report_versions, requests

UPDATED_IN_PLACE = frozenset(
    {DocumentKind.FHIR, DocumentKind.FHIR_R5, DocumentKind.ORU, DocumentKind.NOTICE}
)
"""Who gets one of these has the report as the last one says; DICOM objects and files stand beside
the earlier ones."""
_WITHDRAWN = [cause.value for cause in WITHDRAWN]

_own, _other = requests.alias("own"), requests.alias("other")
_own_document, _other_document = documents.alias("own_document"), documents.alias("other_document")
_same_line = (
    _own.c.study_instance_uid == _other.c.study_instance_uid,
    _own.c.route == _other.c.route,
    _own.c.model_id == _other.c.model_id,
    _own.c.mode == _other.c.mode,
)

_NOT_SENT = (DeliveryState.QUARANTINED, DeliveryState.DISCARDED)
"""And nobody knows whether they ever will be."""
NEVER_TRIED = sa.and_(
    deliveries.c.state.in_([state.value for state in (*_NOT_SENT, DeliveryState.SUPERSEDED)]),
    deliveries.c.attempts == 0,
    deliveries.c.round == 0,
)
"""An attempt that failed may have arrived all the same: only its answer was lost."""


def why_not_sent(connection: sa.Connection, delivery: Delivery) -> str | None:
    """Why a delivery that has not begun, or has failed so far, must not be sent; None: it may.

    The report of a request is replaced by its next version, and by that of the request about a
    later revision of the study.
    """
    if delivery.kind in UPDATED_IN_PLACE:
        place = _newer_in_place(connection, delivery)
        if place is not None:
            return f"the report of {place} takes its place"
    if _is_withdrawn(connection, delivery):
        return "the report was withdrawn before it was sent"
    if _withdraws(connection, delivery) and not _was_sent(connection, delivery):
        return "nothing of the report that is withdrawn was sent there"
    return None


def _newer_in_place(connection: sa.Connection, delivery: Delivery) -> str | None:
    query = (
        _deliveries_of_line(delivery)
        .with_only_columns(_other.c.request_id, _other.c.revision, _other_document.c.version)
        .where(
            _is_newer(_other_document.c.version),
            deliveries.c.destination == delivery.destination,
            deliveries.c.kind == delivery.kind.value,
            deliveries.c.state.not_in([s.value for s in (*_NOT_SENT, DeliveryState.DEAD)]),
        )
        .order_by(_other.c.created_at.desc(), _other_document.c.version.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.request_id == delivery.request_id:
        return f"version {row.version}"
    return f"revision {row.revision}"


def _is_withdrawn(connection: sa.Connection, delivery: Delivery) -> bool:
    """Somebody has withdrawn the report since this document of it was made, or the one after."""
    query = (
        sa.select(report_versions.c.version)
        .join(_other, _other.c.request_id == report_versions.c.request_id)
        .join(_own, sa.and_(*_same_line))
        .join(_own_document, _own_document.c.request_id == _own.c.request_id)
        .where(
            _own_document.c.document_id == delivery.document_id,
            report_versions.c.cause.in_(_WITHDRAWN),
            _is_newer(report_versions.c.version),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _withdraws(connection: sa.Connection, delivery: Delivery) -> bool:
    """The document says that the report is withdrawn."""
    query = (
        sa.select(report_versions.c.cause)
        .join(
            documents,
            sa.and_(
                documents.c.request_id == report_versions.c.request_id,
                documents.c.version == report_versions.c.version,
            ),
        )
        .where(documents.c.document_id == delivery.document_id)
    )
    return connection.execute(query).scalar() in _WITHDRAWN


def _was_sent(connection: sa.Connection, delivery: Delivery) -> bool:
    """Something of what came before it was sent there, or may have been."""
    older = sa.or_(
        sa.and_(
            _other.c.request_id == _own.c.request_id,
            _other_document.c.version < _own_document.c.version,
        ),
        _other.c.created_at < _own.c.created_at,
    )
    query = (
        _deliveries_of_line(delivery)
        .with_only_columns(deliveries.c.delivery_id)
        .where(
            older,
            deliveries.c.destination == delivery.destination,
            sa.not_(NEVER_TRIED),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _is_newer(version: sa.Column[int]) -> sa.ColumnElement[bool]:
    """A later version of the same report, or the report of a later request."""
    return sa.or_(
        sa.and_(_other.c.request_id == _own.c.request_id, version > _own_document.c.version),
        _other.c.created_at > _own.c.created_at,
    )


def _deliveries_of_line(delivery: Delivery) -> sa.Select[Any]:
    """Deliveries of reports of the same study, route and model; ``_own_document`` is the one in
    question, ``_other_document`` another one or itself."""
    return (
        sa.select(deliveries)
        .join(_other_document, _other_document.c.document_id == deliveries.c.document_id)
        .join(_other, _other.c.request_id == _other_document.c.request_id)
        .join(_own, sa.and_(*_same_line))
        .join(_own_document, _own_document.c.request_id == _own.c.request_id)
        .where(_own_document.c.document_id == delivery.document_id)
    )
