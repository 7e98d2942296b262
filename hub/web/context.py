"""What the web role's handlers work with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, Request
from pydantic import SecretStr

from hub.bootstrap.hub import Hub
from hub.ports import Clock, Jobs, ModelPackage, at_first_call
from hub.store.database import Database
from hub.store.report_ledger import ReportLedger

ASSESSORS = "api:assessment"
"""Actor of the audit log: who holds the key; the person is named beside it."""

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
    assessment_key: SecretStr | None = None
    """Opens the assessment of reports; None: it is closed."""
    reports: ReportLedger | None = None
    """In the name of those who hold the key; None: nothing is written here."""


def context_of(hub: Hub, models: tuple[ModelPackage, ...], jobs: Jobs | None = None) -> WebContext:
    """The context over one hub."""
    reports = None
    if jobs is not None:
        reports = ReportLedger(hub.database, jobs, hub.journal(ASSESSORS))
    return WebContext(
        database=hub.database,
        models=models,
        clock=hub.clock,
        version=version("caidx-hub"),
        heartbeat_seconds=hub.settings.workers.heartbeat_seconds,
        assessment_key=hub.settings.web.assessment_key,
        reports=reports,
    )


@contextmanager
def assessment_jobs(hub: Hub) -> Iterator[Jobs | None]:
    """Puts jobs into the hub's transactions, where reports may be assessed here; the job engine is
    loaded only for that."""
    if not hub.settings.web.assessment_key:
        yield None
        return
    jobs = _job_queue(hub.database.url)
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
