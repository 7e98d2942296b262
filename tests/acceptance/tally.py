"""Somebody else's distribution, ``tally_runtime``: built as a wheel, and installed beside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "tally_runtime"


def install(folder: Path) -> dict[str, str]:
    """Build the wheel and unpack it, as an installer does; the environment in which Python finds
    it."""
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    shutil.copytree(SOURCE, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(wheels)]
    done = subprocess.run(
        [*command, str(source)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = wheels.glob("tally_runtime-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), known)))}


@dataclass(frozen=True)
class Note:
    """A line of the tally."""

    what: str
    """load, start, end or unload."""
    pid: int
    version: str
    study_instance_uid: str


@dataclass(frozen=True)
class Tally:
    """The test's side."""

    folder: Path

    def hold(self) -> None:
        """Answers wait from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "hold").touch()

    def go_on(self) -> None:
        """Let them out."""
        (self.folder / "hold").unlink()

    @property
    def notes(self) -> list[Note]:
        """In order."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [
            Note(what, int(pid), version, uid)
            for what, pid, version, uid in (line.split(" ") for line in lines)
        ]

    def versions(self, what: str) -> list[str]:
        """Of the notes of one kind."""
        return [note.version for note in self.notes if note.what == what]

    def started(self, study_instance_uid: str) -> list[str]:
        """The versions that were asked about a study."""
        return [
            note.version
            for note in self.notes
            if note.what == "start" and note.study_instance_uid == study_instance_uid
        ]
