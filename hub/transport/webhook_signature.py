"""Signatures of the Standard Webhooks specification (version 1.0.0, scheme ``v1``)."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from hub.errors import RejectedError

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
"""Bytes of a secret."""
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,200}")
"""Visible ASCII without the full stop, which parts what is signed."""
_TIMESTAMP = re.compile(r"[0-9]{1,11}")
_MOST_SIGNATURES = 16
_TOLERANCE = timedelta(minutes=5)


def key_of(secret: str) -> bytes:
    """The key that a secret is written for.

    Raises:
        ValueError: it is none; its text is not repeated.
    """
    if not secret.startswith(_PREFIX):
        raise ValueError(f"must begin with {_PREFIX}")
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise ValueError(f"must be base64 after {_PREFIX}") from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"must have {_SHORTEST} to {_LONGEST} bytes")
    return key


def signed_headers(
    webhook_id: str, now: datetime, body: bytes, keys: Sequence[bytes]
) -> Mapping[str, str]:
    """The headers of a request: one signature by each key, over id, time and body.

    Args:
        webhook_id: the same for every attempt, so that a receiver can tell repetitions.
        now: of this attempt; receivers refuse what is older than some minutes.
        body: as it is sent.
        keys: see ``key_of``.
    """
    timestamp = str(int(now.timestamp()))
    signed = b".".join((webhook_id.encode(), timestamp.encode(), body))
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{b64encode(one).decode()}" for one in digests),
    }


def verified(
    headers: Mapping[str, str],
    body: bytes,
    keys: Sequence[bytes],
    now: datetime,
    tolerance: timedelta = _TOLERANCE,
) -> str:
    """The identifier of a message whose signature is right; its receiver takes each once.

    Args:
        headers: of the request, names in lower case.
        body: as it came.
        keys: see ``key_of``; several while the sender changes from one to the other.
        now: UTC.
        tolerance: how much older or newer a message may be.

    Raises:
        RejectedError: it is not signed, not by one of the keys, or not now; no secret is told.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "").split()
    if not message_id or not timestamp or not given:
        raise RejectedError("the message is not signed (webhook-id, -timestamp, -signature)")
    if not _MESSAGE_ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise RejectedError("webhook-id or webhook-timestamp cannot be read")
    if abs(now.timestamp() - int(timestamp)) > tolerance.total_seconds():
        raise RejectedError("webhook-timestamp is too old, or in the future")
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    right = False
    for key in keys:
        digest = b64encode(hmac.new(key, signed, hashlib.sha256).digest())
        for one in given[:_MOST_SIGNATURES]:  # each compared, in constant time
            right |= hmac.compare_digest(one.encode(errors="replace"), b"v1," + digest)
    if not right:
        raise RejectedError("no signature is right")
    return message_id
