"""The HTTP server of the web role."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import structlog
import uvicorn

from hub.bootstrap.hub import Hub
from hub.errors import TransientError
from hub.ports import HttpEndpoint, Jobs, at_first_call
from hub.supervisor.processes import settle_after_start
from hub.web.context import assessment_jobs
from hub.web.deadlines import BodyDeadlines
from hub.web.endpoints import running_endpoints
from hub.web.late import Application, LateApplication, health_application
from hub.web.protocol import PatientProtocol

_create_app = at_first_call("hub.web.app:create_app_of")

_MOST_CONNECTIONS = 1000
"""More are answered 503."""


def serve_web(hub: Hub) -> None:
    """Serve until a signal says stop.

    Raises:
        TransientError: the port is in use.
        Exception: the API could not be made.
    """
    settings = hub.settings.web
    with (
        _listening(settings.host, settings.port) as listener,
        running_endpoints(hub) as endpoints,
        assessment_jobs(hub) as jobs,
    ):
        application = LateApplication(
            health_application(hub), "/health/", lambda: _whole(hub, endpoints, jobs)
        )
        server = uvicorn.Server(
            uvicorn.Config(
                BodyDeadlines(application),
                http=PatientProtocol,
                ws="none",
                limit_concurrency=_MOST_CONNECTIONS,
                log_config=None,
                log_level="warning",  # its lines are written without their message: less says it
                access_log=False,
                server_header=False,
            )
        )
        application.start(on_failure=lambda: setattr(server, "should_exit", True))
        structlog.get_logger().info("role.started", role="web", pid=os.getpid())
        server.run(sockets=[listener])  # ends by the signal that stopped it
        application.raise_failure()


def _whole(hub: Hub, endpoints: Sequence[HttpEndpoint], jobs: Jobs | None) -> Application:
    application: Application = _create_app(hub, endpoints, jobs)
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
