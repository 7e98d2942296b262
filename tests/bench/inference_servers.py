"""Other projects' servers, each started for one model and stopped again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.bench.inference_models import BenchModel
from tests.peers import free_port

PEERS = Path(__file__).parent / "inference_peers"
ENVIRONMENT = PEERS / ".venv"
START_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    body: bytes
    media_type: str


@dataclass(frozen=True)
class _Process:
    command: list[str]
    environment: Mapping[str, str]
    folder: Path


@contextmanager
def fastapi(model: BenchModel, threads: int, folder: Path) -> Iterator[Served]:
    """FastAPI, a binary body."""
    port = free_port()
    shape = ",".join(map(str, model.tensor.shape))
    command = ["fastapi_peer.py", str(model.graph), shape, str(threads), str(port)]
    process = _Process(_python(*command), {}, folder)
    base = f"http://127.0.0.1:{port}"
    with _running(process, lambda: _answers(f"{base}/ready")):
        yield Served(f"{base}/infer", model.tensor.tobytes(), "application/octet-stream")


@contextmanager
def mlserver(model: BenchModel, threads: int, folder: Path) -> Iterator[Served]:
    """MLServer, Open Inference Protocol in JSON."""
    home = folder / f"mlserver-{model.name}"
    home.mkdir(exist_ok=True)
    port = free_port()
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (home / "settings.json").write_text(json.dumps(server))
    settings = {"name": "bench", "implementation": "mlserver_peer.OnnxModel"}
    (home / "model-settings.json").write_text(json.dumps(settings))
    environment = {
        "PYTHONPATH": str(PEERS.resolve()),
        "BENCH_GRAPH": str(model.graph),
        "BENCH_THREADS": str(threads),
    }
    command = [str((ENVIRONMENT / "bin" / "mlserver").absolute()), "start", str(home)]
    base = f"http://127.0.0.1:{port}/v2/models/bench"
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": list(model.tensor.shape),
                    "data": model.tensor.ravel().tolist(),
                }
            ]
        }
    ).encode()
    with _running(_Process(command, environment, folder), lambda: _answers(f"{base}/ready")):
        yield Served(f"{base}/infer", body, "application/json")


@contextmanager
def bentoml(model: BenchModel, threads: int, folder: Path) -> Iterator[Served]:
    """BentoML, its usual JSON."""
    port = free_port()
    environment = {
        "BENCH_GRAPH": str(model.graph),
        "BENCH_THREADS": str(threads),
        "BENTOML_HOME": str(folder / "bento"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    command = [
        str((ENVIRONMENT / "bin" / "bentoml").absolute()),
        "serve",
        "bento_peer:Bench",
        "--working-dir",
        str(PEERS.resolve()),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    base = f"http://127.0.0.1:{port}"
    body = json.dumps({"x": model.tensor.tolist()}).encode()
    with _running(_Process(command, environment, folder), lambda: _answers(f"{base}/readyz")):
        yield Served(f"{base}/infer", body, "application/json")


@contextmanager
def ray_serve(model: BenchModel, threads: int, folder: Path) -> Iterator[Served]:
    """Ray Serve, one replica, a binary body."""
    port = free_port()
    shape = ",".join(map(str, model.tensor.shape))
    command = ["ray_peer.py", str(model.graph), shape, str(threads), str(port)]
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    base = f"http://127.0.0.1:{port}/"
    process = _Process(_python(*command), environment, folder)
    with _running(process, lambda: _answers(base)):
        yield Served(base, model.tensor.tobytes(), "application/octet-stream")


SERVERS: Mapping[str, Callable[[BenchModel, int, Path], object]] = {
    "FastAPI, binary": fastapi,
    "MLServer, V2 JSON": mlserver,
    "BentoML, JSON": bentoml,
    "Ray Serve, binary": ray_serve,
}


def _python(script: str, *arguments: str) -> list[str]:
    return [str((ENVIRONMENT / "bin" / "python").absolute()), str(PEERS / script), *arguments]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def _running(process: _Process, ready: Callable[[], bool]) -> Iterator[None]:
    """Started and answering; then the process and all its children are stopped."""
    log = process.folder / "server.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            process.command, stdout=output, stderr=output, env=os.environ | process.environment
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.command[0]}: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        _stop(child.pid)


def _stop(pid: int) -> None:
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    parent.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive, timeout=10)
