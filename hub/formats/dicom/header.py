"""Read the header of an encoded data set that nobody vouches for.

The scanner is flat: it looks at top-level elements only and jumps over sequences without
recursion, with bounds on depth, on the number of elements, on the length of each value that
it keeps and on what a deflated data set may inflate to. Nothing that a sender can put into a
data set makes it allocate or run without bound; whatever it cannot read is a `RejectedError`.

Elements are walked by `hub.formats.dicom.elements`, texts decoded by `hub.formats.dicom.text`;
`hub.formats.dicom.part10` wraps a data set as a file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.domain.identity import PatientIdentity
from hub.domain.study import Instance, Location
from hub.errors import RejectedError
from hub.formats.dicom.elements import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    Encoding,
    MoreNeededError,
    first_item,
    tag_name,
    walk,
)
from hub.formats.dicom.header_attributes import CODE_ATTRIBUTES, NUMBER_ATTRIBUTES, TEXT_ATTRIBUTES
from hub.formats.dicom.header_outline import HeaderOutline
from hub.formats.dicom.header_values import HeaderValues
from hub.formats.dicom.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    part10,
    part10_prefix,
    split_part10,
)
from hub.ports import Buffer

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_TRANSFER_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
"""Deflated Explicit VR Little Endian and the two JPIP syntaxes that deflate (PS3.5 A.5, A.7)."""

MAX_INFLATED_BYTES = 64 * 1024 * 1024
"""A deflated data set has to show its whole header within this many inflated bytes."""
_FIRST_INFLATED_BYTES = 256 * 1024
_DEFLATED_BLOCK = 64 * 1024

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "HeaderScan",
    "identifying_texts",
    "instance_from_header",
    "part10",
    "part10_prefix",
    "scan_header",
    "split_part10",
]

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_SPECIFIC_CHARACTER_SET = 0x00080005
_ACCESSION_NUMBER = 0x00080050
_ISSUER_OF_ACCESSION_NUMBER_SEQUENCE = 0x00080051
_MODALITY = 0x00080060
_PATIENT_NAME = 0x00100010
_PATIENT_ID = 0x00100020
_ISSUER_OF_PATIENT_ID = 0x00100021
_PATIENT_BIRTH_DATE = 0x00100030
_PATIENT_SEX = 0x00100040
_SLICE_THICKNESS = 0x00180050
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_INSTANCE_NUMBER = 0x00200013
_IMAGE_POSITION_PATIENT = 0x00200032
_IMAGE_ORIENTATION_PATIENT = 0x00200037
_FRAME_OF_REFERENCE_UID = 0x00200052
_NUMBER_OF_FRAMES = 0x00280008
_ROWS = 0x00280010
_COLUMNS = 0x00280011
_PIXEL_SPACING = 0x00280030

_ENTITY_IDS = (0x00400031, 0x00400032)

_REQUIRED_UIDS = {
    _SOP_CLASS_UID: "SOPClassUID",
    _SOP_INSTANCE_UID: "SOPInstanceUID",
    _STUDY_INSTANCE_UID: "StudyInstanceUID",
    _SERIES_INSTANCE_UID: "SeriesInstanceUID",
}

_TYPED = frozenset(
    {
        *_REQUIRED_UIDS,
        _SPECIFIC_CHARACTER_SET,
        _ACCESSION_NUMBER,
        _ISSUER_OF_ACCESSION_NUMBER_SEQUENCE,
        _MODALITY,
        _PATIENT_NAME,
        _PATIENT_ID,
        _ISSUER_OF_PATIENT_ID,
        _PATIENT_BIRTH_DATE,
        _PATIENT_SEX,
        _SLICE_THICKNESS,
        _INSTANCE_NUMBER,
        _IMAGE_POSITION_PATIENT,
        _IMAGE_ORIENTATION_PATIENT,
        _FRAME_OF_REFERENCE_UID,
        _NUMBER_OF_FRAMES,
        _ROWS,
        _COLUMNS,
        _PIXEL_SPACING,
    }
)

_CODE_VALUE, _CODE_MEANING = 0x00080100, 0x00080104

WANTED = frozenset({*_TYPED, *TEXT_ATTRIBUTES, *NUMBER_ATTRIBUTES, *CODE_ATTRIBUTES})
"""Every element that the scanner keeps; all others are jumped over."""

_DECIMALS = {
    0x00180060,
    0x00180088,
    0x00181120,
    0x00281052,
    0x00281053,
}
"""Text attributes of VR DS with one value: kept only when they are finite numbers."""

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_MAX_UID_LENGTH = 64


@dataclass(frozen=True, slots=True)
class HeaderScan:
    """What the scanner kept of one data set; its four UIDs are present and well formed."""

    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    elements: Mapping[int, bytes] = field(repr=False)
    """Raw values by tag (``0xGGGGEEEE``)."""
    encoding: Encoding
    warnings: tuple[str, ...] = ()
    """What was tolerated; no patient data."""


def scan_header(
    data_set: Buffer, transfer_syntax_uid: str, outline: HeaderOutline | None = None
) -> HeaderScan:
    """Read the header of an encoded data set, up to its pixel data (7FE0,0010).

    Supports Implicit VR Little Endian, Explicit VR Little and Big Endian, the deflated
    syntaxes and all encapsulated ones (PS3.5 annex A). UIDs follow PS3.5 9.1, except that
    leading zeros in a component are tolerated with a warning.

    Args:
        data_set: the encoded data set.
        transfer_syntax_uid: how it is encoded.
        outline: of the objects before, where this is one of many that are alike; the result is
            the same with and without.

    Raises:
        RejectedError: the data set cannot be read, or a UID that identifies it is missing
            or malformed. The message names tags and byte offsets, never a value.
    """
    warnings: list[str] = []
    encoding = _encoding(transfer_syntax_uid)
    if transfer_syntax_uid in DEFLATED_TRANSFER_SYNTAXES:
        elements = _walk_deflated(data_set, encoding, warnings)
    elif outline is not None:
        elements = outline.walk(data_set, encoding, WANTED, warnings)
    else:
        elements = walk(data_set, encoding, WANTED, warnings)
    uids = {
        tag: _required_uid(elements, tag, name, warnings) for tag, name in _REQUIRED_UIDS.items()
    }
    return HeaderScan(
        transfer_syntax_uid=transfer_syntax_uid,
        sop_class_uid=uids[_SOP_CLASS_UID],
        sop_instance_uid=uids[_SOP_INSTANCE_UID],
        study_instance_uid=uids[_STUDY_INSTANCE_UID],
        series_instance_uid=uids[_SERIES_INSTANCE_UID],
        elements=elements,
        encoding=encoding,
        warnings=tuple(warnings),
    )


def _encoding(transfer_syntax_uid: str) -> Encoding:
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return BIG_ENDIAN
    if transfer_syntax_uid.startswith("1.2.840.10008.1.2."):
        return EXPLICIT
    raise RejectedError("the transfer syntax is not one of PS3.5 annex A")


def _walk_deflated(data_set: Buffer, encoding: Encoding, warnings: list[str]) -> dict[int, bytes]:
    """Inflate no more than the header needs: a little first, then up to the limit."""
    for limit in (_FIRST_INFLATED_BYTES, MAX_INFLATED_BYTES):
        inflated, whole = _inflate(data_set, limit)
        found: list[str] = []
        try:
            elements = walk(inflated, encoding, WANTED, found, whole=whole)
        except MoreNeededError:
            continue
        warnings.extend(found)
        return elements
    raise RejectedError(
        f"the header of the deflated data set does not end within {MAX_INFLATED_BYTES} bytes"
    )


def _inflate(data_set: Buffer, limit: int) -> tuple[bytes, bool]:
    """At most ``limit`` inflated bytes, and whether that is all of them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts, room, deflated = [], limit, memoryview(data_set)
    try:
        # In blocks, because the inflater copies whatever it was given and did not use.
        for start in range(0, len(deflated), _DEFLATED_BLOCK):
            parts.append(inflater.decompress(deflated[start : start + _DEFLATED_BLOCK], room))
            room -= len(parts[-1])
            if inflater.eof or not room:
                break
    except zlib.error as error:
        raise RejectedError("the deflated data set is corrupt") from error
    if not inflater.eof and room:
        raise RejectedError("the deflated data set ends before its last block")
    return b"".join(parts), inflater.eof


