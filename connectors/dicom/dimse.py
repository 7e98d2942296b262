"""DIMSE command sets (PS3.7 chapters 6, 9 and 10): group 0000 in Implicit VR Little Endian.

A codec of our own: bounded in length and in the number of elements, without recursion, since no
command element is a sequence. Elements that nobody knows are jumped over.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

MAXIMUM_COMMAND_LENGTH = 64 * 1024
"""Bytes of a command set; real ones have a few hundred."""
MAXIMUM_ELEMENTS = 64
"""Elements of a command set; the standard knows of 30."""

NO_DATA_SET = 0x0101
"""Command Data Set Type (0000,0800) of a message without data set."""
RESPONSE = 0x8000
"""Bit that tells a response's Command Field from its request's (PS3.7 E.1)."""


class CommandField(IntEnum):
    """Command Field (0000,0100), PS3.7 E.1: those that an answer here depends on."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    C_CANCEL_RQ = 0x0FFF


class Tag(IntEnum):
    """Command elements (PS3.7 E.1), by their element number in group 0000."""

    COMMAND_GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008


class InvalidCommandError(Exception):
    """A command set that cannot be read."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command set as it came; texts are empty and numbers None where it has none."""

    field: int
    message_id: int | None
    responded_to: int | None
    """Message ID Being Responded To (0000,0120)."""
    sop_class_uid: str
    """Affected or, in N-SET, N-GET, N-ACTION and N-DELETE, Requested SOP Class UID."""
    sop_instance_uid: str
    """Affected or Requested SOP Instance UID, trimmed but not checked."""
    has_data_set: bool
    status: int | None
    action_type_id: int | None
    event_type_id: int | None
    requested: bool
    """Whether it names class and instance by the Requested elements."""

    @property
    def is_request(self) -> bool:
        return not self.field & RESPONSE


_HEAD = struct.Struct("<HHI")
_UNSIGNED_SHORT = struct.Struct("<H")
_NUMBERS = frozenset(
    {
        Tag.COMMAND_FIELD,
        Tag.MESSAGE_ID,
        Tag.MESSAGE_ID_BEING_RESPONDED_TO,
        Tag.COMMAND_DATA_SET_TYPE,
        Tag.STATUS,
        Tag.EVENT_TYPE_ID,
        Tag.ACTION_TYPE_ID,
    }
)
_UIDS = frozenset(
    {
        Tag.AFFECTED_SOP_CLASS_UID,
        Tag.REQUESTED_SOP_CLASS_UID,
        Tag.AFFECTED_SOP_INSTANCE_UID,
        Tag.REQUESTED_SOP_INSTANCE_UID,
    }
)
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z")
_MAXIMUM_UID_LENGTH = 64


def decode_command(raw: bytes | bytearray) -> Command:
    """Read a command set.

    Raises:
        InvalidCommandError: it breaks off, holds an element twice or of another group, a number
            is not one unsigned short, or it names no command or no message.
    """
    numbers, uids = _elements(raw)
    field, data_set_type = numbers.get(Tag.COMMAND_FIELD), numbers.get(Tag.COMMAND_DATA_SET_TYPE)
    if field is None or data_set_type is None:
        raise InvalidCommandError("the command set names no command")
    if Tag.MESSAGE_ID not in numbers and Tag.MESSAGE_ID_BEING_RESPONDED_TO not in numbers:
        raise InvalidCommandError("the command set has no Message ID")
    requested = Tag.REQUESTED_SOP_CLASS_UID in uids
    sop_class, instance = (
        (Tag.REQUESTED_SOP_CLASS_UID, Tag.REQUESTED_SOP_INSTANCE_UID)
        if requested
        else (Tag.AFFECTED_SOP_CLASS_UID, Tag.AFFECTED_SOP_INSTANCE_UID)
    )
    return Command(
        field=field,
        message_id=numbers.get(Tag.MESSAGE_ID),
        responded_to=numbers.get(Tag.MESSAGE_ID_BEING_RESPONDED_TO),
        sop_class_uid=uids.get(sop_class, ""),
        sop_instance_uid=uids.get(instance, ""),
        has_data_set=data_set_type != NO_DATA_SET,
        status=numbers.get(Tag.STATUS),
        action_type_id=numbers.get(Tag.ACTION_TYPE_ID),
        event_type_id=numbers.get(Tag.EVENT_TYPE_ID),
        requested=requested,
    )


