"""A hub for the demonstration: its own folder, free ports, started and stopped."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from hub.errors import TransientError

_DICOM_PORT, _WEB_PORT = 11112, 8080
_START_SECONDS, _STOP_SECONDS = 120.0, 30.0

_CONFIGURATION = """\
# Written by `caidx demo`: the defaults, with a folder and ports of their own.
data: {data}
sources:
  - {{name: dicom, kind: dicom, ae_title: CAIDX, host: 127.0.0.1, port: {dicom_port}}}
web: {{host: 127.0.0.1, port: {web_port}}}
site: {{institution_name: CAIDX demonstration}}
log: {{level: info, format: json}}
"""


@dataclass(frozen=True, slots=True)
class DemoHub:
    """Where it listens, and where its files are."""

    folder: Path
    dicom_port: int
    web_port: int

    @property
    def config_file(self) -> Path:
        return self.folder / "caidx.yaml"

    @property
    def log_file(self) -> Path:
        return self.folder / "hub.log"

    @property
    def results(self) -> Path:
        return self.folder / "results"


def prepare(folder: Path) -> DemoHub:
    """Write the configuration; the default ports where they are free, else any."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = DemoHub(folder, _free_port(_DICOM_PORT), _free_port(_WEB_PORT))
    text = _CONFIGURATION.format(data=folder, dicom_port=hub.dicom_port, web_port=hub.web_port)
    hub.config_file.write_text(text, encoding="utf-8")
    return hub


@contextmanager
def running(hub: DemoHub) -> Iterator[None]:
    """``caidx serve`` as a child process; its log goes to ``hub.log``. Yields at once: ask
    ``wait_until_ready``."""
    command = [sys.executable, "-m", "hub", "--config", str(hub.config_file), "serve"]
    with hub.log_file.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        try:
            yield
        finally:
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


def wait_until_ready(hub: DemoHub) -> None:
    """Until receiver, worker and web are there.

    Raises:
        TransientError: they are not, after two minutes.
    """
    deadline = time.monotonic() + _START_SECONDS
    address = f"http://127.0.0.1:{hub.web_port}/health/ready"
    while time.monotonic() < deadline:
        if _is_ready(address) and _listens(hub.dicom_port):
            return
        time.sleep(0.1)
    raise TransientError(f"the hub did not start; {hub.log_file} says why")


def _is_ready(address: str) -> bool:
    try:
        return bool(httpx.get(address, timeout=2.0).json()["status"] == "ready")
    except (httpx.HTTPError, ValueError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TransientError("no TCP port is free on 127.0.0.1")
