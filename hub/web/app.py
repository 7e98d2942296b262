"""The web role: health, metrics and the JSON API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog
from fastapi import FastAPI

from hub.bootstrap.hub import Hub, package_of
from hub.errors import ConfigError
from hub.ports import HttpEndpoint, Jobs, ModelPackage
from hub.web import api, health, metrics
from hub.web.context import WebContext, context_of
from hub.web.errors import install_problem_handlers

_DESCRIPTION = """\
What the hub has received, what it asked which model and why, what came back, and where the
results went. All of it reads, except what people decide about reports. Studies are known by their
UID; no names, no birth dates of patients.
"""


def create_app(context: WebContext, endpoints: Sequence[HttpEndpoint] = ()) -> FastAPI:
    """The application over one hub, and the sources that are part of it."""
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
    for endpoint in endpoints:
        app.mount(endpoint.path, endpoint.application)
    return app


def create_app_of(
    hub: Hub, endpoints: Sequence[HttpEndpoint] = (), jobs: Jobs | None = None
) -> FastAPI:
    """The application over one hub, with what its configuration names; without ``jobs`` it only
    reads."""
    return create_app(context_of(hub, tuple(_packages(hub)), jobs), endpoints)


def _packages(hub: Hub) -> Iterator[ModelPackage]:
    """The models whose packages can be read; a worker says why another one cannot run."""
    for entry in hub.settings.models:
        try:
            yield package_of(entry, hub.components)
        except ConfigError as error:
            structlog.get_logger().warning("model.unreadable", error=error)
