"""Patients, people, codes and times as HL7 v2.5.1 data types (chapter 2A), for messages of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest
from hub.domain.report import Person
from hub.domain.study import Study
from hub.formats.case_values import measured_at
from hub.formats.hl7v2.message import components, escaped, joined, subcomponents

_REPRESENTATIONS = ("A", "I", "P")
"""Table 0465: alphabetic, ideographic, phonetic; the order of component groups in DICOM."""
_NAME_COMPONENTS = 5
_NAMESPACE_LENGTH = 20
_UNSPECIFIED_NAME = "^^^^^^U"
_SEXES = {"M": "M", "F": "F", "O": "O"}
_URN_OID = "urn:oid:"
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")


def coded_element(code: Code, text: str = "", *, local: str = "", local_text: str = "") -> str:
    """CE and CWE.

    Args:
        code: what it is.
        text: shown to people instead of the code's own meaning.
        local: another name of the same in our own scheme, which systems can map.
        local_text: that one's text.
    """
    own = (local, local_text, "99CAIDX") if local else ()
    scheme = code.coding_scheme_designator
    return components(code.code_value, text or code.code_meaning, scheme, *own)


def authority(issuer: str, systems: Mapping[str, str]) -> str:
    """HD as a component: the issuer as in the DICOM header, and its OID or URI where known."""
    system = systems.get(issuer, "")
    if system.startswith(_URN_OID):
        return subcomponents(issuer, system.removeprefix(_URN_OID), "ISO")
    return subcomponents(issuer, system, "URI") if system else subcomponents(issuer)


def namespace(name: str) -> str:
    """HD of a name alone: 20 characters (2.A.36), without those that would be escaped."""
    plain = "".join(" " if mark in "|^&~\\" else mark for mark in name)
    return escaped(plain[:_NAMESPACE_LENGTH].strip())


def patient_identifier(patient: PatientIdentity, systems: Mapping[str, str]) -> str:
    """CX: the ID, who issued it, and that it is a medical record number (table 0203)."""
    issuer = patient.issuer_of_patient_id
    return joined(escaped(patient.patient_id), "", "", authority(issuer, systems), "MR")


def patient_name(name: str) -> str:
    """XPN of a DICOM person name (PS3.5 6.2.1): one repetition for each representation."""
    groups = name.split("=")[: len(_REPRESENTATIONS)]
    several = sum(bool(group.strip("^ ")) for group in groups) > 1
    found = []
    for group, representation in zip(groups, _REPRESENTATIONS, strict=False):
        if group.strip("^ "):
            family, given, middle, prefix, suffix = _components_of(group)
            code = representation if several else ""
            found.append(components(family, given, middle, suffix, prefix, "", "L", code))
    return "~".join(found) or _UNSPECIFIED_NAME


def person(name: str, identifier: str = "", system: str = "") -> str:
    """XCN of a person name, as DICOM or as people write it; the assigner is its system's URI."""
    family, given, middle, prefix, suffix = _components_of(name.partition("=")[0])
    assigner = subcomponents("", system.removeprefix(_URN_OID), _type_of(system)) if system else ""
    return joined(
        *(escaped(text) for text in (identifier, family, given, middle, suffix, prefix)),
        "",
        "",
        assigner,
    )


def interpreter(verifier: Person) -> str:
    """NDL: who interpreted a result (OBR-32)."""
    family, given, middle, prefix, suffix = _components_of(verifier.name.partition("=")[0])
    return subcomponents(verifier.identifier, family, given, middle, suffix, prefix)


def sex(patient: PatientIdentity) -> str:
    """Table 0001: F, M, O, or U where it is not known."""
    return _SEXES.get(patient.patient_sex, "U")


def timestamp(moment: datetime) -> str:
    """TS to the millisecond, with the offset from UTC."""
    milliseconds = moment.microsecond // 1000
    return f"{moment:%Y%m%d%H%M%S}.{milliseconds:03d}{moment:%z}"


def date(text: str) -> str:
    """A DICOM DA as it is where it is a day; empty otherwise: receivers refuse the 32nd of a month,
    and the whole message with it."""
    return text if _is(text, "%Y%m%d", len("YYYYMMDD")) else ""


def examined_at(study: Study) -> str:
    """TS of Study Date and Study Time: as precise as both are, in local time; with the offset from
    UTC where the study names one (0008,0201)."""
    day, digits = date(study.study_date), study.study_time.partition(".")[0]
    is_time = _is(digits, "%H%M%S", len("HHMMSS")) or _is(digits, "%H%M", len("HHMM"))
    if not (day and is_time):
        return day
    named = (one.attributes.get("timezone_offset_from_utc", "") for one in study.instances)
    offset = next(named, "")
    return f"{day}{digits}{offset if _OFFSET.fullmatch(offset) else ''}"


def observed_at(request: InferenceRequest) -> str:
    """TS of the examination; of measured values that of the newest, in UTC."""
    if request.study.is_case:
        return f"{measured_at(request).astimezone(UTC):%Y%m%d%H%M%S}+0000"
    return examined_at(request.study)


def placer_order_number(based_on: Iterable[str]) -> str:
    """EI of the first identifier of type PLAC (table 0203) among references to what asked for a
    result (FHIR references, JSON text); empty where there is none."""
    for reference in based_on:
        identifier = json.loads(reference).get("identifier", {})
        codes = {one.get("code") for one in identifier.get("type", {}).get("coding", ())}
        if "PLAC" in codes and identifier.get("value"):
            system = str(identifier.get("system", ""))
            kind = _type_of(system) if system else ""
            return components(str(identifier["value"]), "", system.removeprefix(_URN_OID), kind)
    return ""


def _is(text: str, form: str, length: int) -> bool:
    if len(text) != length or not (text.isascii() and text.isdecimal()):
        return False
    try:
        datetime.strptime(text, form)  # noqa: DTZ007 - DICOM dates and times are local
    except ValueError:
        return False
    return True


def _components_of(group: str) -> tuple[str, str, str, str, str]:
    """Family, given, middle name, prefix, suffix."""
    parts = [part.strip() for part in group.split("^")] + [""] * _NAME_COMPONENTS
    family, given, middle, prefix, suffix = parts[:_NAME_COMPONENTS]
    return family, given, middle, prefix, suffix


def _type_of(system: str) -> str:
    return "ISO" if system.startswith(_URN_OID) else "URI"
