"""The web role: health, metrics and the JSON API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.routing import Route

from hub.bootstrap.hub import Hub, package_of
from hub.bootstrap.model_register import register_of
from hub.bootstrap.registration import ModelDesk
from hub.bootstrap.vendor_requests import VendorRequests
from hub.errors import ConfigError
from hub.ports import HttpEndpoint, Jobs, ModelPackage
from hub.web import api, health, metrics
from hub.web.context import WebContext, context_of
from hub.web.errors import install_problem_handlers
from hub.web.refusals import Refusals

_DESCRIPTION = """\
What the hub has received, what it asked which model and why, what came back, and where the
results went. All of it reads, except what people decide about reports and what is done about
models. Every path needs a key of the right scope. Studies are known by their UID; no names, no
birth dates of patients.
"""


class _Handed:
    """Is no function, so that it is taken for an ASGI application."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._application(scope, receive, send)


def create_app(context: WebContext, endpoints: Sequence[HttpEndpoint] = ()) -> FastAPI:
    """The application over one hub, and the sources that are part of it. It stands behind the
    door (`hub.web.door`), which alone decides who comes in."""
    app = FastAPI(
        title="CAIDX hub",
        version=context.version,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    install_problem_handlers(app)
    for part in (health, metrics, api):
        app.include_router(part.router)
    for endpoint in endpoints:
        # a mount is what is below a path; FHIR posts transactions to the path itself
        whole = Route(endpoint.path, _Handed(endpoint.application), include_in_schema=False)
        app.router.routes.append(whole)
        app.mount(endpoint.path, endpoint.application)
    return app


def create_app_of(
    hub: Hub, endpoints: Sequence[HttpEndpoint], jobs: Callable[[], Jobs], refusals: Refusals
) -> FastAPI:
    """The application over one hub, with what its configuration names."""
    vendors = VendorRequests(hub, jobs)
    desk = ModelDesk(hub, register_of(hub))
    models = tuple(_packages(hub))
    context = context_of(hub, models, jobs, refusals, vendors=vendors, desk=desk)
    return create_app(context, endpoints)


def _packages(hub: Hub) -> Iterator[ModelPackage]:
    """The models whose packages can be read; a worker says why another one cannot run."""
    for entry in hub.settings.models:
        try:
            yield package_of(entry, hub.components)
        except ConfigError as error:
            structlog.get_logger().warning("model.unreadable", error=error)
