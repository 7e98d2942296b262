"""What it costs that the hub asks a model, beside onnxruntime in a bare loop and four servers.

``python -m tests.bench inference`` lets 1, 8 and 32 clients ask a network of the size of ResNet-18
and a tiny one, in turn. The hub is asked in its own process, as its pipeline does: images are
read, decoded and prepared in a worker process, the answer becomes findings. The servers get the
prepared tensor by HTTP, from wrk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
from rich.console import Console
from rich.table import Table

from hub.domain.inference import InferenceResult
from hub.ports import AdapterContext
from model_adapters.onnx_local import ADAPTER
from model_adapters.onnx_local.config import OnnxLocalConfig
from tests.bench.inference_load import Loop, by_http, in_process
from tests.bench.inference_models import BenchModel, bench_models
from tests.bench.inference_servers import SERVERS, Served
from tests.bench.results import facts, write
from tests.unit.adapters.toy_models import Files, WallClock

CLIENTS = (1, 8, 32)
RAW = ("onnxruntime, 2 threads", "onnxruntime, 1 thread")
HUB = ("hub, 1 process of 2 threads", "hub, 2 processes of 1 thread")
WARM = 5

Loops = dict[str, dict[str, list[Loop]]]
"""Model -> what was asked -> its loops."""


def main(arguments: Sequence[str]) -> int:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="tests.bench inference")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-servers", action="store_true", help="only the hub and the bare loop")
    options = parser.parse_args(arguments)
    loops: Loops = {}
    with tempfile.TemporaryDirectory(prefix="bench-inference-") as name:
        folder = Path(name)
        models, store = bench_models(folder)
        for _ in range(options.rounds):
            for model in models:
                found = loops.setdefault(model.name, {})
                _round(model, store, found, options, folder)
    ratios = _ratios(loops)
    _show(loops, ratios)
    rows = {m: {k: [one.row for one in v] for k, v in of.items()} for m, of in loops.items()}
    result = facts("caidx-hub", "onnxruntime", wrk=("wrk", "-v"))
    write("inference", result | {"ratios": ratios, "loops": rows})
    return 0


def _round(
    model: BenchModel, store: Files, found: dict[str, list[Loop]], options: Any, folder: Path
) -> None:
    """Each in turn; the hub and the bare loop directly after each other."""

    def measure(name: str, loop: Callable[[int], Loop]) -> None:
        found.setdefault(name, []).extend(loop(clients) for clients in CLIENTS)

    for raw, hub, threads in zip(RAW, HUB, (2, 1), strict=True):
        bare = _bare(model, threads)
        measure(raw, lambda n, ask=bare: in_process(ask, n, options.seconds))
        with _hub(model, store, threads) as ask:
            measure(hub, lambda n, ask=ask: in_process(ask, n, options.seconds))
    if options.no_servers:
        return
    for name, serve in SERVERS.items():
        with serve(model, 2, folder) as served:  # type: ignore[attr-defined]
            measure(name, lambda n, at=served: _http(at, n, options.seconds, folder))


def _bare(model: BenchModel, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(model.graph), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": model.tensor}
    for _ in range(WARM):
        session.run(["score"], feeds)
    return lambda: session.run(["score"], feeds)


@contextmanager
def _hub(model: BenchModel, store: Files, threads: int) -> Iterator[Callable[[], object]]:
    config = OnnxLocalConfig(processes=3 - threads, intra_op_threads=threads)
    adapter: Any = ADAPTER.build(config, AdapterContext("bench", store, WallClock()))
    try:
        adapter.load(model.package)

        def ask() -> None:
            answer = adapter.infer(model.request)
            assert isinstance(answer, InferenceResult), answer

        for _ in range(WARM * 2):
            ask()
        yield ask
    finally:
        adapter.close()


def _http(served: Served, clients: int, seconds: float, folder: Path) -> Loop:
    body = folder / "body"
    body.write_bytes(served.body)
    by_http(served.url, body, served.media_type, 1, 1, folder)
    return by_http(served.url, body, served.media_type, clients, seconds, folder)


# --- what it says ------------------------------------------------------------------------


def _rate(loops: Sequence[Loop], clients: int) -> float:
    return median(one.rate for one in loops if one.clients == clients)


def _p50(loops: Sequence[Loop], clients: int) -> float:
    return median(one.p50_ms for one in loops if one.clients == clients)


def _ratios(loops: Loops) -> dict[str, float]:
    """Rates over that of the best bare loop with as many clients; and what one client waits
    longer for the hub than for the bare loop with as many threads, as a share of the latter."""
    ratios: dict[str, float] = {}
    for model, of in loops.items():
        for clients in CLIENTS:
            best = max(_rate(of[name], clients) for name in RAW)
            hub = max(_rate(of[name], clients) for name in HUB)
            ratios[f"{model}: hub over best bare loop, {clients} clients"] = hub / best
            for name in SERVERS:
                if name in of:
                    rate = _rate(of[name], clients)
                    ratios[f"{model}: hub over {name}, {clients} clients"] = hub / rate
        bare, hub_ms = _p50(of[RAW[0]], 1), _p50(of[HUB[0]], 1)
        ratios[f"{model}: overhead of one request"] = (hub_ms - bare) / bare
    return {name: round(value, 4) for name, value in ratios.items()}


def _show(loops: Loops, ratios: dict[str, float]) -> None:
    console = Console()
    for model, of in loops.items():
        table = Table(title=model, title_justify="left")
        table.add_column("")
        for clients in CLIENTS:
            table.add_column(f"{clients} clients: answers/s (p50 / p99 ms)", justify="right")
        for name, found in of.items():
            cells = [_cell(found, clients) for clients in CLIENTS]
            table.add_row(name, *cells)
        console.print(table)
    for name, value in ratios.items():
        console.print(f"{name}: {value:.3f}")


def _cell(found: Sequence[Loop], clients: int) -> str:
    p99 = median(one.p99_ms for one in found if one.clients == clients)
    errors = sum(one.errors for one in found if one.clients == clients)
    shown = f"{_rate(found, clients):,.1f} ({_p50(found, clients):.2f} / {p99:.2f})"
    return f"{shown}, {errors} errors" if errors else shown
