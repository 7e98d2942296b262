"""``caidx serve``: run the hub, or one of its roles."""

from __future__ import annotations

import os
import signal
import threading
from enum import StrEnum
from typing import Annotated, Protocol

import structlog
import typer
import uvicorn

from hub.bootstrap import build_receiver, build_worker, open_hub, role_processes
from hub.cli.session import Session, session_of
from hub.config import CONFIG_VARIABLE, LogSettings
from hub.log import configure_logging

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
    hub = open_hub(settings, session.components)
    try:
        hub.migrate()
        if role is Role.ALL:
            file = None if session.config_file is None else str(session.config_file)
            role_processes(hub, file).run()
        elif role is Role.WEB:
            _serve_web(session)
        else:
            _run(build_receiver(hub) if role is Role.RECEIVER else build_worker(hub), role)
    finally:
        hub.close()


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
    uvicorn.run(
        WEB_APPLICATION,
        factory=True,
        host=settings.web.host,
        port=settings.web.port,
        log_config=None,
        log_level=_uvicorn_level(settings.log),
        access_log=False,
        server_header=False,
    )


def _uvicorn_level(log: LogSettings) -> str:
    """What uvicorn says below a warning is not worth a line without its message."""
    return "error" if log.level == "error" else "warning"
