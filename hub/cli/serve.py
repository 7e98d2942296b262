"""``caidx serve``: run the hub, or one of its roles."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import closing
from enum import StrEnum
from typing import Annotated, Protocol

import structlog
import typer
import uvicorn

from hub.bootstrap import Hub, build_receiver, build_worker, open_hub, role_processes
from hub.cli.session import Session, session_of
from hub.config import CONFIG_VARIABLE
from hub.errors import CaidxError, TransientError
from hub.log import configure_logging
from hub.supervisor import end_with_parent

WEB_APPLICATION = "hub.web.app:create_from_environment"


class Role(StrEnum):
    ALL = "all"
    RECEIVER = "receiver"
    WORKER = "worker"
    WEB = "web"


class Running(Protocol):
    """A role in this process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def serve(
    context: typer.Context,
    role: Annotated[
        Role, typer.Option(help="All as child processes, or one of them in this process.")
    ] = Role.ALL,
) -> None:
    """Run the hub until SIGTERM or Ctrl-C.

    Without `--role` it starts receiver, workers and web as child processes, and starts again the
    one that dies. With it, one role runs here: on as many hosts as wanted.
    """
    session = session_of(context)
    settings = session.settings
    configure_logging(settings.log.level, settings.log.format)
    end_with_parent()
    try:
        with closing(open_hub(settings, session.components)) as hub:
            hub.migrate()
            _serve(session, hub, role)
    except CaidxError as error:
        structlog.get_logger().error("role.failed", role=role.value, error=error)
        raise typer.Exit(1) from None


def _serve(session: Session, hub: Hub, role: Role) -> None:
    match role:
        case Role.ALL:
            file = None if session.config_file is None else str(session.config_file)
            role_processes(hub, file).run()
        case Role.RECEIVER:
            _run(build_receiver(hub), role)
        case Role.WORKER:
            _run(build_worker(hub), role)
        case Role.WEB:
            _serve_web(session)


def _run(running: Running, role: Role) -> None:
    """Until a signal says stop; a second one ends it at once."""
    stopping = threading.Event()

    def stop(number: int, _frame: object) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    log = structlog.get_logger()
    running.start()
    log.info("role.started", role=role.value, pid=os.getpid())
    stopping.wait()
    running.stop()
    log.info("role.stopped", role=role.value, pid=os.getpid())


def _serve_web(session: Session) -> None:
    settings = session.settings
    if session.config_file is not None:
        os.environ[CONFIG_VARIABLE] = str(session.config_file)
    server = uvicorn.Server(
        uvicorn.Config(
            WEB_APPLICATION,
            factory=True,
            log_config=None,
            log_level="warning",  # its lines are written without their message: less says as much
            access_log=False,
            server_header=False,
        )
    )
    with _listening(settings.web.host, settings.web.port) as listener:
        structlog.get_logger().info("role.started", role=Role.WEB.value, pid=os.getpid())
        server.run(sockets=[listener])  # ends by the signal that stopped it


def _listening(host: str, port: int) -> socket.socket:
    """Bound here and not by uvicorn, so that a port in use is told in our own words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise TransientError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        ) from error