def _elements(raw: bytes | bytearray) -> tuple[dict[int, int], dict[int, str]]:
    """Numbers and UIDs by element number; all else is only stepped over."""
    numbers, uids = dict[int, int](), dict[int, str]()
    seen, position, end = set[int](), 0, len(raw)
    while position < end:
        if end - position < _HEAD.size:
            raise InvalidCommandError("the command set breaks off")
        group, element, length = _HEAD.unpack_from(raw, position)
        start = position + _HEAD.size
        position = start + length
        if group or position > end:
            raise InvalidCommandError("an element is of another group, or runs past the end")
        if element in seen or len(seen) == MAXIMUM_ELEMENTS:
            raise InvalidCommandError("an element is there twice, or there are too many")
        seen.add(element)
        if element in _NUMBERS:
            if length != _UNSIGNED_SHORT.size:
                raise InvalidCommandError("a number is not one unsigned short")
            (numbers[element],) = _UNSIGNED_SHORT.unpack_from(raw, start)
        elif element in _UIDS:
            uids[element] = raw[start:position].decode("ascii", "replace").rstrip("\0 ")
    return numbers, uids


def is_uid(text: str) -> bool:
    """Digits and dots, at most 64 (PS3.5 9.1); leading zeros in a component are tolerated."""
    return len(text) <= _MAXIMUM_UID_LENGTH and _UID.match(text) is not None


def encode_response(
    request: Command, status: int, *, error_comment: str = "", sop_instance_uid: str = ""
) -> bytes:
    """The response to a request, without a data set (PS3.7 chapters 9.3 and 10.3).

    ``error_comment`` is ASCII of at most 64 characters; ``sop_instance_uid`` is for an N-CREATE
    that left it to us. UIDs of the request that are none are not sent back.
    """
    named = [
        (Tag.AFFECTED_SOP_CLASS_UID, request.sop_class_uid),
        (Tag.AFFECTED_SOP_INSTANCE_UID, sop_instance_uid or request.sop_instance_uid),
    ]
    values = {tag: _uid(uid) for tag, uid in named if is_uid(uid)}
    values[Tag.COMMAND_FIELD] = _short(request.field | RESPONSE)
    values[Tag.MESSAGE_ID_BEING_RESPONDED_TO] = _short(request.message_id or 0)
    values[Tag.COMMAND_DATA_SET_TYPE] = _short(NO_DATA_SET)
    values[Tag.STATUS] = _short(status)
    if request.action_type_id is not None and not status:
        values[Tag.ACTION_TYPE_ID] = _short(request.action_type_id)
    if error_comment:
        values[Tag.ERROR_COMMENT] = _text(error_comment)
    return encode_command(values)


def encode_event_report(
    message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type_id: int
) -> bytes:
    """N-EVENT-REPORT-RQ with a data set (PS3.7 10.3.1.1)."""
    return encode_command(
        {
            Tag.AFFECTED_SOP_CLASS_UID: _uid(sop_class_uid),
            Tag.COMMAND_FIELD: _short(CommandField.N_EVENT_REPORT_RQ),
            Tag.MESSAGE_ID: _short(message_id),
            Tag.COMMAND_DATA_SET_TYPE: _short(0x0001),
            Tag.AFFECTED_SOP_INSTANCE_UID: _uid(sop_instance_uid),
            Tag.EVENT_TYPE_ID: _short(event_type_id),
        }
    )


def encode_command(values: dict[Tag, bytes]) -> bytes:
    """A command set with its group length, in the order of the tags."""
    body = b"".join(_HEAD.pack(0, tag, len(value)) + value for tag, value in sorted(values.items()))
    return _HEAD.pack(0, Tag.COMMAND_GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def _short(value: int) -> bytes:
    return _UNSIGNED_SHORT.pack(value)


def _uid(uid: str) -> bytes:
    raw = uid.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)


def _text(text: str) -> bytes:
    raw = text.encode("ascii")
    return raw + b" " * (len(raw) % 2)
