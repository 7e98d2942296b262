"""The web role: health, metrics and the read-only JSON API."""

from __future__ import annotations

from fastapi import FastAPI

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
