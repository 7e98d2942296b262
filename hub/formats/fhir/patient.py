"""What a FHIR R4 Patient says became of a patient: an update, or a link to who he is now.

Read as plain JSON, as ``hub.formats.fhir.imaging_study`` does. After a merge the Patient that is
no more has ``link.type`` ``replaced-by`` (R4 Patient, "Linking Patients"); the other one has to be
in the same Bundle, or named by an identifier.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from hub.domain.identity import PatientIdentity, derived_uuid
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.errors import RejectedError

Json = Mapping[str, Any]

_SEXES = {"male": "M", "female": "F", "other": "O"}
_LONGEST = 64
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME_USES = ("official", None, "usual")
_REPLACED_BY, _REPLACES = "replaced-by", "replaces"

Identifiers = Mapping[str, str]
"""Issuer as in the images -> the patient's ID there."""


def read_patient_changes(
    document: bytes, issuers: Mapping[str, str], source: str, received_at: datetime
) -> tuple[PatientChange, ...]:
    """What the Patients of a document say.

    Args:
        document: JSON of one Patient, or of a Bundle with at least one.
        issuers: system of an identifier (its URI) -> Issuer of Patient ID as in the images, empty
            where they name none; identifiers of other systems are passed over.
        source: who was told.
        received_at: when.

    Raises:
        RejectedError: it is neither, or does not say who a Patient is in terms of the images; no
            patient data.
    """
    try:
        resource = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise RejectedError("this is no JSON document") from error
    patients = _patients(resource)
    found: list[tuple[Json, PatientChangeKind, tuple[str, str], PatientIdentity]] = []
    for patient in patients.values():
        for kind, old, current in _said(patient, patients, issuers):
            found.append((patient, kind, old, current))
    return tuple(
        PatientChange(
            change_id=_change_id(patient, kind, old, current),
            kind=kind,
            patient_id=old[0],
            issuer_of_patient_id=old[1],
            current=current,
            source=source,
            received_at=received_at + timedelta(microseconds=number),
        )
        for number, (patient, kind, old, current) in enumerate(found)
    )


def identities_in(patient: Json, issuers: Mapping[str, str]) -> tuple[PatientIdentity, ...]:
    """Who a Patient is, once for each of its identifiers of a system that images know.

    Raises:
        RejectedError: there is none; no patient data.
    """
    own = _identifiers(patient, issuers)
    return tuple(_identity(patient, value, issuer) for issuer, value in own.items())


def _patients(resource: object) -> dict[str, Json]:
    """The Patients by what others refer to them by."""
    if not isinstance(resource, dict):
        raise RejectedError("this is no FHIR resource: no JSON object")
    if resource.get("resourceType") == "Patient":
        return {_reference_to(resource, {}): resource}
    if resource.get("resourceType") != "Bundle":
        raise RejectedError("this is neither a Patient nor a Bundle")
    found: dict[str, Json] = {}
    for number, entry in enumerate(_objects(resource, "entry")):
        inner = entry.get("resource")
        if isinstance(inner, dict) and inner.get("resourceType") == "Patient":
            found[_reference_to(inner, entry) or str(number)] = inner
    if not found:
        raise RejectedError("the Bundle holds no Patient")
    return found


def _reference_to(patient: Json, entry: Json) -> str:
    if patient.get("id"):
        return f"Patient/{patient['id']}"
    return str(entry.get("fullUrl", ""))


def _said(
    patient: Json, patients: Mapping[str, Json], issuers: Mapping[str, str]
) -> list[tuple[PatientChangeKind, tuple[str, str], PatientIdentity]]:
    """(kind, old ID and issuer, who he is now) for each ID that the Patient has."""
    replaced_by, replaces = _linked(patient, _REPLACED_BY), _linked(patient, _REPLACES)
    own = _identifiers(patient, issuers)
    if replaced_by is not None:
        other, named = _other(replaced_by, patients, issuers)
        return _merged(own, named, other)
    updated = [
        (PatientChangeKind.UPDATED, (value, issuer), _identity(patient, value, issuer))
        for issuer, value in own.items()
    ]
    if replaces is None:
        return updated
    other, named = _other(replaces, patients, issuers)
    if other is not None and _linked(other, _REPLACED_BY) is not None:
        return updated  # the other one says so itself
    return [*_merged(named, own, patient), *updated]


