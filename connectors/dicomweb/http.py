"""Requests and answers as the services see them, over ASGI 3."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote

from hub.formats.asgi_scope import base_url, header_fields, path_below

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

PROBLEM_JSON = "application/problem+json"
_MOST_PARAMETERS = 200


class Problem(Exception):  # noqa: N818 - the term of RFC 9457
    """A request that cannot be served: answered as problem details (RFC 9457).

    ``detail`` names what is wrong, never a value of a patient.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; its body is read by whoever wants it."""

    method: str
    segments: tuple[str, ...]
    """The path below the service's own, decoded, without empty pieces."""
    path: str
    parameters: Sequence[tuple[str, str]]
    """The query, decoded: ``%2A`` is ``*``."""
    headers: Mapping[str, str]
    """Names in lower case; the values of repeated ones are joined by a comma."""
    base_url: str
    """The service's root, as the client calls it."""
    client: str
    """The peer's address, or an empty text."""
    receive: Receive = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; a body that is iterated over is streamed."""

    status: int
    media_type: str = ""
    body: bytes | AsyncIterator[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def request_of(scope: Mapping[str, Any], receive: Receive, root: str) -> Request:
    """Read an ASGI scope.

    Raises:
        Problem: 400, the query has too many parameters.
    """
    headers = header_fields(scope)
    path: str = scope["path"]
    try:
        query = parse_qsl(
            scope["query_string"].decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=_MOST_PARAMETERS,
        )
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "the query has too many parameters") from error
    client = scope.get("client")
    return Request(
        method=scope["method"],
        segments=path_below(scope, root),
        path=path,
        parameters=query,
        headers=headers,
        base_url=base_url(scope, root),
        client=str(client[0]) if client else "",
        receive=receive,
    )


def problem_answer(problem: Problem, path: str) -> Answer:
    """The problem as ``application/problem+json``."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": quote(path, safe="/"),
        **problem.more,
    }
    return Answer(problem.status, PROBLEM_JSON, json.dumps(document).encode(), problem.headers)


async def send_answer(answer: Answer, send: Send, *, head_only: bool = False) -> None:
    """Send an answer, piece by piece where it is streamed."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if answer.media_type:
        headers["content-type"] = answer.media_type
    whole = answer.body if isinstance(answer.body, bytes) else None
    if whole is not None and answer.status != HTTPStatus.NO_CONTENT:
        headers["content-length"] = str(len(whole))
    start = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": start})
    if not isinstance(answer.body, bytes) and not head_only:
        async for piece in answer.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if head_only else whole or b""})
