"""What became of patients: renamed, merged (hub.domain.patient)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.patient import PatientChange, PatientChangeKind, follow
from hub.store.database import insert_new
from hub.store.journal import Journal
from hub.store.schema import patient_changes


def record_change(connection: sa.Connection, journal: Journal, change: PatientChange) -> bool:
    """Keep a change; False when it is known already."""
    is_new = insert_new(
        connection,
        patient_changes,
        change_id=change.change_id,
        kind=change.kind.value,
        patient_id=change.patient_id,
        issuer_of_patient_id=change.issuer_of_patient_id,
        current=asdict(change.current),
        source=change.source,
        received_at=change.received_at,
    )
    if is_new:
        journal.record(
            connection,
            "patient.changed",
            f"patient-change:{change.change_id}",
            kind=change.kind.value,
            source=change.source,
        )
    return is_new


def current_identity(connection: sa.Connection, patient: PatientIdentity) -> PatientIdentity:
    """The patient of a study as he is now, after every change that was told of him."""
    names = {patient.patient_id}
    while True:  # every ID that this one has become
        rows = list(_about(connection, names))
        later = {row.current["patient_id"] for row in rows} - names
        if not later:
            return follow(patient, (_change(row) for row in rows))
        names |= later


def is_changed_since(connection: sa.Connection, patient: PatientIdentity, at: datetime) -> bool:
    """Whether anything was told of this patient after a moment."""
    table = patient_changes
    query = sa.select(table.c.change_id).where(
        table.c.patient_id == patient.patient_id,
        table.c.issuer_of_patient_id == patient.issuer_of_patient_id,
        table.c.received_at > at,
    )
    return connection.execute(query.limit(1)).scalar() is not None


def _about(connection: sa.Connection, names: set[str]) -> sa.CursorResult[Any]:
    query = sa.select(patient_changes).where(patient_changes.c.patient_id.in_(sorted(names)))
    order = (patient_changes.c.received_at, patient_changes.c.change_id)
    return connection.execute(query.order_by(*order))


def _change(row: sa.Row[Any]) -> PatientChange:
    return PatientChange(
        change_id=row.change_id,
        kind=PatientChangeKind(row.kind),
        patient_id=row.patient_id,
        issuer_of_patient_id=row.issuer_of_patient_id,
        current=PatientIdentity(**row.current),
        source=row.source,
        received_at=row.received_at,
    )
