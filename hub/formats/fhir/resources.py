"""FHIR R4 (4.0.1) building blocks: data types, references, and the resources that are not the
report itself (ImagingStudy).

Everything is a plain JSON object; ``hub.formats.fhir.checks`` checks the whole Bundle before it
leaves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from urllib.parse import quote

from hub.domain.coding import Code
from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest, ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.study import Series, Study
from hub.errors import RejectedError
from hub.formats.codes import is_dicom_code
from hub.formats.encoding import EncodingContext, device_uid

Json = dict[str, Any]

DICOM_UID = "urn:dicom:uid"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"
OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
AI_DEVICE_TYPE = "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS"
DATA_ABSENT_REASON = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
ALTERNATE_REFERENCE = "http://hl7.org/fhir/StructureDefinition/alternate-reference"
MODEL_SYSTEM = "urn:caidx:models"

_EXACT = 2.0**53
"""Below it every whole number has a float of its own."""
_DATE = {8: "%Y%m%d"}
_TIMES = {4: "%H%M", 6: "%H%M%S"}
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")

AI_ASSERTED: Json = {
    "system": OBSERVATION_VALUE,
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
"""Marks what an AI said, in ``meta.security`` (HL7 AI Transparency on FHIR)."""

ARTIFICIAL_INTELLIGENCE: Json = {"system": AI_DEVICE_TYPE, "code": "Artificial-Intelligence"}

UNKNOWN: Json = {"extension": [{"url": DATA_ABSENT_REASON, "valueCode": "unknown"}]}
"""Stands where FHIR wants an element and the study has no value for it."""


# --- data types --------------------------------------------------------------------------


def compact(**fields: Any) -> Json:
    """The fields that have a value: FHIR forbids empty elements."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def coding(code: Code) -> Json:
    return compact(system=code.system, code=code.code_value, display=code.code_meaning)


def concept(code: Code) -> Json:
    return {"coding": [coding(code)], "text": code.code_meaning}


def coded(system: str, code: str, display: str = "") -> Json:
    """A CodeableConcept of one HL7 code."""
    return {"coding": [compact(system=system, code=code, display=display)]}


def quantity(value: float, unit: Code) -> Json:
    """A Quantity in UCUM.

    Raises:
        RejectedError: the value is not a number, or the unit is not from UCUM.
    """
    if not math.isfinite(value):
        raise RejectedError("a measured value is not a finite number")
    if unit.system != UCUM:
        raise RejectedError(f"a unit is not from UCUM but from {unit.coding_scheme_designator}")
    # 88.0 would claim a decimal place (R4 datatypes.html#decimal: precision is part of the value)
    shown = int(value) if value == int(value) and abs(value) < _EXACT else value
    return {"value": shown, "unit": unit.code_meaning, "system": UCUM, "code": unit.code_value}


def instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def uid_identifier(uid: str) -> Json:
    """A DICOM UID as FHIR writes it (R4 ImagingStudy, "Identifiers")."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


def conditional(identifier: Json) -> str:
    """The search that finds the resource with this identifier, percent-encoded throughout:
    servers behind a proxy refuse a bare ``|`` in a URL (RFC 3986 section 2)."""
    token = f"{identifier['system']}|{identifier['value']}"
    return f"identifier={quote(token, safe='')}"


def urn(uuid: object) -> str:
    return f"urn:uuid:{uuid}"


# --- identities and references -----------------------------------------------------------


def lasting_uuid(request: InferenceRequest, *parts: str) -> str:
    """The same for every revision of a study and every version of a model, so that a new
    revision updates the resource that the one before it made."""
    return str(
        derived_uuid(
            "fhir",
            request.study.study_instance_uid,
            request.route,
            request.model.model_id,
            *parts,
        )
    )


def device_url(model: ModelKey) -> str:
    return urn(derived_uuid("fhir", "Device", device_uid(model)))


def imaging_study_url(study: Study) -> str:
    return urn(derived_uuid("fhir", "ImagingStudy", study.study_instance_uid))


def subject(study: Study, context: EncodingContext) -> Json:
    """The patient as a logical reference: by the identifier of the DICOM header.

    A literal reference would need the server's own id, and ``Patient?identifier=`` makes the
    whole transaction fail where the patient is not (or twice) on the server. A logical
    reference is taken by every R4 server and resolved by it (R4 references, "Logical
    References"). No name and no birth date: they are the server's to know.
    """
    patient = study.patient
    if not patient.patient_id:
        return {"type": "Patient", **UNKNOWN}
    issuer = patient.issuer_of_patient_id
    identifier = compact(
        type=coded(IDENTIFIER_TYPE, "MR"),
        system=context.identifier_systems.get(issuer),
        value=patient.patient_id,
        assigner=compact(display=issuer),
    )
    return {"type": "Patient", "identifier": identifier}


def accession(study: Study, context: EncodingContext) -> Json | None:
    """The accession number as an Identifier of type ACSN; None where the study has none."""
    if not study.accession_number:
        return None
    issuer = study.issuer_of_accession_number
    return compact(
        type=coded(IDENTIFIER_TYPE, "ACSN"),
        system=context.identifier_systems.get(issuer) if issuer else None,
        value=study.accession_number,
        assigner=compact(display=issuer),
    )


def organization(context: EncodingContext) -> Json:
    """The institution as a logical reference by its first identifier."""
    identifiers = context.organization_identifiers
    known = {"system": identifiers[0].system, "value": identifiers[0].value} if identifiers else {}
    return compact(type="Organization", identifier=known, display=context.institution_name)


def performers(request: InferenceRequest, card: ModelCard, context: EncodingContext) -> list[Json]:
    """The institution, and the AI by the extension ``alternate-reference``: in R4 a Device may
    not be ``performer`` itself."""
    device = {"reference": device_url(request.model)}
    algorithm = {
        "extension": [{"url": ALTERNATE_REFERENCE, "valueReference": device}],
        "display": f"AI: {card.name} {card.version}",
    }
    return [organization(context), algorithm]


# --- time --------------------------------------------------------------------------------


def study_datetime(study: Study, context: EncodingContext) -> str | None:
    """Study Date and Study Time as a FHIR dateTime; None without a valid date.

    Without a valid time, or with hours alone, it is the date only; fractions of a second
    are left out.
    """
    day = _parsed(study.study_date, _DATE)
    if day is None:
        return None
    clock = _parsed(study.study_time.partition(".")[0], _TIMES)
    if clock is None:
        return day.date().isoformat()
    moment = datetime.combine(day.date(), clock.time(), _zone(study, context))
    return moment.isoformat(timespec="seconds")


def _parsed(text: str, patterns: Mapping[int, str]) -> datetime | None:
    """A value of the length that its pattern has: strptime alone reads ``08`` as 0:08."""
    pattern = patterns.get(len(text))
    if pattern is None or not text.isdecimal():
        return None
    try:
        return datetime.strptime(text, pattern)  # noqa: DTZ007 - DICOM dates and times are local
    except ValueError:
        return None


def _zone(study: Study, context: EncodingContext) -> tzinfo:
    """Timezone Offset From UTC (0008,0201), ``&ZZXX``, goes before the institution's zone."""
    named = (i.attributes.get("timezone_offset_from_utc", "") for i in study.instances)
    offset = _OFFSET.fullmatch(next(named, ""))
    if offset is None:
        return context.timezone
    sign, hours, minutes = offset.groups()
    ahead = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-ahead if sign == "-" else ahead)


# --- resources ---------------------------------------------------------------------------


def imaging_study(study: Study, context: EncodingContext) -> Json:
    """The study with its series and counts.

    Single instances are left out: the archive is the authority for them, the SR names those
    that a finding rests on, and a study of some thousand slices would make the transaction
    megabytes long for a resource that most servers hold already.
    """
    modalities = study.modalities_in_study
    identifiers = [uid_identifier(study.study_instance_uid), accession(study, context)]
    return compact(
        resourceType="ImagingStudy",
        identifier=[identifier for identifier in identifiers if identifier],
        status="available",
        modality=[_modality(modality) for modality in modalities],
        subject=subject(study, context),
        started=study_datetime(study, context),
        numberOfSeries=len(study.series),
        numberOfInstances=len(study.instances),
        description=study.study_description.strip(),
        series=[_series(series) for series in study.series],
    )


def _series(series: Series) -> Json:
    number = series.attribute("series_number")
    return compact(
        uid=series.series_instance_uid,
        number=int(number) if number.isdecimal() else None,
        modality=_modality(series.modality) if series.modality else UNKNOWN,
        description=series.attribute("series_description").strip(),
        numberOfInstances=len(series.instances),
    )


def _modality(modality: str) -> Json:
    """One that DICOM does not define, or not yet, is a code of no system: it is the device's word,
    and no reason to keep a report back."""
    return compact(system=DCM if is_dicom_code(modality) else None, code=modality)
