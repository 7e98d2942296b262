"""The simulated vendor (`caidx simulate vendor`) as a process of its own."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.peers import free_port

STOP_TIMEOUT = 20.0
SECRET = f"whsec_{b64encode(b'a vendor and a hub share it').decode()}"
"""For `--secret`, and the hub's `webhook_secrets`."""
API_KEY = "the-hubs-key-at-the-vendor"


@dataclass
class VendorPeer:
    """One that runs."""

    url: str
    """For the manifest's `runtime.url`."""
    log: Path
    process: subprocess.Popen[str]
    tls: ssl.SSLContext | None = None
    """How tests reach it, where it speaks HTTPS."""

    def statistics(self) -> dict[str, Any]:
        """What happened so far: `counts` (asked, asked-after, cancelled, unauthorized, redirected),
        `computed` (by request), `webhooks` (kind, request_id, status)."""
        found: dict[str, Any] = self._get("statistics")
        return found

    def received(self) -> list[dict[str, Any]]:
        """Requests as they came: `headers` (without credentials) and `body`."""
        found: list[dict[str, Any]] = self._get("received")
        return found

    def _get(self, path: str) -> Any:
        root = self.url.rpartition("/")[0]
        with httpx.Client(verify=self.tls or True, timeout=20) as client:
            answer = client.get(f"{root}/{path}", headers={"X-API-Key": API_KEY})
            return answer.raise_for_status().json()


@contextmanager
def simulated_vendor(
    folder: Path,
    behaviour: str = "ok",
    *options: str,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[VendorPeer]:
    """Start it, yield it when it listens, end it.

    Args:
        folder: its log is written there.
        behaviour: `--behaviour`.
        options: further ones, as on the command line (`"--delay", "3"`).
        port: the same again for one that was stopped; 0: one that is free.
        tls: for tests to reach it, where the options make it speak HTTPS.
    """
    log = folder / f"vendor-{behaviour}.log"
    command = [sys.executable, "-m", "hub", "simulate", "vendor", "--behaviour", behaviour]
    command += ["--port", str(port or free_port()), *options]
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the vendor did not start:\n{log.read_text()}"
        yield VendorPeer(json.loads(line)["url"], log, process, tls)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT)
        if process.stdout is not None:
            process.stdout.close()