def _required_uid(elements: Mapping[int, bytes], tag: int, name: str, warnings: list[str]) -> str:
    raw = elements.get(tag)
    if raw is None:
        raise RejectedError(f"{name} {tag_name(tag)} is missing")
    value = raw.rstrip(b"\0 ").decode("ascii", "replace")
    if not value:
        raise RejectedError(f"{name} {tag_name(tag)} is empty")
    if len(value) > _MAX_UID_LENGTH:
        raise RejectedError(f"{name} {tag_name(tag)} is longer than 64 characters")
    if not _UID.match(value):
        raise RejectedError(f"{name} {tag_name(tag)} is not a UID")
    if _LEADING_ZERO.search(value):
        warnings.append(f"{name} has a component with leading zeros")
    return value


# --- from the scan to the domain ---------------------------------------------------------


def instance_from_header(
    scan: HeaderScan,
    *,
    sha256: str,
    location: Location,
    like: tuple[HeaderScan, Instance] | None = None,
) -> Instance:
    """The domain's view of a scanned data set.

    Texts are decoded by Specific Character Set (0008,0005). Numbers that are no numbers
    (text, NaN, infinite) are ``None`` and are told in ``Instance.warnings``; so are
    characters that could not be decoded. Attributes that the header does not have, or has
    empty, are absent from ``Instance.attributes``.

    Args:
        scan: the scanned header.
        sha256: SHA-256 of the encoded data set, hexadecimal.
        location: where the Part 10 file lies.
        like: the object before, where this is one of many that are alike: what has the same
            bytes is not decoded again; the result is the same with and without.
    """
    values = HeaderValues(scan.elements, scan.encoding)
    changed = None if like is None else _changed(scan, *like)
    attributes: Mapping[str, str]
    if like is None or changed is None:
        parts = {name: make(values) for name, (_, make) in _PARTS.items()}
        attributes = _attributes(values, TEXT_ATTRIBUTES, NUMBER_ATTRIBUTES, CODE_ATTRIBUTES)
    else:
        before = like[1]
        parts = {
            name: getattr(before, name) if tags.isdisjoint(changed) else make(values)
            for name, (tags, make) in _PARTS.items()
        }
        attributes = _changed_attributes(values, before, changed)
    return Instance(
        sop_instance_uid=scan.sop_instance_uid,
        sop_class_uid=scan.sop_class_uid,
        series_instance_uid=scan.series_instance_uid,
        study_instance_uid=scan.study_instance_uid,
        transfer_syntax_uid=scan.transfer_syntax_uid,
        sha256=sha256,
        location=location,
        attributes=attributes,
        warnings=(*scan.warnings, *values.warnings),
        **parts,
    )


