"""Measured values that sources sent, and those of which a case is made."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.study import EvidenceKind, Study, StudyKey
from hub.store.database import insert_new, parts
from hub.store.schema import studies, study_revisions
from hub.store.schema_orders import case_observations, observations

Name = tuple[str, ...]

_ONE = TypeAdapter(Observation)
_SEVERAL = TypeAdapter(tuple[Observation, ...])


# --- values that sources sent ----------------------------------------------------------------
# `hub.store.observation_versions` records them.


def _is_identified(identifier: tuple[str, str]) -> sa.ColumnElement[bool]:
    """By the index of the value; the few that are found have their systems compared."""
    system = observations.c.content[("identifier", 0)].as_string()
    found = observations.c.identifier_sha256 == digest_of(identifier)
    return sa.and_(found, system == identifier[0])


def digest_of(identifier: tuple[str, str] | None) -> str:
    """Of the value of a business identifier, of any length, to find it by; empty without one."""
    return "" if identifier is None else hashlib.sha256(identifier[1].encode()).hexdigest()


def names_of(value: Observation) -> tuple[Name, ...]:
    """Two values with one of these in common are versions of one thing: where it stands, and its
    business identifier, as the database knows it."""
    stands = (("reference", value.reference),) if value.reference else ()
    if value.identifier is None:
        return stands
    return (*stands, ("identifier", value.identifier[0], digest_of(value.identifier)))


@dataclass(frozen=True, slots=True)
class Corrections:
    """What sources said last, to be found by what was said before."""

    by_name: Mapping[Name, Sequence[Observation]]

    @classmethod
    def among(cls, values: Sequence[Observation]) -> Corrections:
        """Of several of one thing the first one is found."""
        by_name: dict[Name, list[Observation]] = {}
        for value in values:
            for name in names_of(value):
                by_name.setdefault(name, []).append(value)
        return cls(by_name)

    def of(self, old: Observation) -> list[Observation]:
        """The same resource, which says something else."""
        alike = (new for name in names_of(old) for new in self.by_name.get(name, ()))
        return [new for new in alike if _said(new) != _said(old)]


def _said(value: Observation) -> tuple[object, ...]:
    """What it states, whoever brought it."""
    unit = None if value.unit is None else value.unit.code_value
    return (value.status, value.effective_at, value.value, unit, value.comparator)


def of_patient(
    connection: sa.Connection, patient: PatientIdentity, *, after: datetime | None = None
) -> list[Observation]:
    """What sources said of a patient, as it stands now, the last received first; with ``after``
    only what came then."""
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
    if after is not None:
        query = query.where(table.received_at > after)
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
        by_value = table.identifier_sha256 == digest_of(identifier)
        query = query.where(_is_identified(identifier) if identifier[0] else by_value)
    query = query.order_by(table.received_at.desc(), table.observation_id)
    rows = connection.execute(query.limit(limit).offset(offset))
    return [_ONE.validate_python(row.content) for row in rows]


def chosen(codes: Collection[Code], *told: Sequence[Observation]) -> tuple[Observation, ...]:
    """The values of these codes, each resource once: what stands further in front counts. The
    newest first."""
    found: list[Observation] = []
    known: set[object] = set()
    for value in (value for one in told for value in one):
        names = (*names_of(value), value.observation_id)
        if known.isdisjoint(names):
            found.append(value)
            known.update(names)
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


def latest_cases(
    connection: sa.Connection, study_instance_uids: Iterable[str]
) -> dict[str, tuple[Observation, ...]]:
    """The values of the last revision of each of these cases; none of those that were deleted."""
    table = case_observations.c
    later = case_observations.alias("later").c
    is_last = ~sa.exists().where(
        later.study_instance_uid == table.study_instance_uid, later.revision > table.revision
    )
    query = sa.select(case_observations).where(is_last, table.purged_at.is_(None))
    return {
        row.study_instance_uid: values_of(row)
        for some in parts(study_instance_uids)
        for row in connection.execute(query.where(table.study_instance_uid.in_(some)))
    }


def made_at(connection: sa.Connection, key: StudyKey) -> datetime | None:
    """When a revision of a case was made."""
    query = sa.select(study_revisions.c.completed_at).where(
        study_revisions.c.study_instance_uid == key.study_instance_uid,
        study_revisions.c.revision == key.revision,
    )
    return connection.execute(query).scalar()


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