def _merged(
    old: Identifiers, new: Identifiers, patient: Json | None
) -> list[tuple[PatientChangeKind, tuple[str, str], PatientIdentity]]:
    found = []
    for issuer, value in old.items():
        now = issuer if issuer in new else next(iter(new))
        if (new[now], now) == (value, issuer):
            raise RejectedError("Patient.link leads to the same identifier")
        current = _identity(patient or {}, new[now], now)
        found.append((PatientChangeKind.MERGED, (value, issuer), current))
    return found


def _linked(patient: Json, kind: str) -> Json | None:
    links = [link for link in _objects(patient, "link") if link.get("type") == kind]
    if len(links) > 1 and kind == _REPLACED_BY:
        raise RejectedError("Patient.link: more than one Patient replaces this one")
    other = links[0].get("other") if links else None
    if links and not isinstance(other, dict):
        raise RejectedError("Patient.link.other is no reference")
    return other


def _other(
    reference: Json, patients: Mapping[str, Json], issuers: Mapping[str, str]
) -> tuple[Json | None, Identifiers]:
    target = str(reference.get("reference", ""))
    for name, patient in patients.items():
        if target and (target == name or target.endswith(f"/{name}")):
            return patient, _identifiers(patient, issuers)
    identifier = reference.get("identifier")
    if not isinstance(identifier, dict):
        text = "Patient.link.other: neither in the same Bundle nor named by an identifier"
        raise RejectedError(text)
    return None, _identifiers({"identifier": [identifier]}, issuers)


def _identifiers(patient: Json, issuers: Mapping[str, str]) -> Identifiers:
    """Those in use, of the systems that images know; of each the first."""
    found: dict[str, str] = {}
    for identifier in _objects(patient, "identifier"):
        system, value = str(identifier.get("system", "")), identifier.get("value")
        if not isinstance(value, str) or system not in issuers or identifier.get("use") == "old":
            continue
        if not _is_possible(value):
            raise RejectedError("Patient.identifier.value is no patient ID of DICOM")
        found.setdefault(issuers[system], value)
    if not found:
        raise RejectedError("Patient.identifier has none of a system that the images know")
    return found


def _is_possible(value: str) -> bool:
    return 0 < len(value) <= _LONGEST and "\\" not in value and value.isprintable()


def _identity(patient: Json, patient_id: str, issuer: str) -> PatientIdentity:
    return PatientIdentity(
        patient_id=patient_id,
        issuer_of_patient_id=issuer,
        patient_name=_name(patient),
        patient_birth_date=_birth_date(patient.get("birthDate")),
        patient_sex=_SEXES.get(str(patient.get("gender")), ""),
    )


def _name(patient: Json) -> str:
    """A HumanName as a DICOM person name (PS3.5 6.2.1)."""
    names = _objects(patient, "name")
    for use in _NAME_USES:
        for name in names:
            if name.get("use") == use:
                given = _texts(name, "given")
                parts = (
                    str(name.get("family", "")),
                    given[0] if given else "",
                    " ".join(given[1:]),
                    " ".join(_texts(name, "prefix")),
                    " ".join(_texts(name, "suffix")),
                )
                return "^".join(_name_part(part) for part in parts).rstrip("^")
    return ""


def _name_part(text: str) -> str:
    plain = "".join(" " if mark in "^=\\" or not mark.isprintable() else mark for mark in text)
    return plain.strip()[:_LONGEST]


def _birth_date(value: object) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return ""  # a year alone is no DICOM date
    try:
        return date.fromisoformat(value).strftime("%Y%m%d")
    except ValueError as error:
        raise RejectedError("Patient.birthDate is no date") from error


def _change_id(
    patient: Json, kind: PatientChangeKind, old: tuple[str, str], current: PatientIdentity
) -> str:
    """Of the version of the resource, and of what it says."""
    meta = patient.get("meta")
    stated = meta if isinstance(meta, dict) else {}
    version = (str(stated.get("versionId", "")), str(stated.get("lastUpdated", "")))
    return str(derived_uuid("patient-change", *version, kind.value, *old, repr(current)))


def _objects(parent: Json, name: str) -> list[Json]:
    value = parent.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RejectedError(f"{name} is no list of JSON objects")
    return value


def _texts(parent: Json, name: str) -> Sequence[str]:
    value = parent.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RejectedError(f"{name} is no list of texts")
    return value
