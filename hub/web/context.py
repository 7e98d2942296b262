"""What the web role's handlers work with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, Request

from hub.bootstrap.hub import Hub
from hub.ports import Clock, ModelPackage
from hub.store.database import Database


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


def context_of(hub: Hub, models: tuple[ModelPackage, ...]) -> WebContext:
    """The context over one hub."""
    return WebContext(
        database=hub.database,
        models=models,
        clock=hub.clock,
        version=version("caidx-hub"),
        heartbeat_seconds=hub.settings.workers.heartbeat_seconds,
    )


def web_context(request: Request) -> WebContext:
    """The context that ``create_app`` was given."""
    context = request.app.state.context
    assert isinstance(context, WebContext)  # noqa: S101 - set by create_app, for the type checker
    return context


Context = Annotated[WebContext, Depends(web_context)]
