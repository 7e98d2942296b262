"""Packages of npm that a peer needs, installed from its lock file on first use."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from tests.peers import find_tool


def install_packages(folder: Path) -> None:
    """``npm ci`` in a folder where the packages are missing or older than its lock file."""
    npm = find_tool("npm", "npm")
    with (folder / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = folder / "node_modules" / ".package-lock.json"
        wanted = folder / "package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
            return
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
