"""What a STOW-RS response says about one instance (PS3.18 10.5.3, PS3.18 annex I.2)."""

from __future__ import annotations

import re
from typing import Any

from connectors.dicomweb.archive_answers import text_of
from hub.errors import RejectedError, TransientError

_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_WARNING_REASON, _FAILURE_REASON = 0x00081196, 0x00081197
_REFERENCED_SOP_SEQUENCE, _FAILED_SOP_SEQUENCE = "00081199", "00081198"
_DUPLICATES = frozenset({0x0111, 45070})
"""Duplicate SOP instance (PS3.7 annex C), and what Azure says for it. Our objects never change
once made, so the one that is there is the one that we sent before."""
_NEVER = frozenset({0x0106, 0x0115, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0122, 0x0124})
"""Wrong value, instance or class, class not supported, not authorised (PS3.7 annex C)."""
_US = re.compile(r"[0-9]{1,5}")


def is_stored(body: Any, sop_instance_uid: str, said: str) -> str | None:
    """Whether the server stored an instance.

    Args:
        body: DICOM JSON (PS3.18 annex F), or anything else.
        sop_instance_uid: of the instance.
        said: begins the error's message.

    Returns:
        A remark of the server's (empty without one); None where the response does not name the
        instance.

    Raises:
        TransientError: the server could not store it now.
        RejectedError: the server will never store it.
    """
    failure = _item(body, _FAILED_SOP_SEQUENCE, sop_instance_uid)
    if failure is not None:
        reason = _number(failure, _FAILURE_REASON)
        if reason in _DUPLICATES:
            return " (was there already)"
        shown = f"{said}, failure reason 0x{reason:04X}"
        raise RejectedError(shown) if _is_for_ever(reason) else TransientError(shown)
    stored = _item(body, _REFERENCED_SOP_SEQUENCE, sop_instance_uid)
    if stored is None:
        return None
    warning = _number(stored, _WARNING_REASON)
    return f" (warning 0x{warning:04X})" if warning else ""


def _is_for_ever(reason: int) -> bool:
    """0xA9xx: data set does not match; 0xCxxx: cannot understand (PS3.18 table I.2-2)."""
    return reason >> 8 == 0xA9 or reason >> 12 == 0xC or reason in _NEVER  # noqa: PLR2004


def _item(body: Any, tag: str, sop_instance_uid: str) -> dict[str, Any] | None:
    for one in body if isinstance(body, list) else [body]:
        element = one.get(tag) if isinstance(one, dict) else None
        items = element.get("Value") if isinstance(element, dict) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and _names(item, sop_instance_uid):
                return item
    return None


def _names(item: dict[str, Any], sop_instance_uid: str) -> bool:
    return text_of(item, _REFERENCED_SOP_INSTANCE_UID) == sop_instance_uid


def _number(item: dict[str, Any], tag: int) -> int:
    text = text_of(item, tag)
    return int(text) if _US.fullmatch(text) else 0
