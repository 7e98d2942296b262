"""DIMSE statuses: what we answer, and what a destination's answer means.

C-STORE statuses are in PS3.4 Table B.2-1, the general ones in PS3.7 annex C.
"""

from __future__ import annotations

from enum import Enum

from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.dicom.header import scan_header
from hub.ports import ReceivedObject

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
"""Refused: out of resources. The sender may try again (PS3.4 B.2.3)."""
DATA_SET_DOES_NOT_MATCH = 0xA900
"""Error: data set does not match SOP class, or the instance that the message names."""
CANNOT_UNDERSTAND = 0xC000
"""Error: cannot understand. The same object can never be stored."""
PROCESSING_FAILURE = 0x0110
"""A fault of ours (PS3.7 C.5.13); says nothing about the object."""
INVALID_OBJECT_INSTANCE = 0x0117
"""The SOP Instance UID of the message is no UID (PS3.7 C.5.6)."""
NO_SUCH_SOP_CLASS = 0x0118
"""A DIMSE-N message is of another SOP class than its presentation context (PS3.7 annex C.5)."""
SOP_CLASS_NOT_SUPPORTED = 0x0122
"""The message is of another SOP class than its presentation context (PS3.7 C.5.18)."""
UNRECOGNIZED_OPERATION = 0x0211
"""We do not perform this command (PS3.7 C.5.23)."""
RESOURCE_LIMITATION = 0x0213
"""The data set of a DIMSE-N request is longer than we take (PS3.7 C.5.16)."""

_ERROR_COMMENT_LENGTH = 64
"""Error Comment (0000,0902) has VR LO."""


def status_of(error: CaidxError, received: ReceivedObject) -> int:
    """The C-STORE status that tells a sender what to do about an error of ours."""
    if isinstance(error, TransientError):
        return OUT_OF_RESOURCES
    if isinstance(error, RejectedError):
        return DATA_SET_DOES_NOT_MATCH if _is_another_object(received) else CANNOT_UNDERSTAND
    return PROCESSING_FAILURE


def _is_another_object(received: ReceivedObject) -> bool:
    try:
        scan = scan_header(bytes(received.data_set), received.transfer_syntax_uid)
    except RejectedError:
        return False
    named = (received.sop_class_uid, received.sop_instance_uid)
    return named != (scan.sop_class_uid, scan.sop_instance_uid)


def error_comment(error: CaidxError) -> str:
    """The error for Error Comment (0000,0902): ASCII, at most 64 characters, no backslash."""
    text = str(error).encode("ascii", "replace").decode().replace("\\", "/")
    return " ".join(text.split())[:_ERROR_COMMENT_LENGTH]


class Verdict(Enum):
    """What a destination's status means for a delivery."""

    STORED = "stored"
    STORED_WITH_WARNING = "stored, with a warning"
    TRY_AGAIN = "try again"
    REFUSED = "refused"


_DUPLICATE_SOP_INSTANCE = 0x0111
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_NEVER = frozenset({0x0106, 0x0115, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0122, 0x0124})
"""Wrong value, instance or class, class not supported, not authorised (PS3.7 annex C)."""


def verdict_of(status: int) -> Verdict:
    """Read the status of a C-STORE-RSP (PS3.4 Table B.2-1, PS3.7 annex C).

    0x0111 (duplicate SOP instance) means stored: our objects never change once made, so the
    one that is there is the one that we sent before.
    """
    if status == SUCCESS:
        return Verdict.STORED
    if status >> 12 == 0xB or status in _WARNINGS or status == _DUPLICATE_SOP_INSTANCE:  # noqa: PLR2004
        return Verdict.STORED_WITH_WARNING
    if status >> 8 == 0xA9 or status >> 12 == 0xC or status in _NEVER:  # noqa: PLR2004
        return Verdict.REFUSED
    return Verdict.TRY_AGAIN
