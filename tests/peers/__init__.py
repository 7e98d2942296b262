"""Real systems that the tests talk to. A missing one makes a test fail, never skip."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

_PORTS = range(12_000, 32_768)
"""Below those of clients (ip(7), ip_local_port_range), above all that browsers refuse."""


class MissingPeerError(Exception):
    """A tool that the tests need is not installed."""

    def __init__(self, tool: str, package: str) -> None:
        super().__init__(f"{tool} is missing: install the package {package} (make test does)")


def find_tool(name: str, package: str, *folders: Path) -> str:
    """Path of an installed program; ``folders`` are searched besides PATH.

    The environment that runs the tests is left out: pynetdicom installs a ``storescu``, too.
    """
    own = Path(sys.prefix) / "bin"
    elsewhere = [p for p in os.get_exec_path() if Path(p) != own]
    found = shutil.which(name, path=os.pathsep.join(elsewhere))
    for folder in folders:
        found = found or shutil.which(name, path=str(folder))
    if found is None:
        raise MissingPeerError(name, package)
    return found


def free_port() -> int:
    """A loopback port that nothing listens on, and that stays so until somebody binds it.

    It is none of those that the system gives to clients, nor one that a test at work beside this
    one (pytest-xdist) can get.
    """
    others = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = secrets.choice(_PORTS[own::others])
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