def _changed(scan: HeaderScan, before: HeaderScan, instance: Instance) -> set[int] | None:
    """Tags whose values are others than those of the object before; None where more differs than
    values, or a value of that one could not be read."""
    old, new = before.elements, scan.elements
    if instance.warnings or scan.encoding != before.encoding or old.keys() != new.keys():
        return None
    changed = {tag for tag, raw in new.items() if old[tag] != raw}
    return None if _SPECIFIC_CHARACTER_SET in changed else changed


def _changed_attributes(
    values: HeaderValues, before: Instance, changed: set[int]
) -> Mapping[str, str]:
    texts = {tag: TEXT_ATTRIBUTES[tag] for tag in changed & TEXT_ATTRIBUTES.keys()}
    numbers = {tag: NUMBER_ATTRIBUTES[tag] for tag in changed & NUMBER_ATTRIBUTES.keys()}
    if changed & CODE_ATTRIBUTES.keys():
        return _attributes(values, TEXT_ATTRIBUTES, NUMBER_ATTRIBUTES, CODE_ATTRIBUTES)
    if not (texts or numbers):
        return before.attributes
    attributes = dict(before.attributes)
    for keyword in (*texts.values(), *numbers.values()):
        attributes.pop(keyword, None)
    return attributes | _attributes(values, texts, numbers, {})


def identifying_texts(scan: HeaderScan) -> tuple[tuple[str, str], ...]:
    """(Name and tag, decoded text) of what tells one patient from another; empty where absent."""
    values = HeaderValues(scan.elements, scan.encoding)
    return (
        ("PatientID (0010,0020)", values.text(_PATIENT_ID)),
        ("IssuerOfPatientID (0010,0021)", values.text(_ISSUER_OF_PATIENT_ID)),
    )


