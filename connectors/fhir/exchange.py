"""Requests and answers of the FHIR service over ASGI 3 (R4 http.html)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson

from hub.formats.asgi_scope import base_url, header_fields, path_below
from hub.formats.fhir.intake import Query, query_of
from hub.formats.fhir.json_text import FHIR_JSON
from hub.formats.fhir.outcome import Issue, Refused, operation_outcome

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Json = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
FORM = "application/x-www-form-urlencoded"

_JSON_TYPES = frozenset((FHIR_JSON, "application/json", "text/json", "json"))
_ANY = frozenset(("*/*", "application/*", "text/*"))
_FHIR_VERSION = re.compile(r'fhirVersion\s*=\s*"?([0-9.]+)', re.IGNORECASE)
_XML = "FHIR is spoken in JSON here, not in XML: application/fhir+json"


class ClientGoneError(Exception):
    """The connection broke: nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class FhirRequest:
    """One HTTP request with its body."""

    method: str
    path: tuple[str, ...]
    """Below the service's root, decoded, without empty pieces."""
    query: Query
    headers: Mapping[str, str]
    """Names in lower case."""
    base_url: str
    """The service's root, as the client calls it."""
    body: bytes = field(default=b"", repr=False)

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def preference(self, name: str) -> str:
        """A value of the header Prefer (RFC 7240): ``return=minimal``."""
        for part in re.split(r"[;,]", self.headers.get("prefer", "")):
            key, _, value = part.partition("=")
            if key.strip().lower() == name:
                return value.strip().strip('"')
        return ""

    @property
    def is_strict(self) -> bool:
        """R4 search.html: parameters that are not known are errors."""
        return self.preference("handling") == "strict"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    status: int
    resource: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def request_of(scope: Mapping[str, Any], root: str) -> FhirRequest:
    """Read an ASGI scope; the body comes later.

    Raises:
        Refused: 400, the query has too many parameters.
    """
    headers = header_fields(scope)
    return FhirRequest(
        method=scope["method"],
        path=path_below(scope, root),
        query=query_of(scope["query_string"].decode("latin-1"), ""),
        headers=headers,
        base_url=base_url(scope, root),
    )


def check_answerable(request: FhirRequest) -> None:
    """Can the answer be in a form that the client takes?

    Raises:
        Refused: 406.
    """
    # a plus that is not escaped arrives as a space: application/fhir+json
    wanted = [value.replace(" ", "+") for name, value in request.query if name == "_format"]
    accept = wanted[-1] if wanted else request.headers.get("accept", "*/*")
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not kinds & (_JSON_TYPES | _ANY | {""}):
        raise Refused(HTTPStatus.NOT_ACCEPTABLE, Issue("not-supported", _XML))


def check_readable(request: FhirRequest) -> None:
    """Is the body in a form that we take?

    Raises:
        Refused: 415.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        text = "the body must not be compressed"
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, Issue("not-supported", text))
    allowed = {JSON_PATCH} if request.method == "PATCH" else _JSON_TYPES
    if request.path[-1:] == ("_search",):
        allowed = {FORM}
    if request.media_type not in allowed:
        wanted = ", ".join(sorted(allowed & {FHIR_JSON, JSON_PATCH, FORM}))
        text = _XML if "xml" in request.media_type else f"the body must be {wanted}"
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, Issue("not-supported", text))
    version = _FHIR_VERSION.search(request.headers["content-type"])
    if version and not version[1].startswith("4.0"):
        issue = Issue("not-supported", "this is a server of FHIR 4.0")
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, issue)


async def body_of(request: FhirRequest, receive: Receive, longest: int) -> bytes:
    """The whole body.

    Raises:
        Refused: 413.
        ClientGoneError: it broke off.
    """
    issue = Issue("too-long", f"a request may have at most {longest} bytes")
    too_long = Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, issue)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > longest:
        raise too_long
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
        size += len(pieces[-1])
        if size > longest:
            raise too_long
    return b"".join(pieces)


def reply_of(refused: Refused) -> Reply:
    """An error as an OperationOutcome."""
    return Reply(refused.status, operation_outcome(refused.issues), refused.headers)


async def send_reply(reply: Reply, send: Send, *, head_only: bool = False) -> None:
    """Send an answer."""
    body = b"" if reply.resource is None else orjson.dumps(reply.resource)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    if body:
        headers["content-type"] = f"{FHIR_JSON}; charset=utf-8"
        headers["x-content-type-options"] = "nosniff"
    if reply.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        headers["content-length"] = str(len(body))
    start = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": start})
    await send({"type": "http.response.body", "body": b"" if head_only else body})
