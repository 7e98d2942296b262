"""Request bodies have to come at a pace: who stops sending, or drips, is answered 408."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_DISCONNECTED: Mapping[str, Any] = {"type": "http.disconnect"}


@dataclass(frozen=True, slots=True)
class BodyDeadlines:
    """ASGI middleware. The time that the application takes for itself does not count."""

    application: Any
    """ASGI 3."""
    idle_seconds: float = 30.0
    """Longest wait for the next bytes."""
    bytes_per_second: float = 1024.0
    """Slowest pace, on the average ..."""
    grace_seconds: float = 30.0
    """... after so much waiting."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        body = _Body(self, receive, send)
        await self.application(scope, body.receive, body.send)
        if body.late and not body.answered:
            await body.tell()


@dataclass(slots=True)
class _Body:
    """One request's body on its way in. To the application, a late one is a broken one."""

    limits: BodyDeadlines
    next_message: Receive
    forward: Send
    late: bool = False
    answered: bool = False
    _complete: bool = False
    _waited: float = 0.0
    _received: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    async def receive(self) -> Mapping[str, Any]:
        if self._complete:
            return await self.next_message()  # the end of the connection: no hurry
        if self.late:
            return _DISCONNECTED
        before = self._loop.time()
        try:
            async with asyncio.timeout(self.limits.idle_seconds):
                message = await self.next_message()
        except TimeoutError:
            self.late = True
            return _DISCONNECTED
        self._waited += self._loop.time() - before
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        self.late = not self._complete and self._is_too_slow()
        return _DISCONNECTED if self.late else message

    async def send(self, message: Mapping[str, Any]) -> None:
        if self.late and not self.answered:
            return  # what the application says to a client that it takes for gone
        self.answered = True
        await self.forward(message)

    async def tell(self) -> None:
        status = HTTPStatus.REQUEST_TIMEOUT
        document = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": "the body did not come in time",
        }
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"connection", b"close"),
        ]
        await self.forward({"type": "http.response.start", "status": status, "headers": headers})
        await self.forward({"type": "http.response.body", "body": json.dumps(document).encode()})

    def _is_too_slow(self) -> bool:
        limits = self.limits
        slowest = limits.bytes_per_second * self._waited
        return self._waited > limits.grace_seconds and self._received < slowest
