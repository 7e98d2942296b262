"""What is dropped in time beside studies: what others said of them and of patients, and counts."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from hub.store import order_rows
from hub.store.schema import (
    association_studies,
    associations,
    critical_alerts,
    documents,
    expectations,
    instances,
    patient_changes,
    procedure_steps,
    requests,
    segments,
    storage_commitments,
    studies,
)
from hub.store.schema_orders import observations


def forget_messages(connection: sa.Connection, before: datetime) -> None:
    """Drop what modalities and archives said long ago of studies; most of it is lists of UIDs."""
    steps, commitments = procedure_steps.c, storage_commitments.c
    connection.execute(sa.delete(expectations).where(expectations.c.learned_at < before))
    connection.execute(sa.delete(procedure_steps).where(steps.changed_at < before))
    answered = (commitments.state != "asked", commitments.requested_at < before)
    connection.execute(sa.delete(storage_commitments).where(*answered))


def forget_transfers(connection: sa.Connection, before: datetime) -> None:
    """Drop transfers that ended long ago and of which nothing is left."""
    this, carried = associations.c.association_id, association_studies.c
    brought = sa.exists().where(
        carried.association_id == this,
        instances.c.study_instance_uid == carried.study_instance_uid,
        instances.c.association_id == this,
    )
    wrote = sa.exists().where(segments.c.association_id == this)
    gone = sa.select(this).where(associations.c.closed_at < before, ~brought, ~wrote)
    connection.execute(sa.delete(association_studies).where(carried.association_id.in_(gone)))
    connection.execute(sa.delete(associations).where(this.in_(gone)))


def forget_critical_alerts(connection: sa.Connection, before: datetime) -> None:
    """Drop the counts of critical findings of long ago; the audit log tells of each."""
    connection.execute(sa.delete(critical_alerts).where(critical_alerts.c.raised_at < before))


def forget_orders(connection: sa.Connection, before: datetime) -> None:
    """Drop orders that came to nothing long ago, and values that sources sent long ago: what was
    made of them goes with its study or case."""
    order_rows.forget_before(connection, before)
    connection.execute(sa.delete(observations).where(observations.c.received_at < before))


def forget_patients(connection: sa.Connection, before: datetime) -> None:
    """Drop what was said long ago of patients of whom nothing is held: they are names and dates of
    birth. What somebody's ID has become is kept as long as the ID itself: a chain goes link by
    link, one in each turn."""
    change, newer = patient_changes.c, patient_changes.alias("newer").c
    reported = sa.exists().where(
        requests.c.study_instance_uid == studies.c.study_instance_uid,
        documents.c.request_id == requests.c.request_id,
        documents.c.purged_at.is_(None),
    )
    held = sa.select(studies.c.patient_id).where(sa.or_(studies.c.purged_at.is_(None), reported))
    survivor = newer.current["patient_id"].as_string()
    survivors = sa.select(survivor).where(survivor != newer.patient_id)
    connection.execute(
        sa.delete(patient_changes).where(
            change.received_at < before,
            change.patient_id.not_in(held),
            change.patient_id.not_in(sa.select(observations.c.patient_id)),
            change.patient_id.not_in(survivors),
        )
    )
