"""Rows of stored objects, and the studies that they make up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.study import (
    Completeness,
    EvidenceKind,
    Instance,
    Location,
    Series,
    Study,
    StudyKey,
)
from hub.store.database import insert_new
from hub.store.schema import associations, instances, studies, study_revisions


class InstanceState(StrEnum):
    CURRENT = "current"
    CONFLICT = "conflict"
    """Same SOP Instance UID as a current one, other bytes: kept, never used."""


_HEADER_FIELDS = (
    "sop_class_uid",
    "transfer_syntax_uid",
    "accession_number",
    "issuer_of_accession_number",
    "modality",
    "instance_number",
    "rows",
    "columns",
    "number_of_frames",
    "image_position_patient",
    "image_orientation_patient",
    "pixel_spacing",
    "slice_thickness",
    "frame_of_reference_uid",
    "warnings",
)
_TUPLES = ("warnings", "image_position_patient", "image_orientation_patient", "pixel_spacing")


def known_digests(connection: sa.Connection, sop_instance_uid: str) -> set[str]:
    """SHA-256 of every version of an instance that is stored."""
    query = sa.select(instances.c.sha256).where(instances.c.sop_instance_uid == sop_instance_uid)
    return set(connection.execute(query).scalars())


def add(
    connection: sa.Connection,
    instance: Instance,
    *,
    revision: int,
    state: InstanceState,
    association_id: str,
    received_at: datetime,
) -> bool:
    """Index one stored object; False where these bytes, or another current version of the
    instance, are there already: another transfer was faster."""
    return insert_new(
        connection,
        instances,
        sop_instance_uid=instance.sop_instance_uid,
        sha256=instance.sha256,
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        revision=revision,
        state=state.value,
        association_id=association_id,
        segment=instance.location.segment,
        offset=instance.location.offset,
        length=instance.location.length,
        received_at=received_at,
        header=_header(instance),
    )


def first_patient(connection: sa.Connection, study_instance_uid: str) -> PatientIdentity | None:
    """The patient as the first stored instance of a study names them."""
    header = connection.execute(
        sa.select(instances.c.header)
        .where(
            instances.c.study_instance_uid == study_instance_uid,
            instances.c.state == InstanceState.CURRENT.value,
        )
        .order_by(instances.c.received_at, instances.c.sop_instance_uid)
        .limit(1)
    ).scalar()
    return None if header is None else PatientIdentity(**header["patient"])


def load_study(connection: sa.Connection, key: StudyKey) -> Study:
    """The study as it was complete with this revision: what came later is not in it."""
    revision = connection.execute(
        sa.select(study_revisions, studies.c.problems)
        .join(studies, studies.c.study_instance_uid == study_revisions.c.study_instance_uid)
        .where(
            study_revisions.c.study_instance_uid == key.study_instance_uid,
            study_revisions.c.revision == key.revision,
        )
    ).one()
    rows = connection.execute(
        sa.select(instances, associations.c.source, associations.c.calling_ae_title)
        .join(associations, associations.c.association_id == instances.c.association_id)
        .where(
            instances.c.study_instance_uid == key.study_instance_uid,
            instances.c.state == InstanceState.CURRENT.value,
            instances.c.revision <= key.revision,
        )
        .order_by(instances.c.received_at, instances.c.sop_instance_uid)
    ).all()
    found = [_instance(row._mapping) for row in rows]  # noqa: SLF001 - documented accessor
    first = found[0]
    text = first.attributes
    return Study(
        key=key,
        patient=first.patient,
        accession_number=_first(i.accession_number for i in found),
        issuer_of_accession_number=_first(i.issuer_of_accession_number for i in found),
        study_date=text.get("study_date", ""),
        study_time=text.get("study_time", ""),
        study_description=text.get("study_description", ""),
        study_id=text.get("study_id", ""),
        referring_physician_name=text.get("referring_physician_name", ""),
        series=_series(found),
        completeness=Completeness(
            complete=revision.state != "receiving",
            evidence=EvidenceKind(revision.evidence),
            received=len(found),
            expected=revision.expected_instances,
        ),
        received_at=revision.last_received_at,
        calling_ae_title=rows[0].calling_ae_title,
        source=rows[0].source,
        problems=tuple(revision.problems),
    )


def _series(found: Iterable[Instance]) -> tuple[Series, ...]:
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in found:
        groups[instance.series_instance_uid].append(instance)
    return tuple(
        Series(
            series_instance_uid=uid,
            modality=_first(i.modality for i in members),
            instances=tuple(
                sorted(members, key=lambda i: (i.instance_number or 0, i.sop_instance_uid))
            ),
        )
        for uid, members in sorted(groups.items())
    )


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _header(instance: Instance) -> dict[str, object]:
    patient = instance.patient
    return {
        **{name: getattr(instance, name) for name in _HEADER_FIELDS},
        "patient": {
            "patient_id": patient.patient_id,
            "issuer_of_patient_id": patient.issuer_of_patient_id,
            "patient_name": patient.patient_name,
            "patient_birth_date": patient.patient_birth_date,
            "patient_sex": patient.patient_sex,
        },
        "attributes": dict(instance.attributes),
    }


def _instance(row: Mapping[str, Any] | sa.RowMapping) -> Instance:
    header: dict[str, Any] = row["header"]
    values: dict[str, Any] = {
        name: tuple(header[name]) if name in _TUPLES and header[name] is not None else header[name]
        for name in _HEADER_FIELDS
    }
    return Instance(
        sop_instance_uid=row["sop_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        sha256=row["sha256"],
        location=Location(row["segment"], row["offset"], row["length"]),
        patient=PatientIdentity(**header["patient"]),
        attributes=header["attributes"],
        **values,
    )
