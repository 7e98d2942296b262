"""Query identifiers and answers of an archive (PS3.4 C.6.2): data sets to and from the port's
own words."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from hub.ports import RemoteSeries, RemoteStudy, StudyQuery

REMOTE_STUDY_KEYS = (
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedInstances",
)
REMOTE_SERIES_KEYS = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "NumberOfSeriesRelatedInstances",
)


def identifier(level: str, keys: Sequence[str], **matching: str | list[str]) -> Dataset:
    """A query: ``keys`` are asked for, ``matching`` ones restrict the answers."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for key in keys:
        setattr(asked, key, "")
    for key, value in matching.items():
        if value or key in keys:
            setattr(asked, key, value)
    if not str(matching).isascii():
        asked.SpecificCharacterSet = "ISO_IR 192"
    return asked


def text_of(answer: Dataset, keyword: str) -> str:
    """A value as text; several are joined by a backslash, none is empty."""
    try:
        value = answer.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return ""  # the archive's value is none of its VR
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(one) for one in value)
    return str(value).strip()


def _count(answer: Dataset, keyword: str) -> int | None:
    text = text_of(answer, keyword)
    return int(text) if text.isdecimal() else None


def remote_study(answer: Dataset) -> RemoteStudy:
    """An answer at study level."""
    return RemoteStudy(
        study_instance_uid=text_of(answer, "StudyInstanceUID"),
        patient_id=text_of(answer, "PatientID"),
        issuer_of_patient_id=text_of(answer, "IssuerOfPatientID"),
        patient_birth_date=text_of(answer, "PatientBirthDate"),
        accession_number=text_of(answer, "AccessionNumber"),
        study_date=text_of(answer, "StudyDate"),
        study_time=text_of(answer, "StudyTime"),
        study_description=text_of(answer, "StudyDescription"),
        modalities_in_study=tuple(filter(None, text_of(answer, "ModalitiesInStudy").split("\\"))),
        number_of_instances=_count(answer, "NumberOfStudyRelatedInstances"),
    )


def remote_series(answer: Dataset) -> RemoteSeries | None:
    """An answer at series level; None where it names no series."""
    uid = text_of(answer, "SeriesInstanceUID")
    if not uid:
        return None
    return RemoteSeries(
        series_instance_uid=uid,
        modality=text_of(answer, "Modality"),
        series_description=text_of(answer, "SeriesDescription"),
        body_part_examined=text_of(answer, "BodyPartExamined"),
        number_of_instances=_count(answer, "NumberOfSeriesRelatedInstances"),
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
