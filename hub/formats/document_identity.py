"""Whom a document belongs to, read from its bytes: what the receiver will read there.

The hub keeps the identity of each document beside its bytes. Here it is read out of the bytes
themselves, before they leave, by other code than that which wrote them: a document that says
something else than the hub believes is never sent.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.identity import StudyIdentity
from hub.errors import IntegrityError, RejectedError
from hub.formats.dicom.element_scan import Elements, scan_file
from hub.formats.dicom.header import EXPLICIT_VR_LITTLE_ENDIAN

Stated = Mapping[str, frozenset[str]]
"""DICOM keyword -> every value that a document gives for it. A keyword that its format has no
place for is left out; one that stands there without a value has the empty text."""

_STUDY, _PATIENT, _ISSUER = "StudyInstanceUID", "PatientID", "IssuerOfPatientID"
_ACCESSION, _ACCESSION_ISSUER = "AccessionNumber", "IssuerOfAccessionNumber"

_SOP_INSTANCE_UID, _SOP_CLASS_UID = 0x00080018, 0x00080016
_STUDY_INSTANCE_UID = 0x0020000D
_TEXTS = {_PATIENT: 0x00100020, _ISSUER: 0x00100021, _ACCESSION: 0x00080050}
_ISSUER_OF_ACCESSION_NUMBER = 0x00080051
_LOCAL_NAMESPACE, _UNIVERSAL = 0x00400031, 0x00400032

_REFERENCED_OBJECT = re.compile(rb"\x08\x00\x55\x11UI(..)([0-9.]+)", re.DOTALL)
"""Referenced SOP Instance UID (0008,1155) in an item, as explicit VR little endian writes it; a
text value holds no such bytes. Thousands of items are found in the time in which a few could be
read one by one."""
_CLASS_BEFORE = b"\x08\x00\x50\x11UI"
"""Referenced SOP Class UID (0008,1150), which stands before it."""
_LONGEST_ELEMENT = 8 + 64
_NESTED_STUDY = re.compile(rb"\x20\x00\x0d\x00UI(..)([0-9.]+)", re.DOTALL)
_SEQUENCE_VR = b"SQ"

FAULTS = (RejectedError, struct.error, ValueError, zlib.error, KeyError, TypeError, AttributeError)
"""What reading bytes that are no such document raises."""


def contradictions(document: Document, identity: StudyIdentity) -> tuple[str, ...]:
    """In which fields a document does not belong to whom it is sent for: what it says itself, and
    what the hub believes of it. By name, never by value."""
    problems = [f"{name} of its record" for name in _differences(document.identity, identity)]
    try:
        stated = document_identity(document)
        if document.kind in DICOM_KINDS and _sop_instance_uid(document) != document.document_id:
            problems.append("SOPInstanceUID")
    except FAULTS as error:
        return (*problems, f"it cannot be read ({type(error).__name__})")
    expected = _fields(identity)
    problems += [name for name, said in stated.items() if said != {expected[name]}]
    return tuple(problems)


def _differences(one: StudyIdentity, other: StudyIdentity) -> list[str]:
    mine, others = _fields(one), _fields(other)
    return [name for name in mine if mine[name] != others[name]]


def _fields(identity: StudyIdentity) -> dict[str, str]:
    return {
        _STUDY: identity.study_instance_uid,
        _PATIENT: identity.patient.patient_id,
        _ISSUER: identity.patient.issuer_of_patient_id,
        _ACCESSION: identity.accession_number,
        _ACCESSION_ISSUER: identity.issuer_of_accession_number,
    }


def document_identity(document: Document) -> Stated:
    """What the bytes say of whom they belong to.

    Raises:
        RejectedError, struct.error, ValueError, KeyError, TypeError: they are no such document
            (``FAULTS``).
    """
    reader = _READERS.get(document.kind, _nothing)
    return reader(document.content)


def _nothing(content: bytes) -> Stated:  # noqa: ARG001 - a reader
    """A page for people: a program finds no identifiers in it."""
    return {}


# --- DICOM -------------------------------------------------------------------------------


def _scanned(content: bytes) -> Elements:
    elements = scan_file(content)
    if elements.transfer_syntax_uid != EXPLICIT_VR_LITTLE_ENDIAN:
        raise RejectedError("the hub's own objects are explicit VR little endian")
    return elements


def _sop_instance_uid(document: Document) -> str:
    return _scanned(document.content).text(_SOP_INSTANCE_UID)


def _of_dicom(content: bytes) -> Stated:
    elements = _scanned(content)
    stated = {name: frozenset({_text(elements, tag)}) for name, tag in _TEXTS.items()}
    issuer = elements.first_item(_ISSUER_OF_ACCESSION_NUMBER)
    named = "" if issuer is None else _text(issuer, _LOCAL_NAMESPACE) or _text(issuer, _UNIVERSAL)
    studies = {elements.text(_STUDY_INSTANCE_UID)}
    return stated | {_STUDY: frozenset(studies), _ACCESSION_ISSUER: frozenset({named})}


def _text(elements: Elements, tag: int) -> str:
    return elements.raw(tag).decode("utf-8").strip("\0 ")


@dataclass(frozen=True, slots=True)
class References:
    """What a DICOM document refers to, wherever in its sequences."""

    objects: frozenset[tuple[str, str]]
    """(SOP Class UID or empty, SOP Instance UID)."""
    studies: frozenset[str]


def references(document: Document) -> References:
    """What a DICOM document refers to.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        elements = _scanned(document.content)
    except FAULTS as error:
        raise IntegrityError(f"{document.kind} cannot be read ({type(error).__name__})") from None
    objects: set[tuple[str, str]] = set()
    studies: set[str] = set()
    for offset, length, _ in elements.places.values():
        if elements.data[offset - 8 : offset - 6] == _SEQUENCE_VR:
            nested = elements.data[offset : offset + length]
            for found in _REFERENCED_OBJECT.finditer(nested):
                objects.add((_class_before(nested, found.start()), _uid(*found.groups())))
            studies.update(_uid(*found.groups()) for found in _NESTED_STUDY.finditer(nested))
    return References(frozenset(objects), frozenset(studies))


