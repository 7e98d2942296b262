"""The one door of the HTTP server: it decides who may use which path, before anything is read.

It stands around the whole application, what is mounted in it included. What is in no table is
closed: a new route needs an entry here, and a test walks all of them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from http import HTTPStatus
from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, Request

from hub.domain.access import Principal, Scope
from hub.errors import TransientError
from hub.ports import HttpEndpoint, Refuse
from hub.store.api_keys import ApiKey, KeyState
from hub.web.refusals import Answer, Refusal, Refusals, problem_document, send_refusal

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

PRINCIPAL = "principal"
"""Name in ``scope["state"]``, for handlers and mounted applications."""
RETRIEVAL_TOKEN_PREFIX = "r."  # noqa: S105 - how tokens begin, not one
"""A bearer that begins so opens the images of one request, and nothing else."""
WEBHOOK_HEADERS = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
"""Standard Webhooks: without them there is no signature to check."""

_RETRY_AFTER_SECONDS = 5
_LONGEST_AUTHORIZATION = 1000
_CHALLENGES = (("WWW-Authenticate", 'Bearer realm="caidx"'),)
"""Basic is taken, and not asked for: a browser that was asked would send it again and again, also
for pages of others."""
_NO_KEY = "a key is needed: `Authorization: Bearer caidx_...`, or Basic with the key as password"
_WRONG_KEY = "the key is none of this hub's"
_NO_SIGNATURE = "the message is not signed: it needs webhook-id, webhook-timestamp and -signature"
_NO_TOKEN = "the token that came with the request is needed: `Authorization: Bearer r....`"  # noqa: S105


class Proof(StrEnum):
    """What opens a path."""

    KEY = "key"
    """An API key of one of the scopes."""
    NOTHING = "nothing"
    """It is public; a key may say who asks all the same."""
    SIGNATURE = "signature"
    """A signed message (Standard Webhooks): the handler checks it, the door that it is there."""
    RETRIEVAL_TOKEN = "retrieval-token"  # noqa: S105 - a name
    """A token for one request's images: the handler checks it, the door that it is there."""


ANY_METHOD = "*"
Scopes = frozenset[Scope]


@dataclass(frozen=True)
class Entry:
    """Who may use a path."""

    path: str
    """As routes are written: ``{name}`` is one segment, ``{name:path}`` at the end any number."""
    methods: Mapping[str, Scopes]
    """By method, the scopes of the keys that may. ``*``: whichever; the application answers for
    those that it does not have."""
    proof: Proof = Proof.KEY
    refuse: Refuse = problem_document
    """A refusal in the protocol of the path."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths."""
        pieces = re.split(r"(\{[^}]*\})", self.path)
        return re.compile("".join(map(_piece_pattern, pieces)))

    def scopes_for(self, method: str) -> Scopes | None:
        """Those that may; None: there is no such method."""
        return self.methods.get(method, self.methods.get(ANY_METHOD))


def _piece_pattern(piece: str) -> str:
    if not piece.startswith("{"):
        return re.escape(piece)
    return "(?s:.*)" if piece.endswith(":path}") else "[^/]+"


_OPERATOR = frozenset({Scope.OPERATOR})
_READERS = frozenset({Scope.OPERATOR, Scope.AUDITOR})
_MODEL_READERS = _READERS | {Scope.VENDOR}
_MODEL_WRITERS = _OPERATOR | {Scope.VENDOR}
_ALL = frozenset(Scope)
_NONE: Scopes = frozenset()

_IMAGES = "/api/v1/requests/{request_id}/dicom-web/studies/{study}"
_SERIES = "/series/{series}"

