"""What every benchmark shares: the facts of the machine, medians, and the file of its results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

FOLDER = Path("var/bench")

Parts = dict[str, float]
"""Seconds of each part of the work, in the order in which it is done."""


def medians(rounds: Sequence[Parts]) -> Parts:
    """The median of each part; a part that a round does not have counts as no time."""
    names = dict.fromkeys(name for parts in rounds for name in parts)
    return {name: median(parts.get(name, 0.0) for parts in rounds) for name in names}


def facts(*packages: str, **programs: Sequence[str]) -> dict[str, Any]:
    """The machine, and the versions of packages and programs (by the command that tells it)."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": platform.platform(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
            **{program: _first_line(command) for program, command in programs.items()},
        },
    }


def write(name: str, result: Mapping[str, Any]) -> Path:
    """Keep the result as ``var/bench/<name>.json``; it must have an object ``ratios``."""
    assert result["ratios"], "a benchmark without a ratio compares nothing"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout + done.stderr).strip().splitlines()[0]