def _class_before(nested: bytes, at: int) -> str:
    before = nested[max(0, at - _LONGEST_ELEMENT) : at]
    start = before.rfind(_CLASS_BEFORE)
    if start < 0:
        return ""
    value = before[start + 8 :]
    is_next = int.from_bytes(before[start + 6 : start + 8], "little") == len(value)
    return value.decode("ascii").rstrip("\0") if is_next else ""


def _uid(size: bytes, digits: bytes) -> str:
    return digits[: int.from_bytes(size, "little")].decode()


# --- FHIR --------------------------------------------------------------------------------

_ACCESSION_TYPE = "ACSN"
"""HL7 table 0203."""
_OID = "urn:oid:"
_PATIENT_ELEMENTS = ("subject", "patient", "for")
"""What points to a patient in the resources of a report (R4 and R5)."""


def _of_fhir(content: bytes) -> Stated:
    """Every resource's patient, the studies by their UIDs, and all accession numbers."""
    stated: dict[str, set[str]] = {_PATIENT: set(), _STUDY: set(), _ACCESSION: set()}
    for entry in orjson.loads(content)["entry"]:
        resource = entry.get("resource", {})
        if resource.get("resourceType") == "ImagingStudy":
            stated[_STUDY].update(_study_uids(resource))
        _collect(resource, stated)
    return {name: frozenset(values) for name, values in stated.items() if values}


def _study_uids(study: Mapping[str, Any]) -> Iterator[str]:
    for identifier in study.get("identifier", ()):
        if identifier.get("system") == "urn:dicom:uid":
            yield str(identifier["value"]).removeprefix(_OID)


def _collect(value: Any, stated: dict[str, set[str]]) -> None:
    if isinstance(value, list):
        for item in value:
            _collect(item, stated)
    elif isinstance(value, dict):
        for name in _PATIENT_ELEMENTS:
            patient = value.get(name)
            if isinstance(patient, dict):
                stated[_PATIENT].update(_patient_id(patient))
        kinds = value.get("type")
        if isinstance(kinds, dict) and "value" in value:
            codes = {coding.get("code") for coding in kinds.get("coding", ())}
            if _ACCESSION_TYPE in codes:
                stated[_ACCESSION].add(str(value["value"]))
        for inner in value.values():
            if isinstance(inner, list | dict):
                _collect(inner, stated)


