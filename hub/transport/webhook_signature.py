"""Signatures of the Standard Webhooks specification (version 1.0.0, scheme ``v1``)."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
"""Bytes of a secret."""


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
