"""Measured values that sources sent, and those of which a case is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.study import EvidenceKind, Study, StudyKey
from hub.store.database import insert_new
from hub.store.schema import studies, study_revisions
from hub.store.schema_orders import case_observations, observations

_ONE = TypeAdapter(Observation)
_SEVERAL = TypeAdapter(tuple[Observation, ...])


# --- values that sources sent ----------------------------------------------------------------


def keep(connection: sa.Connection, value: Observation, at: datetime) -> bool:
    """Record a value; what the same resource said before is replaced. False when just this is on
    record already.

    A resource that says again what it said before something else holds again.
    """
    is_new = insert_new(
        connection,
        observations,
        observation_id=value.observation_id,
        patient_id=value.patient.patient_id,
        issuer_of_patient_id=value.patient.issuer_of_patient_id,
        source=value.source,
        reference=value.reference,
        content=_ONE.dump_python(value, mode="json"),
        effective_at=value.effective_at,
        received_at=at,
    )
    if not is_new and not _revive(connection, value, at):
        return False
    connection.execute(
        sa.update(observations)
        .where(
            _same_resource(value),
            observations.c.observation_id != value.observation_id,
            observations.c.replaced_at.is_(None),
        )
        .values(replaced_at=at)
    )
    return True


def _revive(connection: sa.Connection, value: Observation, at: datetime) -> bool:
    """A value that was replaced is said again."""
    done = connection.execute(
        sa.update(observations)
        .where(
            observations.c.observation_id == value.observation_id,
            observations.c.replaced_at.is_not(None),
        )
        .values(replaced_at=None, received_at=at)
    )
    return done.rowcount == 1


def _same_resource(value: Observation) -> sa.ColumnElement[bool]:
    """Of the same sender, whoever the patient was said to be; or of the same patient."""
    table, alike = observations.c, []
    if value.reference:
        alike.append(table.reference == value.reference)
    if value.identifier is not None:
        system, number = value.identifier
        alike.append(
            sa.and_(
                table.content[("identifier", 0)].as_string() == system,
                table.content[("identifier", 1)].as_string() == number,
            )
        )
    of_patient = sa.and_(
        table.patient_id == value.patient.patient_id,
        table.issuer_of_patient_id == value.patient.issuer_of_patient_id,
    )
    told = sa.or_(table.source == value.source, of_patient)
    return sa.and_(told, sa.or_(*alike)) if alike else sa.false()


def is_same_resource(one: Observation, other: Observation) -> bool:
    """Two versions of one thing: by where it stands, or by its business identifier."""
    if one.reference and one.reference == other.reference:
        return True
    return one.identifier is not None and one.identifier == other.identifier


def is_correction(new: Observation, old: Observation) -> bool:
    """The same resource says something else."""
    return is_same_resource(new, old) and _said(new) != _said(old)


def _said(value: Observation) -> tuple[object, ...]:
    """What it states, whoever brought it."""
    unit = None if value.unit is None else value.unit.code_value
    return (value.status, value.effective_at, value.value, unit, value.comparator)


def of_patient(connection: sa.Connection, patient: PatientIdentity) -> list[Observation]:
    """What sources said of a patient, as it stands now, the last received first."""
    table = observations.c
    query = (
        sa.select(table.content)
        .where(
            table.patient_id == patient.patient_id,
            table.issuer_of_patient_id == patient.issuer_of_patient_id,
            table.replaced_at.is_(None),
        )
        .order_by(table.received_at.desc(), table.observation_id)
    )
    return [_ONE.validate_python(row.content) for row in connection.execute(query)]


def search(
    connection: sa.Connection,
    *,
    observation_id: str,
    patient: PatientIdentity | None,
    identifier: tuple[str, str] | None,
    limit: int,
    offset: int,
) -> list[Observation]:
    """As `hub.ports.Orders.observations`."""
    table = observations.c
    query = sa.select(table.content)
    if observation_id:
        query = query.where(table.observation_id == observation_id)
    else:
        query = query.where(table.replaced_at.is_(None))
    if patient is not None:
        query = query.where(table.patient_id == patient.patient_id)
        if patient.issuer_of_patient_id:
            query = query.where(table.issuer_of_patient_id == patient.issuer_of_patient_id)
    if identifier is not None:
        system, value = identifier
        query = query.where(table.content[("identifier", 1)].as_string() == value)
        if system:
            query = query.where(table.content[("identifier", 0)].as_string() == system)
    query = query.order_by(table.received_at.desc(), table.observation_id)
    rows = connection.execute(query.limit(limit).offset(offset))
    return [_ONE.validate_python(row.content) for row in rows]


def chosen(codes: Collection[Code], *told: Sequence[Observation]) -> tuple[Observation, ...]:
    """The values of these codes, each resource once: what stands further in front counts. The
    newest first."""
    found: list[Observation] = []
    for value in (value for one in told for value in one):
        is_known = any(
            is_same_resource(other, value) or other.observation_id == value.observation_id
            for other in found
        )
        if not is_known:
            found.append(value)
    wanted = tuple(codes)
    return tuple(sorted((f for f in found if f.has(wanted)), key=_age))


def _age(value: Observation) -> tuple[float, str]:
    at = value.effective_at
    return (0.0 if at is None else -at.timestamp(), value.observation_id)


# --- cases -----------------------------------------------------------------------------------


def add_case(connection: sa.Connection, case: Study, at: datetime, state: str) -> None:
    """Record a case, or a further revision of one, as a study without images.

    Args:
        connection: of the caller's transaction.
        case: as `hub.store.instances.case_study` makes it.
        at: now.
        state: of the revision (`hub.store.studies`).
    """
    key, patient = case.key, case.patient
    insert_new(
        connection,
        studies,
        study_instance_uid=key.study_instance_uid,
        patient_id=patient.patient_id,
        issuer_of_patient_id=patient.issuer_of_patient_id,
        first_received_at=at,
        problems=[],
        accession_number=case.accession_number,
        issuer_of_accession_number=case.issuer_of_accession_number,
    )
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_instance_uid == key.study_instance_uid)
        .values(purged_at=None)
    )
    connection.execute(
        sa.insert(study_revisions).values(
            study_instance_uid=key.study_instance_uid,
            revision=key.revision,
            state=state,
            due_at=at,
            evidence=EvidenceKind.ORDERED_VALUES.value,
            received_instances=0,
            last_received_at=at,
            completed_at=at,
        )
    )
    connection.execute(
        sa.insert(case_observations).values(
            study_instance_uid=key.study_instance_uid,
            revision=key.revision,
            patient=asdict(patient),
            accession_number=case.accession_number,
            issuer_of_accession_number=case.issuer_of_accession_number,
            source=case.source,
            values=_SEVERAL.dump_python(case.observations, mode="json"),
            ordered_at=case.received_at,
        )
    )


def case_of(connection: sa.Connection, key: StudyKey) -> sa.Row[Any] | None:
    """The row of a case; None where the study is one of images."""
    query = sa.select(case_observations).where(
        case_observations.c.study_instance_uid == key.study_instance_uid,
        case_observations.c.revision == key.revision,
    )
    return connection.execute(query).one_or_none()


def values_of(row: sa.Row[Any]) -> tuple[Observation, ...]:
    """The values of a case."""
    return _SEVERAL.validate_python(row._mapping["values"])  # noqa: SLF001 - documented accessor


def latest_case(connection: sa.Connection, study_instance_uid: str) -> StudyKey | None:
    """The last revision of a case; None where there is none."""
    number = connection.execute(
        sa.select(sa.func.max(case_observations.c.revision)).where(
            case_observations.c.study_instance_uid == study_instance_uid
        )
    ).scalar()
    return None if number is None else StudyKey(study_instance_uid, number)


def erase_case(connection: sa.Connection, study_instance_uid: str, at: datetime) -> int | None:
    """Delete the values of a case; returns how many there were, None where there is no case."""
    of_case = (
        case_observations.c.study_instance_uid == study_instance_uid,
        case_observations.c.purged_at.is_(None),
    )
    rows = connection.execute(sa.select(case_observations).where(*of_case)).all()
    if not rows:
        return None
    connection.execute(
        sa.update(case_observations).where(*of_case).values(values=[], patient={}, purged_at=at)
    )
    return sum(len(row._mapping["values"]) for row in rows)  # noqa: SLF001 - documented accessor
