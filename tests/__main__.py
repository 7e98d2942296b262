"""Every test but the long ones, in two parts: ``python -m tests``, as ``make test`` does.

First the unit tests, on all processors: each works in a folder of its own, on no fixed port, and
none measures how long something takes beside others. Then those with real peers and whole hubs,
one after another. What failed in either stands at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

REPOSITORY = Path(__file__).resolve().parents[1]
REPORTS = REPOSITORY / "build" / "tests"
"""Where each part leaves a report in JUnit's format."""
PARTS = {
    # worksteal: whoever has nothing left to do takes over half of what another still has
    "unit": ("tests/unit", "-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"),
    "peers": ("tests", "--ignore", "tests/unit"),
}
INTERRUPTED = 2


def main(parts: dict[str, Sequence[str]]) -> int:
    """Run all parts, also after one that failed; 0 when all of them are good."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    for name, arguments in parts.items():
        report = REPORTS / f"{name}.xml"
        report.unlink(missing_ok=True)
        chosen = ["-m", "not soak", "--junitxml", str(report), *arguments]
        command = [sys.executable, "-m", "pytest", *chosen]
        status = subprocess.run(command, check=False, env=_environment()).returncode
        if status:
            found = list(_failures(report))
            bad += found or [f"{name}: pytest ended with status {status}"]
        if status == INTERRUPTED:
            break
    print("\n".join(["", f"{len(bad)} failed", *bad] if bad else ["", "all parts passed"]))
    return 1 if bad else 0


def _environment() -> dict[str, str]:
    """Ours, but compiled modules are kept: hundreds of processes load the same ones."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _failures(report: Path) -> Iterator[str]:
    if not report.exists():
        return
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        for kind in ("failure", "error"):
            for failure in case.iterfind(kind):
                said = failure.get("message", "").partition("\n")[0]
                yield f"{kind} {case.get('classname')}::{case.get('name')} - {said:.120}"


if __name__ == "__main__":
    sys.exit(main(PARTS))