def _patient(values: HeaderValues) -> PatientIdentity:
    return PatientIdentity(
        patient_id=values.text(_PATIENT_ID),
        issuer_of_patient_id=values.text(_ISSUER_OF_PATIENT_ID),
        patient_name=values.text(_PATIENT_NAME),
        patient_birth_date=values.text(_PATIENT_BIRTH_DATE),
        patient_sex=values.text(_PATIENT_SEX),
    )


def _attributes(
    values: HeaderValues,
    texts: Mapping[int, str],
    numbers: Mapping[int, str],
    codes: Mapping[int, str],
) -> dict[str, str]:
    """Of so many elements: tag -> key in ``Instance.attributes``."""
    present = values.elements
    attributes: dict[str, str] = {}
    for tag, keyword in texts.items():
        if tag in present:
            text = values.text(tag)
            if text and (tag not in _DECIMALS or values.decimals(tag, 1)):
                attributes[keyword] = text
    for tag, keyword in numbers.items():
        number = values.unsigned(tag)
        if number is not None:
            attributes[keyword] = str(number)
    for tag, keyword in codes.items():
        if tag in present:
            attributes |= _code_attributes(values, tag, keyword)
    return attributes


def _code_attributes(values: HeaderValues, tag: int, keyword: str) -> dict[str, str]:
    try:
        item = first_item(
            values.elements[tag], values.encoding, frozenset((_CODE_VALUE, _CODE_MEANING))
        )
    except RejectedError:
        values.warnings.append(f"{tag_name(tag)} cannot be read")
        return {}
    found = {keyword: _CODE_MEANING, f"{keyword}_code": _CODE_VALUE}
    return {
        name: text
        for name, part in found.items()
        if (text := values.decoded(part, item.get(part, b"")))
    }


def _issuer_of_accession_number(values: HeaderValues) -> str:
    """Local Namespace Entity ID, or else Universal Entity ID (PS3.3 Table 10-17)."""
    raw = values.elements.get(_ISSUER_OF_ACCESSION_NUMBER_SEQUENCE)
    if not raw:
        return ""
    try:
        item = first_item(raw, values.encoding, frozenset(_ENTITY_IDS))
    except RejectedError:
        values.warnings.append("IssuerOfAccessionNumberSequence (0008,0051) cannot be read")
        return ""
    for tag in _ENTITY_IDS:
        text = values.decoded(tag, item.get(tag, b""))
        if text:
            return text
    return ""


_Part = tuple[frozenset[int], Callable[[HeaderValues], Any]]


def _part(make: Callable[[HeaderValues], Any], *tags: int) -> _Part:
    return frozenset(tags), make


def _text(tag: int) -> _Part:
    return _part(lambda values: values.text(tag), tag)


def _integer(tag: int) -> _Part:
    return _part(lambda values: values.integer(tag), tag)


def _unsigned(tag: int) -> _Part:
    return _part(lambda values: values.unsigned(tag), tag)


def _decimals(tag: int, count: int) -> _Part:
    return _part(lambda values: tuple(values.decimals(tag, count) or ()) or None, tag)


def _thickness(values: HeaderValues) -> float | None:
    found = values.decimals(_SLICE_THICKNESS, 1)
    return found[0] if found else None


_PARTS: Mapping[str, _Part] = {
    "image_position_patient": _decimals(_IMAGE_POSITION_PATIENT, 3),
    "image_orientation_patient": _decimals(_IMAGE_ORIENTATION_PATIENT, 6),
    "pixel_spacing": _decimals(_PIXEL_SPACING, 2),
    "slice_thickness": _part(_thickness, _SLICE_THICKNESS),
    "patient": _part(
        _patient,
        _PATIENT_ID,
        _ISSUER_OF_PATIENT_ID,
        _PATIENT_NAME,
        _PATIENT_BIRTH_DATE,
        _PATIENT_SEX,
    ),
    "accession_number": _text(_ACCESSION_NUMBER),
    "issuer_of_accession_number": _part(
        _issuer_of_accession_number, _ISSUER_OF_ACCESSION_NUMBER_SEQUENCE
    ),
    "modality": _text(_MODALITY),
    "instance_number": _integer(_INSTANCE_NUMBER),
    "rows": _unsigned(_ROWS),
    "columns": _unsigned(_COLUMNS),
    "number_of_frames": _integer(_NUMBER_OF_FRAMES),
    "frame_of_reference_uid": _text(_FRAME_OF_REFERENCE_UID),
}
"""Field of `Instance` -> (the elements that it is made of, how)."""