def _patient_id(reference: Mapping[str, Any]) -> Iterator[str]:
    """By identifier, or by a conditional reference; a literal one says nothing of itself."""
    identifier = reference.get("identifier")
    if isinstance(identifier, dict):
        yield str(identifier.get("value", ""))
    elif reference.get("reference", "").startswith("Patient?identifier="):
        yield reference["reference"].rpartition("|")[2]
    elif "reference" not in reference:
        yield ""  # said to be unknown


# --- HL7 v2 ------------------------------------------------------------------------------

_LABORATORY = "LAB"
_DICOM_STUDY = "113014"
"""(113014, DCM, "DICOM Study"): OBX-3 of the Study Instance UID."""


def _of_oru(content: bytes) -> Stated:
    """Patients from PID-3, the order from OBR-18 and OBR-19, the study from the OBX that names
    it: where IHE RAD-128 has them. (OBR-3 is the hub's own number.) A result of the laboratory
    (OBR-24) has no study."""
    segments = [line for line in content.decode("utf-8").split("\r") if line]
    if not segments or not segments[0].startswith("MSH"):
        raise RejectedError("no HL7 v2 message")
    marks = _Separators(segments[0])
    stated: dict[str, set[str]] = {name: set() for name in (_PATIENT, _ACCESSION, _STUDY)}
    stated[_ACCESSION_ISSUER] = set()
    for fields in (segment.split(marks.field) for segment in segments):
        if fields[0] == "PID":
            for repetition in _at(fields, 3).split(marks.repetition):
                stated[_PATIENT].add(marks.plain(repetition.split(marks.component)[0]))
        elif fields[0] == "OBR":
            stated[_ACCESSION].add(marks.plain(_at(fields, 18)))
            stated[_ACCESSION_ISSUER].add(marks.plain(_at(fields, 19)))
        elif fields[0] == "OBX" and _at(fields, 3).split(marks.component)[0] == _DICOM_STUDY:
            stated[_STUDY].add(marks.plain(_at(fields, 5)))
    services = {_at(segment.split(marks.field), 24) for segment in segments if segment[:3] == "OBR"}
    if services == {_LABORATORY} and not stated[_STUDY]:
        del stated[_STUDY]
    if not all(stated.values()):
        raise RejectedError("a result without a patient, an order or a study")
    return {name: frozenset(values) for name, values in stated.items()}


class _Separators:
    """The delimiters that a message names for itself (HL7 v2.5.1 chapter 2.5.4)."""

    def __init__(self, header: str) -> None:
        self.field = header[3]
        self.component, self.repetition, self.escape, self.subcomponent = list(header[4:8])

    def plain(self, text: str) -> str:
        """Without escape sequences (chapter 2.7)."""
        literal = {
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "T": self.subcomponent,
        }
        for name, character in literal.items():
            text = text.replace(f"{self.escape}{name}{self.escape}", character)
        return text.replace(f"{self.escape}E{self.escape}", self.escape)


def _at(parts: list[str], index: int) -> str:
    return parts[index] if index < len(parts) else ""


# --- the hub's own -----------------------------------------------------------------------

_NOTICE_FIELDS = {
    "study_instance_uid": _STUDY,
    "patient_id": _PATIENT,
    "issuer_of_patient_id": _ISSUER,
    "accession_number": _ACCESSION,
    "issuer_of_accession_number": _ACCESSION_ISSUER,
}


def _of_notice(content: bytes) -> Stated:
    notice = orjson.loads(content)
    return {
        keyword: frozenset({str(notice[name])})
        for name, keyword in _NOTICE_FIELDS.items()
        if name in notice
    }


_READERS: Mapping[DocumentKind, Callable[[bytes], Stated]] = {
    **dict.fromkeys(DICOM_KINDS, _of_dicom),
    DocumentKind.FHIR: _of_fhir,
    DocumentKind.FHIR_R5: _of_fhir,
    DocumentKind.ORU: _of_oru,
    DocumentKind.NOTICE: _of_notice,
}
"""Of the other kinds (the page as a PDF, the record) only the SHA-256 tells that they are whole."""
