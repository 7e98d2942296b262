"""A package of somebody else: its own distribution, found through its entry points.

It brings a model adapter whose answers wait at a gate that a test opens, and a destination.
"""

from __future__ import annotations

import os
from pathlib import Path

_METADATA = "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n"
_ENTRY_POINTS = """\
[caidx.model_adapters]
gate = stranger:ADAPTER

[caidx.connectors]
postbox = stranger:CONNECTOR
"""
_CODE = '''\
"""Nothing of the hub but its ports, its domain and its errors."""

import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hub.domain.delivery import DocumentKind, Receipt
from hub.domain.inference import InferenceResult, Outcome
from hub.errors import TransientError
from hub.ports import AdapterKind, Connector, Health, HealthState


class GateConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path


class Gate:
    """Writes down when a request starts and ends; in between it waits for the file "open"."""

    def __init__(self, config, context):
        self.folder, self.clock = config.folder, context.clock

    def load(self, package):
        (self.folder / package.key.model_id).mkdir(parents=True, exist_ok=True)

    def infer(self, request):
        folder = self.folder / request.model.model_id
        self._note(folder, "start", request)
        deadline = time.monotonic() + 300
        while not (folder / "open").exists():
            if time.monotonic() > deadline:
                raise TransientError("nobody opened the gate")
            time.sleep(0.02)
        self._note(folder, "end", request)
        return InferenceResult(
            request_id=request.request_id,
            model=request.model,
            identity=request.study.identity,
            outcome=Outcome.NOT_ASSESSABLE,
            reasons=("it only waited at the gate",),
        )

    def _note(self, folder, what, request):
        handle = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what} {request.study.study_instance_uid}\\n".encode())
        os.close(handle)

    def unload(self, model):
        pass

    def health(self):
        return Health(HealthState.HEALTHY, "at the gate", self.clock.now())

    def close(self):
        pass


class PostboxConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    box: Path


class Postbox:
    def __init__(self, config, context):
        self.box = config.box

    def deliver(self, document, idempotency_key):
        self.box.mkdir(parents=True, exist_ok=True)
        (self.box / document.document_id).write_bytes(document.content)
        return Receipt("in the box")

    def check(self):
        return "a box"

    def close(self):
        pass


ADAPTER = AdapterKind(runtime_kind="onnx", config=GateConfig, build=Gate)
CONNECTOR = Connector(
    destination_config=PostboxConfig, build_destination=Postbox, accepts=(DocumentKind.SR,)
)
'''


def install(folder: Path) -> dict[str, str]:
    """Write the distribution; the environment in which Python finds it."""
    metadata = folder / "stranger-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    (folder / "stranger.py").write_text(_CODE)
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), known)))}


class Gate:
    """The test's side of one model of the adapter ``gate``."""

    def __init__(self, folder: Path, model_id: str) -> None:
        self._folder = folder / model_id

    def open(self) -> None:
        """Let everyone through, now and later."""
        (self._folder / "open").touch()

    @property
    def notes(self) -> list[tuple[str, str]]:
        """("start" or "end", Study Instance UID), in order."""
        log = self._folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(what, uid) for what, _, uid in (line.partition(" ") for line in lines)]

    @property
    def started(self) -> list[str]:
        return [uid for what, uid in self.notes if what == "start"]

    @property
    def most_at_once(self) -> int:
        """Most requests that were at the gate at the same time."""
        now = most = 0
        for what, _ in self.notes:
            now += 1 if what == "start" else -1
            most = max(most, now)
        return most
