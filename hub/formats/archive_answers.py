"""What archives answer to queries (PS3.4 C.6.2), in the ports' own words, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable

from hub.ports import RemoteSeries, RemoteStudy, StudyQuery

TextOf = Callable[[int], str]
"""Tag (``0xGGGGEEEE``) -> the answer's value as text: several joined by a backslash, none empty."""

STUDY_INSTANCE_UID = 0x0020000D
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
PATIENT_BIRTH_DATE = 0x00100030
ACCESSION_NUMBER = 0x00080050
STUDY_DATE = 0x00080020
STUDY_TIME = 0x00080030
STUDY_DESCRIPTION = 0x00081030
MODALITIES_IN_STUDY = 0x00080061
NUMBER_OF_STUDY_RELATED_INSTANCES = 0x00201208

SERIES_INSTANCE_UID = 0x0020000E
MODALITY = 0x00080060
SERIES_DESCRIPTION = 0x0008103E
BODY_PART_EXAMINED = 0x00180015
NUMBER_OF_SERIES_RELATED_INSTANCES = 0x00201209

STUDY_KEYS = (
    STUDY_INSTANCE_UID,
    PATIENT_ID,
    ISSUER_OF_PATIENT_ID,
    PATIENT_BIRTH_DATE,
    ACCESSION_NUMBER,
    STUDY_DATE,
    STUDY_TIME,
    STUDY_DESCRIPTION,
    MODALITIES_IN_STUDY,
    NUMBER_OF_STUDY_RELATED_INSTANCES,
)
SERIES_KEYS = (
    SERIES_INSTANCE_UID,
    MODALITY,
    SERIES_DESCRIPTION,
    BODY_PART_EXAMINED,
    NUMBER_OF_SERIES_RELATED_INSTANCES,
)


def remote_study(text: TextOf) -> RemoteStudy:
    """An answer at study level."""
    return RemoteStudy(
        study_instance_uid=text(STUDY_INSTANCE_UID),
        patient_id=text(PATIENT_ID),
        issuer_of_patient_id=text(ISSUER_OF_PATIENT_ID),
        patient_birth_date=text(PATIENT_BIRTH_DATE),
        accession_number=text(ACCESSION_NUMBER),
        study_date=text(STUDY_DATE),
        study_time=text(STUDY_TIME),
        study_description=text(STUDY_DESCRIPTION),
        modalities_in_study=tuple(filter(None, text(MODALITIES_IN_STUDY).split("\\"))),
        number_of_instances=_count(text(NUMBER_OF_STUDY_RELATED_INSTANCES)),
    )


def remote_series(text: TextOf) -> RemoteSeries | None:
    """An answer at series level; None where it names no series."""
    uid = text(SERIES_INSTANCE_UID)
    if not uid:
        return None
    return RemoteSeries(
        series_instance_uid=uid,
        modality=text(MODALITY),
        series_description=text(SERIES_DESCRIPTION),
        body_part_examined=text(BODY_PART_EXAMINED),
        number_of_instances=_count(text(NUMBER_OF_SERIES_RELATED_INSTANCES)),
    )


def answers_query(study: RemoteStudy, query: StudyQuery) -> bool:
    """Whether an answer is about what was asked, exactly: an archive may match wildcards, or
    ignore a key."""
    pairs = (
        (query.study_instance_uid, study.study_instance_uid),
        (query.patient_id, study.patient_id),
        (query.accession_number, study.accession_number),
    )
    if any(wanted and found != wanted for wanted, found in pairs):
        return False
    issuers = (query.issuer_of_patient_id, study.issuer_of_patient_id)
    return bool(study.study_instance_uid) and (not all(issuers) or issuers[0] == issuers[1])


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
