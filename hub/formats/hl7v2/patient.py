"""What an ADT message says became of a patient (HL7 v2.5.1 chapter 3).

====================  ==========================================================================
event                 meaning
====================  ==========================================================================
A08, A31              name, birth date or sex: PID says what they are now
A18, A34, A40         merge: the IDs of MRG-1 are no more, their patient is that of the PID before
A47                   the same patient got another ID: MRG-1 the old one, PID-3 the new one
====================  ==========================================================================

A patient may have several IDs (PID-3 repeats), and images may name any of them: an update is a
change of each, and a merged ID becomes that of the same assigner, or else the first one. An ID that
both have stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from hub.domain.identity import PatientIdentity, derived_uuid
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.formats.hl7v2.message import (
    DATA_TYPE_ERROR,
    NULL,
    REQUIRED_FIELD_MISSING,
    UNSUPPORTED_EVENT,
    UNSUPPORTED_MESSAGE_TYPE,
    Message,
    MessageError,
    Segment,
)

EVENTS = {
    "A08": PatientChangeKind.UPDATED,
    "A31": PatientChangeKind.UPDATED,
    "A18": PatientChangeKind.MERGED,
    "A34": PatientChangeKind.MERGED,
    "A40": PatientChangeKind.MERGED,
    "A47": PatientChangeKind.IDENTIFIER_CHANGED,
}

_PID, _MRG = "PID", "MRG"
_MOST_CHANGES = 200
"""Of one message: each is written on its own, and the sender waits. One patient has a few."""
_LONGEST_IDENTIFIER = 64
"""DICOM LO (PS3.5 6.2)."""
_LONGEST_NAME_PART = 64
_DATE_LENGTH = 8
_SEXES = {"M": "M", "F": "F", "O": "O", "A": "O"}
"""Table 0001 -> (0010,0040); U and N say nothing."""
_NAME_TYPES = ("L", "", "D", "U")
"""Table 0200: legal, not said, display, unspecified; the first that a patient has."""
_GROUPS = {"": 0, "A": 0, "I": 1, "P": 2}
"""Table 0465 -> the component group of a DICOM person name."""


@dataclass(frozen=True, slots=True)
class IdentifierRules:
    """Which identifiers of a message are patient IDs as images have them."""

    types: tuple[str, ...] = ("MR", "PI", "PT")
    """CX-5 (table 0203), the preferred first; those without a type count as well."""
    issuers: Mapping[str, str] = field(default_factory=dict)
    """Assigning authority (CX-4: its namespace or its universal ID) -> Issuer of Patient ID as in
    the images, empty where they name none. Where it lists any, others do not count; where it
    lists none, the issuer is the namespace."""


@dataclass(frozen=True, slots=True)
class _Identifier:
    patient_id: str
    issuer: str
    rank: int
    """Place of its type in ``IdentifierRules.types``."""

    @property
    def key(self) -> tuple[str, str]:
        return (self.patient_id, self.issuer)


def patient_changes(
    message: Message, rules: IdentifierRules, source: str, received_at: datetime
) -> tuple[PatientChange, ...]:
    """What a message says, in its order; the same message gives the same ``change_id``.

    Args:
        message: of type ADT.
        rules: which identifiers count.
        source: who received it.
        received_at: when; changes of one message are a microsecond apart, so that their order is
            kept.

    Raises:
        MessageError: it is of no event above, or does not say whom it is about. No patient data.
    """
    kind = _kind_of(message)
    about = list(_pairs(message) if kind is not PatientChangeKind.UPDATED else _updated(message))
    if not about:
        missing = _PID if kind is PatientChangeKind.UPDATED else _MRG
        raise MessageError(f"the message has no {missing}", REQUIRED_FIELD_MISSING, missing)
    every = (one for pid, merged in about for one in _said(pid, merged, rules))
    said = list(islice(every, _MOST_CHANGES + 1))
    if len(said) > _MOST_CHANGES:
        text = f"the message is about more than {_MOST_CHANGES} identifiers"
        raise MessageError(text, DATA_TYPE_ERROR)
    return tuple(
        PatientChange(
            change_id=_change_id(message, kind, identifier, current, number),
            kind=kind,
            patient_id=identifier.patient_id,
            issuer_of_patient_id=identifier.issuer,
            current=current,
            source=source,
            received_at=received_at + timedelta(microseconds=number),
        )
        for number, (identifier, current) in enumerate(said)
    )


def _kind_of(message: Message) -> PatientChangeKind:
    code, event = message.header.text(9, 1), message.header.text(9, 2)
    if code != "ADT":
        raise MessageError("only ADT is taken", UNSUPPORTED_MESSAGE_TYPE, "MSH^1^9")
    kind = EVENTS.get(event)
    if kind is None:
        raise MessageError("this event of ADT is not taken", UNSUPPORTED_EVENT, "MSH^1^9")
    return kind


def _updated(message: Message) -> Iterator[tuple[Segment, None]]:
    return ((pid, None) for pid in message.all(_PID))


def _pairs(message: Message) -> Iterator[tuple[Segment, Segment]]:
    """Each MRG with the PID before it (A40 and A47 may repeat them)."""
    pid = None
    for one in message.segments:
        if one.name == _PID:
            pid = one
        elif one.name == _MRG and pid is not None:
            yield pid, one


def _said(
    pid: Segment, merged: Segment | None, rules: IdentifierRules
) -> Iterator[tuple[_Identifier, PatientIdentity]]:
    """Whom it is about, and as whom the patient goes on."""
    now = _identifiers(pid, 3, rules)
    if merged is None:
        for one in now:
            yield one, _patient(pid, one)
        return
    said = [(old, _successor(old, now)) for old in _identifiers(merged, 1, rules)]
    if all(new is None for _, new in said):
        raise MessageError("old and new ID are the same", DATA_TYPE_ERROR, "MRG^1^1")
    yield from ((old, _patient(pid, new)) for old, new in said if new is not None)


def _successor(old: _Identifier, now: Sequence[_Identifier]) -> _Identifier | None:
    """What becomes of an ID; None: it stays, as that of another assigner often does."""
    others = [one for one in now if one.key != old.key]
    same = [one for one in others if one.issuer == old.issuer]
    if same:
        return same[0]
    return others[0] if len(others) == len(now) else None


def _change_id(
    message: Message,
    kind: PatientChangeKind,
    identifier: _Identifier,
    current: PatientIdentity,
    number: int,
) -> str:
    """Of sender, time and control ID, and of what it says: senders begin to count anew."""
    header = message.header
    sent = (header.field(3), header.field(4), header.field(7), header.field(10))
    said = (kind.value, *identifier.key, repr(current), str(number))
    return str(derived_uuid("patient-change", *sent, *said))


# --- identifiers -----------------------------------------------------------------------------


def _identifiers(segment: Segment, number: int, rules: IdentifierRules) -> list[_Identifier]:
    """Those that count, the preferred first.

    Raises:
        MessageError: there is none, or one that no image can have.
    """
    found = []
    for repetition in segment.repetitions(number):
        identifier = _identifier(segment, repetition, rules)
        if identifier is not None:
            found.append(identifier)
    location = f"{segment.name}^1^{number}"
    if not found:
        text = "there is no identifier of a patient that counts"
        raise MessageError(text, REQUIRED_FIELD_MISSING, location)
    if not all(_is_possible(text) for one in found for text in one.key):
        text = "an identifier is longer than 64 characters, or has some that DICOM does not allow"
        raise MessageError(text, DATA_TYPE_ERROR, location)
    return sorted(dict.fromkeys(found), key=lambda one: one.rank)


def _identifier(segment: Segment, repetition: str, rules: IdentifierRules) -> _Identifier | None:
    patient_id = segment.part(repetition, 1)
    namespace, universal = segment.part(repetition, 4, 1), segment.part(repetition, 4, 2)
    type_code = segment.part(repetition, 5)
    if patient_id in ("", NULL) or (type_code and type_code not in rules.types):
        return None
    rank = rules.types.index(type_code) if type_code else len(rules.types)
    if not rules.issuers:
        return _Identifier(patient_id, namespace or universal, rank)
    for name in (namespace, universal):
        if name in rules.issuers:
            return _Identifier(patient_id, rules.issuers[name], rank)
    return None


def _is_possible(text: str) -> bool:
    return len(text) <= _LONGEST_IDENTIFIER and "\\" not in text and text.isprintable()


# --- demographics ----------------------------------------------------------------------------


def _patient(pid: Segment, identifier: _Identifier) -> PatientIdentity:
    return PatientIdentity(
        patient_id=identifier.patient_id,
        issuer_of_patient_id=identifier.issuer,
        patient_name=_name(pid),
        patient_birth_date=_birth_date(pid.text(7)),
        patient_sex=_SEXES.get(pid.text(8), ""),
    )


def _name(pid: Segment) -> str:
    """PID-5 as a DICOM person name: the best type of name, in all its representations."""
    names = pid.repetitions(5)
    for name_type in _NAME_TYPES:
        groups = ["", "", ""]
        for one in names:
            group = _GROUPS.get(pid.part(one, 8))
            if pid.part(one, 7) == name_type and group is not None and not groups[group]:
                groups[group] = _component_group(pid, one)
        if any(groups):
            return "=".join(groups).rstrip("=")
    return ""


def _component_group(pid: Segment, name: str) -> str:
    """XPN is family, given, middle, suffix, prefix; DICOM has the prefix before the suffix."""
    parts = (pid.part(name, number) for number in (1, 2, 3, 5, 4))
    return "^".join(_name_part(part) for part in parts).rstrip("^")


def _name_part(text: str) -> str:
    if text == NULL:
        return ""
    plain = "".join(" " if mark in "^=\\" or not mark.isprintable() else mark for mark in text)
    return plain.strip()[:_LONGEST_NAME_PART]


def _birth_date(text: str) -> str:
    """The day of a TS; empty where it is not that precise."""
    day = text[:_DATE_LENGTH]
    if len(day) != _DATE_LENGTH or not (day.isascii() and day.isdecimal()):
        return ""
    try:
        datetime.strptime(day, "%Y%m%d")  # noqa: DTZ007 - a day
    except ValueError:
        return ""
    return day
