"""Closed loops: so many clients, each of which asks again as soon as it has its answer."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Loop:
    """What one loop reached."""

    clients: int
    rate: float
    """Answers per second."""
    p50_ms: float
    p99_ms: float
    errors: int = 0

    @property
    def row(self) -> dict[str, Any]:
        return asdict(self)


def in_process(ask: Callable[[], object], clients: int, seconds: float) -> Loop:
    """Threads that call a function; what begins before the end counts whole."""
    taken: list[float] = []
    finished: list[float] = []
    begun = time.perf_counter()
    end = begun + seconds

    def client() -> None:
        mine: list[float] = []
        while (start := time.perf_counter()) < end:
            ask()
            mine.append(time.perf_counter() - start)
        taken.extend(mine)
        finished.append(time.perf_counter())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(taken) / (max(finished) - begun)
    return Loop(clients, rate, median(taken) * 1e3, _p99(taken) * 1e3)


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


_WRK = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "{media_type}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d,'
    .. ' "errors": %d}}\\n', summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def by_http(  # noqa: PLR0917
    url: str, body: Path, media_type: str, clients: int, seconds: float, folder: Path
) -> Loop:
    """wrk, which costs the server's machine least."""
    script = folder / "post.lua"
    script.write_text(_WRK.format(media_type=media_type, body=body))
    command = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds:g}s",
        "--timeout",
        "60s",
        "-s",
        str(script),
        url,
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(one for one in shown.splitlines() if one.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Loop(
        clients,
        found["requests"] / found["microseconds"] * 1e6,
        found["p50"] / 1e3,
        found["p99"] / 1e3,
        found["errors"],
    )
