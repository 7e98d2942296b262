"""The receivers of the intake benchmark: the hub's peers, each as a real process.

DCMTK's tools and Orthanc run with ``TCP_NODELAY=1``: without it they lose 43 ms per instance.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.bench.intake_corpus import Corpus
from tests.bench.intake_sender import Association
from tests.peers import find_tool, free_port
from tests.peers.orthanc import Orthanc

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
START_TIMEOUT = 60.0
STORESCP: Mapping[str, Sequence[str]] = {
    "storescp": (),
    "storescp-fork": ("--fork",),
    "storescp-fork-b": ("--fork", "+B", "--max-pdu", "131072"),
}


class Receiver(Protocol):
    """One receiver; ``start`` finds it empty, ``stop`` leaves nothing of it behind."""

    @property
    def dicom_port(self) -> int: ...

    @property
    def http_port(self) -> int:
        """0: it takes no STOW-RS."""
        ...

    @property
    def stow_path(self) -> str: ...

    @property
    def key(self) -> str:
        """What opens it; empty: it is open."""
        ...

    def start(self) -> None:
        """Start, and return when it takes associations."""
        ...

    def stop(self) -> None: ...

    def processes(self) -> Sequence[psutil.Process]:
        """The ones that it consists of; their children count with them."""
        ...

    def finish(self, instances: int, sample: Mapping[str, str]) -> None:
        """Return when everything that is done for so many instances is done; ``sample`` is the
        SHA-256 of some data sets, for a receiver that can tell by SOP Instance UID.

        Raises:
            AssertionError: it does not hold them.
        """
        ...


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """User and system time of processes, of their children and of those that have ended."""
    found = 0.0
    for process in [*processes, *(c for p in processes for c in p.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            found += sum(process.cpu_times()[:4])
    return found


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Raises:
    AssertionError: nothing listens there within `START_TIMEOUT`, or the process ended.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it does not listen"
        time.sleep(0.02)


def pdu_length(receiver: Receiver, corpus: Corpus) -> int:
    """The longest PDU that it takes, as it says."""
    association = Association(receiver.dicom_port, corpus.sop_class_uid, corpus.transfer_syntax_uid)
    association.release()
    return association.pdu_length


def _popen(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Program:
    """A receiver that is one command; it keeps a file for each instance in its folder."""

    http_port, stow_path, key = 0, "", ""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        """``{port}`` and ``{folder}`` in the command are filled in."""
        self.dicom_port = free_port()
        self._folder, self._command = folder, command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        self._process = self._spawn()
        wait_until_listening(self.dicom_port, self._process)

    def kill_and_start(self) -> None:
        """End it as a crash does, and start it again; returns at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        values = {"port": self.dicom_port, "folder": self._folder}
        return _popen([part.format(**values) for part in self._command])

    def stop(self) -> None:
        for process in self.processes():
            for child in process.children(recursive=True):
                child.kill()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process(self._process.pid)] if self._process is not None else []

    def finish(self, instances: int, sample: Mapping[str, str]) -> None:
        with os.scandir(self._folder) as entries:
            found = sum(1 for _ in entries)
        assert found == instances, f"{found} files of {instances} instances"


class OrthancReceiver(Orthanc):
    """Orthanc as it is by default, with its DICOMweb plugin."""

    stow_path, key = "/dicom-web/studies", ""

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process(self._process.pid)] if self._process is not None else []

    def kill_and_start(self) -> None:
        """As `Program.kill_and_start`."""
        self.kill()
        self._process = _popen([self._program, str(self.folder / "orthanc.json")])

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "storage", ignore_errors=True)

    def finish(self, instances: int, sample: Mapping[str, str]) -> None:
        found = self._get("/statistics")["CountInstances"]
        assert found == instances, f"{found} of {instances} instances"

    def _configuration(self) -> dict[str, Any]:
        ours = super()._configuration()
        changed = ("StableAge", "ConcurrentJobs", "OverwriteInstances")
        return {key: value for key, value in ours.items() if key not in changed}


def storescp(name: str, folder: Path) -> Program:
    """DCMTK's storescp with one of the settings in `STORESCP`."""
    tool = find_tool("storescp", "dcmtk")
    return Program(folder, [tool, "+xa", *STORESCP[name], "-od", "{folder}", "{port}"])


def pynetdicom(folder: Path) -> Program:
    """pynetdicom's minimal server."""
    return Program(
        folder, [sys.executable, "-m", "tests.bench.intake_pynetdicom", "{port}", "{folder}"]
    )


def null(folder: Path) -> Program:
    """Acknowledges and keeps nothing."""
    return Null(folder, [sys.executable, "-m", "tests.bench.intake_null", "{port}"])


class Null(Program):
    """How fast the sender is."""

    def finish(self, instances: int, sample: Mapping[str, str]) -> None:
        """It keeps nothing."""
