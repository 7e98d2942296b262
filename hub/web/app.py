"""The web role: health, metrics and the read-only JSON API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import structlog
from fastapi import FastAPI

from hub.bootstrap import Hub, open_hub, package_of
from hub.config import CONFIG_VARIABLE, read_settings
from hub.errors import ConfigError
from hub.ports import ModelPackage
from hub.registry import discover
from hub.web import api, health, metrics
from hub.web.context import WebContext
from hub.web.errors import install_problem_handlers

_DESCRIPTION = """\
What the hub has received, what it asked which model and why, what came back, and where the
results went. Read-only. Studies are known by their UID; no names, no birth dates.
"""


def create_app(context: WebContext) -> FastAPI:
    """The application over one hub."""
    app = FastAPI(
        title="CAIDX hub",
        version=context.version,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    install_problem_handlers(app)
    for part in (health, metrics, api):
        app.include_router(part.router)
    return app


def create_from_environment() -> FastAPI:
    """The application over the hub whose configuration file ``CAIDX_CONFIG`` names (or
    ``caidx.yaml``, or the defaults): what ``caidx serve --role web`` runs.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    name = os.environ.get(CONFIG_VARIABLE)
    components = discover()
    hub = open_hub(read_settings(Path(name) if name else None, components), components)
    context = WebContext(
        database=hub.database,
        models=tuple(_packages(hub)),
        clock=hub.clock,
        version=version("caidx-hub"),
        heartbeat_seconds=hub.settings.workers.heartbeat_seconds,
    )
    return create_app(context)


def _packages(hub: Hub) -> Iterator[ModelPackage]:
    """The models whose packages can be read; a worker says why another one cannot run."""
    for entry in hub.settings.models:
        try:
            yield package_of(entry, hub.components)
        except ConfigError as error:
            structlog.get_logger().warning("model.unreadable", error=error)
