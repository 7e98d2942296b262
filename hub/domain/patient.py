"""Patients change while their images are analysed: names are corrected, records are merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from hub.domain.identity import PatientIdentity


class PatientChangeKind(StrEnum):
    """HL7 v2 trigger events, and what FHIR Patient updates come to."""

    UPDATED = "updated"
    """ADT^A08, A31: name, birth date or sex."""
    MERGED = "merged"
    """ADT^A40, FHIR ``Patient.link`` ``replaced-by``: this patient ID is no more."""
    IDENTIFIER_CHANGED = "identifier-changed"
    """ADT^A47: the same patient has another ID."""


@dataclass(frozen=True, slots=True)
class PatientChange:
    """What somebody who knows said of a patient."""

    change_id: str
    """Deterministic: the same message is one change (e.g. of sender and message control ID)."""
    kind: PatientChangeKind
    patient_id: str
    """Whom it is about; before a merge or a change of the ID, the old one."""
    issuer_of_patient_id: str
    current: PatientIdentity
    """As the patient is from now on: the ID that survives. Empty name, birth date and sex say
    nothing about them."""
    source: str
    received_at: datetime


def follow(patient: PatientIdentity, changes: Iterable[PatientChange]) -> PatientIdentity:
    """The patient as he is now, after changes in the order in which they were received.

    A change applies to the ID that the patient has by then; circles (A into B, later B into A)
    end at the last one.
    """
    for change in changes:
        if (change.patient_id, change.issuer_of_patient_id) != patient.key:
            continue
        now = change.current
        patient = replace(
            now,
            patient_name=now.patient_name or patient.patient_name,
            patient_birth_date=now.patient_birth_date or patient.patient_birth_date,
            patient_sex=now.patient_sex or patient.patient_sex,
        )
    return patient
