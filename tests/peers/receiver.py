"""A receiver in a process of its own, whose memory can be measured: a DICOM source in front of
the hub's header scan and of nothing else.

    python -m tests.peers.receiver PORT SETTINGS-AS-JSON

Prints ``ready``, then one line of JSON for each object stored and each transfer ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import psutil

from hub.errors import RejectedError
from hub.formats.dicom.header import scan_header
from hub.ports import Buffer, EndOfTransfer, ReceivedObject, Sender, SourceContext
from tests.peers import free_port


class WallClock:
    """hub.ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class TellingSpool:
    """hub.ports.Spool: keeps nothing but the hash."""

    def __init__(self, uid: str) -> None:
        self._uid = uid
        self._hash = sha256()
        self._open = True

    def write(self, chunk: Buffer) -> None:
        self._hash.update(chunk)

    def store(self) -> None:
        self._open = False
        tell(stored=self._uid, sha256=self._hash.hexdigest())

    def discard(self) -> None:
        if self._open:
            self._open = False
            tell(discarded=self._uid)


class TellingReception:
    """hub.ports.Reception: checks the header as the hub's intake does."""

    def store(self, received: ReceivedObject) -> None:
        data_set = bytes(received.data_set)
        scan = scan_header(data_set, received.transfer_syntax_uid)
        named = (received.sop_class_uid, received.sop_instance_uid)
        if named != (scan.sop_class_uid, scan.sop_instance_uid):
            raise RejectedError("it is another object than the message names")
        tell(stored=received.sop_instance_uid, sha256=sha256(data_set).hexdigest())

    def spool(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> TellingSpool:
        return TellingSpool(sop_instance_uid)

    def close(self, end: EndOfTransfer) -> None:
        tell(end=end)


class TellingIntake:
    """hub.ports.Intake."""

    def open(self, sender: Sender) -> TellingReception:
        return TellingReception()


def tell(**event: str) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


@dataclass
class Receiver:
    """The process as its parent sees it."""

    port: int
    process: subprocess.Popen[str]
    events: list[dict[str, str]]

    @property
    def stored(self) -> dict[str, str]:
        """SOP Instance UID -> SHA-256 of the data set."""
        return {event["stored"]: event["sha256"] for event in self.events if "stored" in event}

    def told(self, key: str) -> list[str]:
        return [event[key] for event in self.events if key in event]

    @property
    def peak_memory(self) -> int:
        """The most that was ever resident, in bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:  # noqa: PTH123
            (line,) = [line for line in status if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    @property
    def threads(self) -> int:
        return psutil.Process(self.process.pid).num_threads()

    @property
    def runs(self) -> bool:
        return self.process.poll() is None


@contextmanager
def receiver(**settings: Any) -> Iterator[Receiver]:
    """A receiver in a child process; ended in an orderly way."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.peers.receiver", str(port), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    here = Receiver(port, process, [])
    lines = process.stdout

    def listen() -> None:
        for line in lines:
            if line.startswith("{"):
                here.events.append(json.loads(line))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield here
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
        thread.join(10)
        process.stdout.close()


def main() -> None:
    import structlog

    from connectors.dicom.config import DicomSourceConfig
    from connectors.dicom.source import DicomSource

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = {"stop_grace": 0.5, "services": (), **json.loads(sys.argv[2])}
    config = DicomSourceConfig(port=int(sys.argv[1]), **settings)
    context = SourceContext("receiver", TellingIntake(), WallClock(), None)  # type: ignore[arg-type]
    source = DicomSource(config, context)
    source.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while os.read(0, 1):  # until the parent closes it, or is gone
        time.sleep(0)
    source.stop()


if __name__ == "__main__":
    main()
