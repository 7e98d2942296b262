"""What the simulated vendor does to the hub."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

import orjson

Answering = Literal["sync", "poll", "webhook"]
Json = dict[str, Any]


class Behaviour(StrEnum):
    """One way to behave (docs/contract, README)."""

    OK = "ok"
    """Answers."""
    SLOW = "slow"
    """Answers after the delay."""
    POLL = "poll"
    """Says "later", and has the answer after the delay."""
    LATE_WEBHOOK = "late-webhook"
    """Says "later", and posts the signed answer after the delay."""
    NEVER = "never"
    """Says "later", for ever."""
    UNSUITABLE = "unsuitable"
    """The input is outside the intended use."""
    FAILED = "failed"
    """Says that it cannot, for good."""
    WRONG_STUDY = "wrong-study"
    """Its result is about another examination."""
    WRONG_REQUEST = "wrong-request"
    """Its result is about another request."""
    WRONG_MODEL = "wrong-model"
    """Another version of the model answers."""
    GARBAGE = "garbage"
    """JSON that breaks the contract: a misspelt field, no number, no such presence."""
    NOT_JSON = "not-json"
    """A page of HTML, with status 200."""
    HTTP_500 = "http-500"
    HTTP_429 = "http-429"
    """Too many requests; Retry-After is one second."""
    HTTP_401 = "http-401"
    REDIRECT = "redirect"
    """307 to a path of its own, which counts who comes."""
    HANG = "hang"
    """Reads the request and says nothing."""
    DRIP = "drip"
    """Answers a byte at a time."""
    HUGE = "huge"
    """Answers without end."""
    CLOSE = "close"
    """Reads the request and hangs up."""
    LOST_REPLY = "lost-reply"
    """Works on the request and hangs up; who asks again gets the same answer."""
    DUPLICATE_WEBHOOK = "duplicate-webhook"
    """As late-webhook, and posts the answer twice, signed anew."""
    UNSIGNED_WEBHOOK = "unsigned-webhook"
    """As late-webhook, without a signature."""
    OLD_WEBHOOK = "old-webhook"
    """As late-webhook, signed an hour ago."""
    REPLAYED_WEBHOOK = "replayed-webhook"
    """As late-webhook, and somebody who overheard the first message sends it again: at once, and to
    the callback of each later request."""


BY_WEBHOOK = frozenset(
    {
        Behaviour.LATE_WEBHOOK,
        Behaviour.DUPLICATE_WEBHOOK,
        Behaviour.UNSIGNED_WEBHOOK,
        Behaviour.OLD_WEBHOOK,
        Behaviour.REPLAYED_WEBHOOK,
    }
)
LATE = BY_WEBHOOK | {Behaviour.SLOW, Behaviour.POLL}
"""Those that the delay is for."""
WITHOUT_READING = frozenset(
    {
        Behaviour.HTTP_500,
        Behaviour.HTTP_429,
        Behaviour.HTTP_401,
        Behaviour.REDIRECT,
        Behaviour.HANG,
        Behaviour.HUGE,
        Behaviour.CLOSE,
    }
)
"""Those that never look at what they were sent."""
WRONG_STUDY_INSTANCE_UID = "2.25.999999999999999999999999999999999999"
WRONG_REQUEST_ID = "ffffffffffffffffffffffffffffffff"


def usual_answering(behaviour: Behaviour) -> Answering:
    """How a behaviour answers where nobody says."""
    if behaviour in BY_WEBHOOK:
        return "webhook"
    return "poll" if behaviour in (Behaviour.POLL, Behaviour.NEVER) else "sync"


def spoilt(answer: bytes, behaviour: Behaviour) -> bytes:
    """The answer as this behaviour gives it."""
    if behaviour is Behaviour.NOT_JSON:
        return b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"
    change = _CHANGES.get(behaviour)
    if change is None:
        return answer
    message: Json = orjson.loads(answer)
    change(message)
    return orjson.dumps(message)


def _wrong_study(message: Json) -> None:
    message["study_instance_uid"] = WRONG_STUDY_INSTANCE_UID


def _wrong_request(message: Json) -> None:
    message["request_id"] = WRONG_REQUEST_ID


def _wrong_model(message: Json) -> None:
    message["model"] = {"id": message["model"]["id"], "version": "0.0.0-other"}


def _garbage(message: Json) -> None:
    for finding in message.get("findings", []):
        finding["lateralty"] = finding.pop("laterality", None)
        finding["probability"] = "high"
        if "presence" in finding:
            finding["presence"] = "maybe"


def _unsuitable(message: Json) -> None:
    _keep_head(message)
    message["status"] = "unsuitable"
    message["reasons"] = ["The input is outside the intended use of the simulated model."]


def _failed(message: Json) -> None:
    _keep_head(message)
    message |= {"status": "failed", "reason": "internal-error", "retryable": False}
    message["reference"] = "simulated"


def _keep_head(message: Json) -> None:
    kept = {"contract": message["contract"], "request_id": message["request_id"]}
    message.clear()
    message |= kept


_CHANGES: dict[Behaviour, Callable[[Json], None]] = {
    Behaviour.WRONG_STUDY: _wrong_study,
    Behaviour.WRONG_REQUEST: _wrong_request,
    Behaviour.WRONG_MODEL: _wrong_model,
    Behaviour.GARBAGE: _garbage,
    Behaviour.UNSUITABLE: _unsuitable,
    Behaviour.FAILED: _failed,
}
