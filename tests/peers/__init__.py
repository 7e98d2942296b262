"""Real systems that the tests talk to. A missing one makes a test fail, never skip."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path


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
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
