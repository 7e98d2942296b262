"""``caidx serve``: run the hub, or one of its roles."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from contextlib import closing
from enum import StrEnum
from typing import Annotated, Protocol

import structlog
import typer

from hub.bootstrap.receiver import run_receiver
from hub.bootstrap.roles import role_processes
from hub.cli.session import Session, session_of
from hub.errors import CaidxError
from hub.log import configure_logging
from hub.ports import at_first_call
from hub.supervisor.processes import end_with_parent, keep_freed_memory

_open_hub = at_first_call("hub.bootstrap.hub:open_hub")
_begin_loading = at_first_call("hub.bootstrap.models:begin_loading")
_build_worker = at_first_call("hub.bootstrap.worker:build_worker")
_build_indexer = at_first_call("hub.bootstrap.indexer:build_indexer")
_serve_web = at_first_call("hub.web.server:serve_web")


class Role(StrEnum):
    ALL = "all"
    RECEIVER = "receiver"
    INDEXER = "indexer"
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

    Without `--role` it starts receiver, indexer, workers and web as child processes, and starts
    again the one that dies. With it, one role runs here: on as many hosts as wanted.
    """
    session = session_of(context)
    settings = session.settings
    configure_logging(settings.log.level, settings.log.format)
    gc.disable()  # until the roles are up: see settle_after_start
    if role is Role.ALL:
        role_processes(settings, lambda name: _run_role(session, Role(name))).run()
    else:
        _run_role(session, role)


def _run_role(session: Session, role: Role) -> None:
    try:
        if role is Role.RECEIVER:
            run_receiver(session.settings, session.components)
        else:
            end_with_parent()
            keep_freed_memory()
            _serve_with_store(session, role)
    except CaidxError as error:
        structlog.get_logger().error("role.failed", role=role.value, error=error)
        sys.exit(1)


def _serve_with_store(session: Session, role: Role) -> None:
    with closing(_open_hub(session.settings, session.components)) as hub:
        hub.migrate()
        match role:
            case Role.INDEXER:
                _run(_build_indexer(hub), role)
            case Role.WORKER:
                loading = _begin_loading(hub)
                _run(_build_worker(hub, loading), role)
            case _:
                _serve_web(hub)


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
