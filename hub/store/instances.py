"""Rows of stored objects, and the studies that they make up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.study import (
    Completeness,
    EvidenceKind,
    Instance,
    Location,
    Series,
    Study,
    StudyKey,
)
from hub.errors import RejectedError
from hub.store import observations
from hub.store.schema import associations, instances, microseconds, studies, study_revisions

_AT_ONCE = 500
"""Values in one IN (...)."""


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


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One stored object, as it goes into the index."""

    instance: Instance
    revision: int
    """Of its study: the first one that it belongs to; 0 for a conflict."""
    state: InstanceState
    association_id: str
    received_at: datetime


def known_digests(
    connection: sa.Connection, sop_instance_uids: Collection[str]
) -> dict[str, dict[str, InstanceState]]:
    """SOP Instance UID -> SHA-256 and state of every version that is stored, of those that are
    stored."""
    known: dict[str, dict[str, InstanceState]] = defaultdict(dict)
    uids = list(sop_instance_uids)
    for start in range(0, len(uids), _AT_ONCE):
        rows = connection.execute(
            sa.select(instances.c.sop_instance_uid, instances.c.sha256, instances.c.state).where(
                instances.c.sop_instance_uid.in_(uids[start : start + _AT_ONCE])
            )
        )
        for uid, sha256, state in rows:
            known[uid][sha256] = InstanceState(state)
    return known


def add(connection: sa.Connection, rows: Sequence[IndexRow]) -> None:
    """Index stored objects; those whose bytes are there already stay as they are."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        text = orjson.dumps([_index_values(row) for row in rows]).decode()
        connection.execute(_INSERT_MANY, {"rows": text})
    else:
        values = [_index_values(row) for row in rows]
        for one in values:
            one["header"] = orjson.dumps(one["header"]).decode()
        connection.exec_driver_sql(_INSERT, [tuple(one.values()) for one in values])


def are_in(connection: sa.Connection, segment: str, study_instance_uid: str) -> bool:
    """Whether the index refers to anything in a segment, which holds that study's objects."""
    query = sa.select(sa.literal(1)).where(
        instances.c.study_instance_uid == study_instance_uid, instances.c.segment == segment
    )
    return connection.execute(query.limit(1)).first() is not None


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
    """The study as it was complete with this revision: what came later is not in it.

    Raises:
        RejectedError: its images, or the values of a case, were deleted.
    """
    revision = connection.execute(
        sa.select(study_revisions, studies.c.problems)
        .join(studies, studies.c.study_instance_uid == study_revisions.c.study_instance_uid)
        .where(
            study_revisions.c.study_instance_uid == key.study_instance_uid,
            study_revisions.c.revision == key.revision,
        )
    ).one()
    if revision.evidence == EvidenceKind.ORDERED_VALUES.value:
        return _case(connection, key, revision)
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
    if not rows:
        raise RejectedError("the images of this revision of the study were deleted")
    found = [instance_of_row(row._mapping) for row in rows]  # noqa: SLF001 - documented accessor
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
            # what was expected of the whole study says nothing of a series that is complete
            expected=revision.expected_instances if revision.scope == "study" else None,
        ),
        received_at=revision.last_received_at,
        calling_ae_title=rows[0].calling_ae_title,
        source=rows[0].source,
        problems=tuple(revision.problems),
    )


def _case(connection: sa.Connection, key: StudyKey, revision: sa.Row[Any]) -> Study:
    """Measured values, as a study without images (docs/adr/0009)."""
    case = observations.case_of(connection, key)
    if case is None or case.purged_at is not None:
        raise RejectedError("the values of this case were deleted")
    study = case_study(
        key,
        PatientIdentity(**case.patient),
        observations.values_of(case),
        accession_number=(case.accession_number, case.issuer_of_accession_number),
        source=case.source,
        at=case.ordered_at,
    )
    return replace(study, problems=tuple(revision.problems))


def case_study(
    key: StudyKey,
    patient: PatientIdentity,
    values: tuple[Observation, ...],
    *,
    accession_number: tuple[str, str],
    source: str,
    at: datetime,
) -> Study:
    """Measured values as a study. ``at``: when they were ordered; the age of the patient and of
    the values is that at this moment, so it is the date of the study, too (UTC)."""
    number, issuer = accession_number
    return Study(
        key=key,
        patient=patient,
        accession_number=number,
        issuer_of_accession_number=issuer,
        study_date=f"{at:%Y%m%d}",
        study_time=f"{at:%H%M%S}",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=(),
        completeness=Completeness(
            complete=True, evidence=EvidenceKind.ORDERED_VALUES, received=0, expected=None
        ),
        received_at=at,
        source=source,
        observations=values,
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


_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_NAMES = ", ".join(f'"{column.name}"' for column in instances.columns)
_INSERT = (
    f"INSERT INTO instances ({_NAMES}) VALUES ({', '.join('?' * len(instances.columns))})"  # noqa: S608 - names of ours
    " ON CONFLICT DO NOTHING"
)
_TYPES = ", ".join(
    f'"{column.name}" {column.type.compile(_POSTGRESQL)}' for column in instances.columns
)
_INSERT_MANY = sa.text(
    f"INSERT INTO instances ({_NAMES}) SELECT {_NAMES}"  # noqa: S608 - names of ours
    f" FROM json_to_recordset(CAST(:rows AS json)) AS rows ({_TYPES}) ON CONFLICT DO NOTHING"
)
"""All rows in one value: a driver's work for each single value costs more than the row."""


def _index_values(row: IndexRow) -> dict[str, Any]:
    """In the order of the columns.

    A number that is not finite never gets here (`hub.formats.dicom.header`): JSON has none, and
    it would become null.
    """
    instance = row.instance
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "sha256": instance.sha256,
        "study_instance_uid": instance.study_instance_uid,
        "series_instance_uid": instance.series_instance_uid,
        "revision": row.revision,
        "state": row.state.value,
        "association_id": row.association_id,
        "segment": instance.location.segment,
        "offset": instance.location.offset,
        "length": instance.location.length,
        "received_at": microseconds(row.received_at),
        "header": _header(instance),
    }


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


def instance_of_row(row: Mapping[str, Any] | sa.RowMapping) -> Instance:
    """The domain's view of a row of ``instances``."""
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
