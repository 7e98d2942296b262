"""Answers of QIDO-RS in the DICOM JSON model (PS3.18 annex F), in the port's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub.ports import RemoteSeries, RemoteStudy, StudyQuery

NUMBER_OF_INSTANCES = "00201208"
STUDY_FIELDS = ("00100021", "00100030", "00081030", "00080061", NUMBER_OF_INSTANCES)
"""Issuer of patient ID, birth date, description, modalities, count: what is not always given."""
SERIES_FIELDS = ("0008103E", "00180015", "00201209")


def text_of(answer: Mapping[str, Any], tag: str) -> str:
    """A value as text; several are joined by a backslash, none is empty."""
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    if not isinstance(values, list):
        return ""
    return "\\".join(str(value) for value in values if isinstance(value, str | int)).strip()


def _count(answer: Mapping[str, Any], tag: str) -> int | None:
    text = text_of(answer, tag)
    return int(text) if text.isdecimal() else None


def remote_study(answer: Mapping[str, Any]) -> RemoteStudy:
    """An answer of "Search for Studies"."""
    return RemoteStudy(
        study_instance_uid=text_of(answer, "0020000D"),
        patient_id=text_of(answer, "00100020"),
        issuer_of_patient_id=text_of(answer, "00100021"),
        patient_birth_date=text_of(answer, "00100030"),
        accession_number=text_of(answer, "00080050"),
        study_date=text_of(answer, "00080020"),
        study_time=text_of(answer, "00080030"),
        study_description=text_of(answer, "00081030"),
        modalities_in_study=tuple(filter(None, text_of(answer, "00080061").split("\\"))),
        number_of_instances=_count(answer, NUMBER_OF_INSTANCES),
    )


def remote_series(answer: Mapping[str, Any]) -> RemoteSeries:
    """An answer of "Search for Series"."""
    return RemoteSeries(
        series_instance_uid=text_of(answer, "0020000E"),
        modality=text_of(answer, "00080060"),
        series_description=text_of(answer, "0008103E"),
        body_part_examined=text_of(answer, "00180015"),
        number_of_instances=_count(answer, "00201209"),
    )


def answers_query(study: RemoteStudy, query: StudyQuery) -> bool:
    """Whether an answer is about what was asked, exactly."""
    pairs = (
        (query.study_instance_uid, study.study_instance_uid),
        (query.patient_id, study.patient_id),
        (query.accession_number, study.accession_number),
    )
    if any(wanted and found != wanted for wanted, found in pairs):
        return False
    issuers = (query.issuer_of_patient_id, study.issuer_of_patient_id)
    return bool(study.study_instance_uid) and (not all(issuers) or issuers[0] == issuers[1])
