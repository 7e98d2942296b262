"""What became of an instance, as PS3.18 10.5 and PS3.4 annex B tell it."""

from __future__ import annotations

from hub.errors import CaidxError, RejectedError, TransientError

OUT_OF_RESOURCES = 0xA700
"""Refused: the client may send it again."""
DATA_SET_DOES_NOT_MATCH = 0xA900
"""It is not the object that the request says: another study, another class or instance."""
CANNOT_UNDERSTAND = 0xC000
"""The same bytes can never be stored."""
PROCESSING_FAILURE = 0x0110
"""A fault of ours; says nothing about the object."""

RETRY_AFTER_SECONDS = 5


def failure_reason(error: CaidxError) -> int:
    """Failure Reason (0008,1197) for an error of ours."""
    if isinstance(error, TransientError):
        return OUT_OF_RESOURCES
    return CANNOT_UNDERSTAND if isinstance(error, RejectedError) else PROCESSING_FAILURE
