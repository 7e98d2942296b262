"""The studies that the hub holds, for whoever serves them on (hub.ports.Holdings)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity
from hub.domain.study import Instance, Location
from hub.ports import ObjectStore, RemoteStudy, StudyQuery
from hub.store.database import Database
from hub.store.instances import InstanceState, instance_of_row
from hub.store.schema import instances, studies

_BATCH = 100


@dataclass(frozen=True, slots=True)
class StoredHoldings:
    """Over the index and the segments. A study that is held back, or whose images are gone, is
    not there."""

    database: Database
    objects: ObjectStore

    def find_studies(self, query: StudyQuery, limit: int, offset: int = 0) -> Sequence[RemoteStudy]:
        """As `hub.ports.Holdings`. Keys are matched exactly; ``study_date`` may be a range.

        Raises:
            TransientError: the database cannot be reached.
        """
        found: list[RemoteStudy] = []
        with self.database.snapshot() as connection:
            for study in _matching(connection, query):
                if offset > 0:
                    offset -= 1
                    continue
                if len(found) == limit:
                    break
                found.append(study)
        return found

    def instances(
        self, study_instance_uid: str, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> Sequence[Instance]:
        """As `hub.ports.Holdings`.

        Raises:
            TransientError: the database cannot be reached.
        """
        conditions = [
            instances.c.study_instance_uid == study_instance_uid,
            instances.c.state == InstanceState.CURRENT.value,
            studies.c.purged_at.is_(None),
        ]
        if series_instance_uid:
            conditions.append(instances.c.series_instance_uid == series_instance_uid)
        if sop_instance_uid:
            conditions.append(instances.c.sop_instance_uid == sop_instance_uid)
        query = (
            sa.select(instances, studies.c.problems)
            .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
            .where(*conditions)
        )
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        found = [instance_of_row(row) for row in rows if not row["problems"]]
        return sorted(found, key=_order)

    def read(self, location: Location) -> bytes:
        """As `hub.ports.ObjectStore`."""
        return self.objects.read(location)


def _order(instance: Instance) -> tuple[int, str, int, str]:
    series = instance.attributes.get("series_number", "")
    return (
        int(series) if series.isdecimal() else 0,
        instance.series_instance_uid,
        instance.instance_number or 0,
        instance.sop_instance_uid,
    )


# --- searching ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    """What is held of one study."""

    modalities: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    count: int = 0
    header: Mapping[str, Any] = field(default_factory=dict)
    """Of one of its instances: always the same one."""


def _matching(connection: sa.Connection, query: StudyQuery) -> Iterator[RemoteStudy]:
    offset = 0
    while rows := connection.execute(_page(query, offset)).all():
        held = [row for row in rows if not row.problems]
        contents = _contents_of(connection, [row.study_instance_uid for row in held])
        for row in held:
            if row.study_instance_uid in contents:
                study = _remote_study(row, contents[row.study_instance_uid])
                if _matches(study, query):
                    yield study
        offset += len(rows)


def _page(query: StudyQuery, offset: int) -> sa.Select[Any]:
    keys = {
        studies.c.study_instance_uid: query.study_instance_uid,
        studies.c.patient_id: query.patient_id,
        studies.c.issuer_of_patient_id: query.issuer_of_patient_id,
    }
    return (
        sa.select(studies)
        .where(studies.c.purged_at.is_(None), *(c == key for c, key in keys.items() if key))
        .order_by(studies.c.first_received_at.desc(), studies.c.study_instance_uid)
        .limit(_BATCH)
        .offset(offset)
    )


def _contents_of(connection: sa.Connection, uids: Sequence[str]) -> Mapping[str, _Contents]:
    current = (
        instances.c.study_instance_uid.in_(uids),
        instances.c.state == InstanceState.CURRENT.value,
    )
    modality = instances.c.header["modality"].as_string()
    found: dict[str, _Contents] = defaultdict(_Contents)
    counts = sa.select(
        instances.c.study_instance_uid,
        instances.c.series_instance_uid,
        modality.label("modality"),
        sa.func.count().label("number"),
    )
    for row in connection.execute(
        counts.where(*current).group_by(
            instances.c.study_instance_uid, instances.c.series_instance_uid, sa.text("modality")
        )
    ):
        study = found[row.study_instance_uid]
        study.series.add(row.series_instance_uid)
        study.count += row.number
        if row.modality:
            study.modalities.add(row.modality)
    first = (
        sa.select(sa.func.min(instances.c.sop_instance_uid))
        .where(*current)
        .group_by(instances.c.study_instance_uid)
    )
    headers = sa.select(instances.c.study_instance_uid, instances.c.header)
    for row in connection.execute(headers.where(instances.c.sop_instance_uid.in_(first), *current)):
        found[row.study_instance_uid].header = row.header
    return found


def _remote_study(row: sa.Row[Any], contents: _Contents) -> RemoteStudy:
    header = contents.header
    patient, texts = PatientIdentity(**header["patient"]), header["attributes"]
    return RemoteStudy(
        study_instance_uid=row.study_instance_uid,
        patient_id=patient.patient_id,
        issuer_of_patient_id=patient.issuer_of_patient_id,
        patient_birth_date=patient.patient_birth_date,
        accession_number=header["accession_number"],
        study_date=texts.get("study_date", ""),
        study_time=texts.get("study_time", ""),
        study_description=texts.get("study_description", ""),
        modalities_in_study=tuple(sorted(contents.modalities)),
        number_of_instances=contents.count,
        number_of_series=len(contents.series),
        patient_name=patient.patient_name,
        patient_sex=patient.patient_sex,
        referring_physician_name=texts.get("referring_physician_name", ""),
        study_id=texts.get("study_id", ""),
    )


def _matches(study: RemoteStudy, query: StudyQuery) -> bool:
    if query.accession_number and query.accession_number != study.accession_number:
        return False
    wanted = set(query.modalities_in_study)
    if wanted and not wanted & set(study.modalities_in_study):
        return False
    return not query.study_date or _within(study.study_date, query.study_date)


def _within(date: str, wanted: str) -> bool:
    """PS3.4 C.2.2.2.5: a date, or a range that may be open at one end."""
    start, dash, end = wanted.partition("-")
    if not dash:
        return date == start
    return bool(date) and date >= start and (not end or date <= end)