TABLE: Sequence[Entry] = (
    Entry("/health/live", {"GET": _NONE}, Proof.NOTHING),
    Entry("/health/ready", {"GET": _NONE}, Proof.NOTHING),
    Entry("/metrics", {"GET": _READERS}),
    Entry("/api/openapi.json", {"GET": _ALL, "HEAD": _ALL}),
    Entry("/api/v1/studies", {"GET": _READERS}),
    Entry("/api/v1/studies/{study_instance_uid}", {"GET": _READERS}),
    Entry("/api/v1/requests", {"GET": _MODEL_READERS}),
    Entry("/api/v1/results", {"GET": _MODEL_READERS}),
    Entry("/api/v1/results/{request_id}", {"GET": _READERS}),
    Entry("/api/v1/results/{request_id}/assessments", {"POST": _OPERATOR}),
    Entry("/api/v1/deliveries", {"GET": _READERS}),
    Entry("/api/v1/alerts", {"GET": _READERS}),
    Entry("/api/v1/audit", {"GET": _READERS}),
    Entry("/api/v1/models", {"GET": _MODEL_READERS, "POST": _MODEL_WRITERS}),
    Entry("/api/v1/models/{model_id}", {"GET": _MODEL_READERS}),
    Entry("/api/v1/models/{model_id}/activate", {"POST": _OPERATOR}),
    Entry("/api/v1/models/{model_id}/suspend", {"POST": _MODEL_WRITERS}),
    Entry("/api/v1/models/{model_id}/retire", {"POST": _MODEL_WRITERS}),
    Entry("/api/v1/callbacks/{request_id}", {"POST": _NONE}, Proof.SIGNATURE),
    Entry(_IMAGES, {"GET": _NONE}, Proof.RETRIEVAL_TOKEN),
    Entry(_IMAGES + _SERIES, {"GET": _NONE}, Proof.RETRIEVAL_TOKEN),
    Entry(_IMAGES + _SERIES + "/instances/{instance}", {"GET": _NONE}, Proof.RETRIEVAL_TOKEN),
)
"""Every route of the hub's own; of two entries for one path the first decides, as with routes."""


def entries_of(endpoints: Iterable[HttpEndpoint]) -> Sequence[Entry]:
    """The sources that are part of the HTTP server: hospital systems use them."""
    return [
        Entry(
            path,
            {ANY_METHOD: frozenset({Scope.SYSTEM})},
            refuse=endpoint.refuse or problem_document,
        )
        for endpoint in endpoints
        for path in (endpoint.path, f"{endpoint.path}/{{path:path}}")
    ]


_UNKNOWN = Entry("", {})
"""Stands for a path that is in no table."""


class Holders(Protocol):
    """Whoever holds a key (`hub.web.key_holders`)."""

    async def key_of(self, text: str) -> ApiKey | None:
        """The key that somebody showed, in its state at this moment; None: it is none of ours.

        Raises:
            TransientError: the database is away.
        """
        ...

    def note_refusal(self, key: ApiKey, reason: Refusal, place: str) -> None:
        """A key of ours was refused; ``place`` is the method and the entry's path."""
        ...


class _RefusedError(Exception):
    """Ends the way through the door."""

    def __init__(
        self, answer: Answer, reason: Refusal | None = None, key: ApiKey | None = None
    ) -> None:
        super().__init__(answer.detail)
        self.answer = answer
        self.reason = reason
        """None: it is not the asker's fault, or no matter of rights."""
        self.key = key


