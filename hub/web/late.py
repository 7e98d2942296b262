"""Health first: the rest of the web role is made when it is asked for, or when the hub is up.

To make the API takes longer than to load the server, and while a hub starts, its worker wants the
processor. Nobody is turned away meanwhile: a request that comes too early waits for the API.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI

from hub.bootstrap.hub import Hub
from hub.ports import Jobs
from hub.web import health
from hub.web.context import context_of
from hub.web.errors import install_problem_handlers
from hub.web.refusals import Refusals

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_QUIET_SECONDS = 1.0
"""After so long the API is made, whether or not somebody asked for it."""


class LateApplication:
    """An ASGI application of which one part is there at once, and the whole later."""

    def __init__(
        self,
        first: Application,
        first_paths: str,
        make: Callable[[], Application],
    ) -> None:
        """``first`` answers the paths that begin with ``first_paths`` until ``make`` has made
        the whole."""
        self._first = first
        self._first_paths = first_paths
        self._make = make
        self._wanted = threading.Event()
        self._whole: Future[Application] = Future()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Begin to wait for the moment to make the whole; before any request is answered.

        Where that raises, ``on_failure`` is called on another thread.
        """

        def look(whole: Future[Application]) -> None:
            if whole.exception() is not None:
                on_failure()

        maker = ThreadPoolExecutor(1, thread_name_prefix="make-api")
        self._whole = maker.submit(self._made)
        self._whole.add_done_callback(look)
        maker.shutdown(wait=False)

    def raise_failure(self) -> None:
        """Raises:
        Exception: what making the whole raised, if it did.
        """
        if self._whole.done():
            self._whole.result()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = self._first
        is_request = scope["type"] != "lifespan"
        if is_request and (self._whole.done() or not scope["path"].startswith(self._first_paths)):
            self._wanted.set()
            application = await asyncio.wrap_future(self._whole)
        await application(scope, receive, send)

    def _made(self) -> Application:
        self._wanted.wait(_QUIET_SECONDS)
        return self._make()


def health_application(hub: Hub, jobs: Callable[[], Jobs], refusals: Refusals) -> FastAPI:
    """What answers before the API is made: whether the process lives, and can do its work."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.context = context_of(hub, (), jobs, refusals)
    install_problem_handlers(app)
    app.include_router(health.router)
    return app
