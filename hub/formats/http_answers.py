"""What HTTP answers say about trying again (RFC 9110)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

_TRY_AGAIN = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


def is_taken(status: int) -> bool:
    """2xx."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later: 408, 425, 429 and 5xx."""
    return status in _TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3), seconds or a date; None without a valid one."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
