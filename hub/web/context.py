"""What the web role's handlers work with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from hub.bootstrap.hub import Hub
from hub.domain.access import Principal
from hub.ports import Clock, Jobs, ModelPackage, at_first_call
from hub.store.database import Database
from hub.store.journal import Journal
from hub.web.refusals import Refusals
from hub.web.uploads import Uploads

if TYPE_CHECKING:
    from hub.bootstrap.registration import ModelDesk
    from hub.bootstrap.vendor_requests import VendorRequests

_job_queue = at_first_call("hub.durable:JobQueue")


@dataclass(frozen=True, slots=True)
class WebContext:
    """Shared by all requests; read-only."""

    database: Database
    models: tuple[ModelPackage, ...]
    """The configured models, as registered."""
    clock: Clock
    version: str
    """Version of the hub."""
    heartbeat_seconds: float
    """How often a worker says that it is alive."""
    jobs: Callable[[], Jobs]
    """What puts jobs into the transactions of those handlers that write; ask for it before one."""
    refusals: Refusals = field(default_factory=Refusals)
    """What the door of this process has refused."""
    vendors: VendorRequests | None = None
    """What vendors send and fetch about requests; None: nobody serves them here."""
    desk: ModelDesk | None = None
    """Where models are registered; None: only the configured ones are shown."""
    uploads: Uploads = field(default_factory=Uploads)
    """The packages that are on their way in."""

    def journal(self, principal: Principal) -> Journal:
        """Writes in the name of whoever asks."""
        return Journal(self.clock, principal.actor)


def context_of(
    hub: Hub,
    models: tuple[ModelPackage, ...],
    jobs: Callable[[], Jobs],
    refusals: Refusals,
    *,
    vendors: VendorRequests | None = None,
    desk: ModelDesk | None = None,
) -> WebContext:
    """The context over one hub."""
    return WebContext(
        database=hub.database,
        models=models,
        clock=hub.clock,
        version=version("caidx-hub"),
        heartbeat_seconds=hub.settings.workers.heartbeat_seconds,
        jobs=jobs,
        refusals=refusals,
        vendors=vendors,
        desk=desk,
    )


class _LateJobs:
    """The job engine, loaded when it is first asked for: most web roles only read."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._lock = threading.Lock()
        self._queue: Any = None

    def __call__(self) -> Jobs:
        with self._lock:
            if self._queue is None:
                self._queue = _job_queue(self._database_url)
            queue: Jobs = self._queue
            return queue

    def close(self) -> None:
        if self._queue is not None:
            self._queue.close()


@contextmanager
def late_jobs(hub: Hub) -> Iterator[Callable[[], Jobs]]:
    """What puts jobs into the hub's transactions, loaded at the first call; ask for it before a
    transaction, which would wait for that."""
    jobs = _LateJobs(hub.database.url)
    try:
        yield jobs
    finally:
        jobs.close()


def web_context(request: Request) -> WebContext:
    """The context that ``create_app`` was given."""
    context = request.app.state.context
    assert isinstance(context, WebContext)  # noqa: S101 - set by create_app, for the type checker
    return context


Context = Annotated[WebContext, Depends(web_context)]
