"""Who and what a piece of data belongs to, and the identifiers derived from it."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

CAIDX_NAMESPACE = uuid.UUID("6f1d8a52-9a0c-5f0e-8d4e-0c41d0a1d1c5")
"""Namespace of every name-based UUID the hub makes (RFC 9562 section 5.5)."""


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """The patient as the DICOM header names them (PS3.3 C.7.1.1)."""

    patient_id: str
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    """DICOM DA, ``YYYYMMDD``, or empty."""
    patient_sex: str = ""
    """``M``, ``F``, ``O`` or empty."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes two records the same patient."""
        return (self.patient_id, self.issuer_of_patient_id)


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """The identifiers that a result must carry back unchanged."""

    study_instance_uid: str
    patient: PatientIdentity
    accession_number: str = ""
    issuer_of_accession_number: str = ""


def identity_mismatches(expected: StudyIdentity, actual: StudyIdentity) -> tuple[str, ...]:
    """The fields in which a result does not belong to its request, by name only."""
    pairs = {
        "StudyInstanceUID": (expected.study_instance_uid, actual.study_instance_uid),
        "PatientID": (expected.patient.patient_id, actual.patient.patient_id),
        "IssuerOfPatientID": (
            expected.patient.issuer_of_patient_id,
            actual.patient.issuer_of_patient_id,
        ),
        "AccessionNumber": (expected.accession_number, actual.accession_number),
        "IssuerOfAccessionNumber": (
            expected.issuer_of_accession_number,
            actual.issuer_of_accession_number,
        ),
    }
    return tuple(name for name, (wanted, got) in pairs.items() if wanted != got)


def derived_uuid(*parts: str) -> uuid.UUID:
    """The same parts give the same UUID, for ever, on every host."""
    return uuid.uuid5(CAIDX_NAMESPACE, "\x1f".join(parts))


def derived_uid(*parts: str) -> str:
    """A DICOM UID made from a name-based UUID (PS3.5 B.2: root ``2.25.``)."""
    return f"2.25.{derived_uuid(*parts).int}"


def request_id_for(
    *,
    study_instance_uid: str,
    revision: int,
    route: str,
    model: str,
    series_instance_uids: tuple[str, ...],
) -> str:
    """The deterministic job key of an inference request (hexadecimal, 32 characters)."""
    text = "\x1f".join(
        [study_instance_uid, str(revision), route, model, *sorted(series_instance_uids)]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]
