"""The HTTP server of the web role."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import structlog
import uvicorn

from hub.bootstrap.hub import Hub
from hub.config import WebSettings
from hub.errors import TransientError
from hub.ports import HttpEndpoint, Jobs, at_first_call
from hub.store.api_keys import KeyRing
from hub.supervisor.processes import settle_after_start
from hub.transport.tls import server_context
from hub.web.context import late_jobs
from hub.web.deadlines import BodyDeadlines
from hub.web.door import TABLE, Door, entries_of
from hub.web.endpoints import running_endpoints
from hub.web.key_holders import KeyHolders
from hub.web.late import Application, LateApplication, health_application
from hub.web.protocol import PatientProtocol
from hub.web.refusals import Refusals

_create_app = at_first_call("hub.web.app:create_app_of")

_MOST_CONNECTIONS = 1000
"""More are answered 503."""


def serve_web(hub: Hub) -> None:
    """Serve until a signal says stop.

    Raises:
        ConfigError: the TLS certificate cannot be used.
        TransientError: the port is in use.
        Exception: the API could not be made.
    """
    settings = hub.settings.web
    tls = None if settings.tls is None else server_context(settings.tls, "web.tls")
    refusals = Refusals()
    with (
        _listening(settings.host, settings.port) as listener,
        late_jobs(hub) as jobs,
        running_endpoints(hub, jobs) as endpoints,
        closing(KeyHolders(KeyRing(hub.database, hub.journal("web")))) as holders,
    ):
        application = LateApplication(
            health_application(hub, jobs, refusals),
            "/health/",
            lambda: _whole(hub, endpoints, jobs, refusals),
        )
        door = Door(application, [*TABLE, *entries_of(endpoints)], holders, refusals)
        server = uvicorn.Server(_configuration(settings, BodyDeadlines(door), tls))
        application.start(on_failure=lambda: setattr(server, "should_exit", True))
        log = structlog.get_logger()
        log.info("role.started", role="web", pid=os.getpid())
        if settings.exposure:
            log.warning("web.exposed", reason=settings.exposure)
        server.run(sockets=[listener])  # ends by the signal that stopped it
        application.raise_failure()


def _configuration(
    settings: WebSettings, application: Any, tls: ssl.SSLContext | None
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=PatientProtocol,
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        log_config=None,
        log_level="warning",  # its lines are written without their message: less says it
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


def _whole(
    hub: Hub, endpoints: Sequence[HttpEndpoint], jobs: Callable[[], Jobs], refusals: Refusals
) -> Application:
    application: Application = _create_app(hub, endpoints, jobs, refusals)
    settle_after_start()
    return application


def _listening(host: str, port: int) -> socket.socket:
    """Bound here and not by uvicorn, so that a port in use is told in our own words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise TransientError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        ) from error