class Door:
    """ASGI middleware around everything that the HTTP server offers."""

    def __init__(
        self,
        application: Application,
        table: Sequence[Entry],
        holders: Holders,
        refusals: Refusals,
    ) -> None:
        """``application`` is called with whoever asks in ``scope["state"]["principal"]``, and only
        where the table lets them in."""
        self._application = application
        self._table = table
        self._holders = holders
        self._refusals = refusals

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there is no entry for anything else
        path = scope["path"]
        entry = next((e for e in self._table if e.pattern.fullmatch(path)), _UNKNOWN)
        try:
            principal = await self._let_in(entry, scope)
        except _RefusedError as refused:
            self._note(refused, entry, scope)
            head_only = scope["method"] == "HEAD"
            await send_refusal(refused.answer, entry.refuse, path, send, head_only=head_only)
            return
        scope.setdefault("state", {})[PRINCIPAL] = principal
        await self._application(scope, receive, send)

    async def _let_in(self, entry: Entry, scope: AsgiScope) -> Principal | None:
        """Raises:
        _RefusedError: not this one, or not so.
        """
        authorization = _only_header(scope, b"authorization")
        match entry.proof:
            case Proof.SIGNATURE:
                if not all(_only_header(scope, name) for name in WEBHOOK_HEADERS):
                    raise _unauthorized(_NO_SIGNATURE, Refusal.NO_SIGNATURE)
                return None
            case Proof.RETRIEVAL_TOKEN:
                if not _bearer(authorization).startswith(RETRIEVAL_TOKEN_PREFIX):
                    raise _unauthorized(_NO_TOKEN, Refusal.NO_TOKEN)
                return None
            case Proof.NOTHING:
                return await self._who_if_anybody(authorization)
            case Proof.KEY:
                key = await self._holder(authorization)
                return _checked(entry, scope["method"], key)

    async def _who_if_anybody(self, authorization: str) -> Principal | None:
        """Of what is public, nobody is turned away."""
        with suppress(_RefusedError):
            return (await self._holder(authorization)).principal
        return None

    async def _holder(self, authorization: str) -> ApiKey:
        shown = _shown_key(authorization)
        if not shown:
            raise _unauthorized(_NO_KEY, Refusal.NO_KEY)
        try:
            key = await self._holders.key_of(shown)
        except TransientError as error:
            again = (("Retry-After", str(_RETRY_AFTER_SECONDS)),)
            answer = Answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error), again)
            raise _RefusedError(answer) from error
        if key is None:
            raise _unauthorized(_WRONG_KEY, Refusal.WRONG_KEY)
        if key.state is not KeyState.ACTIVE:
            is_revoked = key.state is KeyState.REVOKED
            reason = Refusal.REVOKED_KEY if is_revoked else Refusal.EXPIRED_KEY
            raise _unauthorized(f"the key is {key.state}", reason, key)
        return key

    def _note(self, refused: _RefusedError, entry: Entry, scope: AsgiScope) -> None:
        if refused.reason is None:
            return
        client = scope.get("client")
        self._refusals.count(refused.reason, str(client[0]) if client else "")
        if refused.key is not None:
            place = f"{scope['method']} {entry.path}"
            self._holders.note_refusal(refused.key, refused.reason, place)


def _checked(entry: Entry, method: str, key: ApiKey) -> Principal:
    """Who holds the key, if the entry is open to them."""
    if entry is _UNKNOWN:
        raise _RefusedError(Answer(HTTPStatus.NOT_FOUND, "there is nothing at this path"))
    scopes = entry.scopes_for(method)
    if scopes is None:
        allow = (("Allow", ", ".join(sorted(entry.methods))),)
        answer = Answer(HTTPStatus.METHOD_NOT_ALLOWED, "the path has no such method", allow)
        raise _RefusedError(answer)
    if key.scope not in scopes:
        needed = " or ".join(sorted(scopes))
        detail = f"a key of scope {key.scope} does not open this; one of {needed} does"
        raise _RefusedError(Answer(HTTPStatus.FORBIDDEN, detail), Refusal.WRONG_SCOPE, key)
    return key.principal


def _unauthorized(detail: str, reason: Refusal, key: ApiKey | None = None) -> _RefusedError:
    return _RefusedError(Answer(HTTPStatus.UNAUTHORIZED, detail, _CHALLENGES), reason, key)


def _only_header(scope: AsgiScope, name: bytes) -> str:
    """Its value; empty where it is missing, or there several times."""
    values = [value for given, value in scope["headers"] if given.lower() == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _bearer(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _shown_key(authorization: str) -> str:
    """What stands for a key (RFC 6750 2.1, RFC 7617 2); empty where nothing does."""
    if len(authorization) > _LONGEST_AUTHORIZATION:
        return ""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return _bearer(authorization)
    try:
        pair = base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:  # of base64 and of UTF-8
        return ""
    return pair.partition(":")[2]


def principal_if_any(request: Request) -> Principal | None:
    """Who asks; None: it is public, and nobody said."""
    principal = request.scope.get("state", {}).get(PRINCIPAL)
    return principal if isinstance(principal, Principal) else None


def principal_of(request: Request) -> Principal:
    """Who asks, as the door found it.

    Raises:
        HTTPException: 401, nobody came through the door.
    """
    principal = principal_if_any(request)
    if principal is None:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, _NO_KEY)
    return principal


CurrentPrincipal = Annotated[Principal, Depends(principal_of)]
"""A parameter of this type makes the handler get whoever asks."""
