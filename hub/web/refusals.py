"""Requests that the door refuses: how they are told, counted and logged, without a flood."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog

from hub.ports import Refuse

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[str, str]]

_LOG_SECONDS = 60.0
"""Of each reason one line in so long, with the number of all."""


class Refusal(StrEnum):
    """Why a request was refused; the label of the metric."""

    NO_KEY = "no-key"
    WRONG_KEY = "wrong-key"
    """None of this hub's, or not the whole of it."""
    REVOKED_KEY = "revoked-key"
    EXPIRED_KEY = "expired-key"
    WRONG_SCOPE = "wrong-scope"
    NO_SIGNATURE = "no-signature"
    NO_TOKEN = "no-token"  # noqa: S105 - a name
    WRONG_SIGNATURE = "wrong-signature"
    """An answer that no vendor has signed who was asked, or about no request."""
    REPLAYED_ANSWER = "replayed-answer"
    """This and the next are signed by the vendor, see `hub.store.callbacks.Taken`."""
    SECOND_ANSWER = "second-answer"
    UNASKED_ANSWER = "unasked-answer"
    LATE_ANSWER = "late-answer"


class Refusals:
    """The count of this process; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[Refusal] = Counter()
        self._told: dict[Refusal, tuple[float, int]] = {}
        """When a line was last written, and what the count was."""

    def count(self, reason: Refusal, address: str) -> bool:
        """One more; ``address`` is the client's. Returns whether a line was written, and not
        left out because there was one a moment ago."""
        with self._lock:
            self._counts[reason] += 1
            now, total = self._clock(), self._counts[reason]
            at, before = self._told.get(reason, (now - _LOG_SECONDS, 0))
            if now - at < _LOG_SECONDS:
                return False
            self._told[reason] = (now, total)
        structlog.get_logger().warning(
            "request refused", problem_kind=reason.value, requests=total - before, address=address
        )
        return True

    @property
    def counts(self) -> Mapping[str, int]:
        """Refused requests by reason, since the process began; all reasons."""
        with self._lock:
            return {reason.value: self._counts[reason] for reason in Refusal}


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal as it is told."""

    status: int
    detail: str
    headers: Headers = ()


def problem_document(status: int, detail: str, path: str) -> tuple[str, bytes]:
    """As ``application/problem+json`` (RFC 9457); DICOMweb tells its errors so, too."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": quote(path, safe="/"),
    }
    return "application/problem+json", json.dumps(document).encode()


async def send_refusal(
    answer: Answer, refuse: Refuse, path: str, send: Send, *, head_only: bool
) -> None:
    """Answer over ASGI.

    Args:
        answer: what to tell.
        refuse: makes the body in the protocol of the path.
        path: of the request.
        send: ASGI's.
        head_only: whether the request was HEAD.
    """
    media_type, body = refuse(answer.status, answer.detail, path)
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else body})
