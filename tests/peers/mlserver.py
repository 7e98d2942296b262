"""A real server of the Open Inference Protocol: MLServer, which runs ONNX files.

``tests/peers/mlserver`` holds the lock file of its packages, which are installed on first use into
a virtual environment of their own: they do not go together with the hub's. Its REST interface
knows JSON tensors only; the binary tensor data extension is Triton's.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.peers import free_port

FOLDER = Path(__file__).parent / "mlserver"
START_TIMEOUT = 180.0
_VENV = FOLDER / ".venv"


@dataclass(frozen=True)
class ServedFile:
    """An ONNX file and what the server calls it."""

    name: str
    path: Path
    version: str = ""


class MlServer:
    """One server on free ports; ``kill`` and ``start`` keep the ports and the models."""

    def __init__(self, folder: Path, models: tuple[ServedFile, ...]) -> None:
        install_mlserver()
        self.models = models
        self._folder = folder
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._write_settings()
        self.serve(models)

    def serve(self, models: tuple[ServedFile, ...]) -> None:
        """What it serves from its next start on."""
        self.models = models
        shutil.rmtree(self._folder / "models", ignore_errors=True)
        for model in models:
            parameters = {"uri": str(model.path)}
            settings = {
                "name": model.name,
                "implementation": "onnx_model.OnnxModel",
                "parameters": parameters | ({"version": model.version} if model.version else {}),
            }
            folder = self._folder / "models" / model.name
            folder.mkdir(parents=True)
            (folder / "model-settings.json").write_text(json.dumps(settings))

    def start(self) -> None:
        """Start, and return when it is ready."""
        assert self._process is None, "MLServer runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(_VENV / "bin" / "mlserver"), "start", str(self._folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(FOLDER), "OMP_NUM_THREADS": "1"},
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"MLServer did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End at once; does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def signal(self, signal_number: int) -> None:
        """With SIGSTOP it hangs, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal_number)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/v2/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _write_settings(self) -> None:
        settings = {
            "host": "127.0.0.1",
            "http_port": self._port,
            "grpc_port": free_port(),
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
        }
        (self._folder / "settings.json").write_text(json.dumps(settings))


@contextmanager
def mlserver(folder: Path, *models: ServedFile) -> Iterator[MlServer]:
    """A running server, killed at the end.

    Args:
        folder: an empty one, for its settings and its log.
        models: what it serves.
    """
    server = MlServer(folder, models)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def install_mlserver() -> None:
    """Install its packages where they are missing or older than the lock file; the Makefile's
    target ``peers`` calls this, too."""
    wanted, stamp = FOLDER / "requirements.lock", _VENV / ".installed"
    with (FOLDER / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
            return
        shutil.rmtree(_VENV, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(_VENV))
        pip = (str(_VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "--no-input", "install", "--quiet", "--require-hashes", "-r", str(wanted))
        stamp.touch()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
