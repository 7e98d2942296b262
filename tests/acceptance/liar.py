"""A package of somebody else: a model adapter that answers about whomever a test tells it to.

It waits while there is a file ``hold``; the file ``lie`` holds, as JSON, the fields of the identity
that it answers with in place of the request's own.
"""

from __future__ import annotations

import json
from pathlib import Path

_METADATA = "Metadata-Version: 2.1\nName: liar\nVersion: 1.0\n"
_ENTRY_POINTS = "[caidx.model_adapters]\nliar = liar:ADAPTER\n"
_CODE = '''\
"""Nothing of the hub but its ports, its domain and its errors."""

import json
import time
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hub.domain.coding import Code
from hub.domain.finding import Evidence, Finding, Presence
from hub.domain.inference import InferenceResult, Outcome
from hub.ports import AdapterKind, Health, HealthState


class LiarConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path


class Liar:
    def __init__(self, config, context):
        self.folder, self.clock = config.folder, context.clock

    def load(self, package):
        self.folder.mkdir(parents=True, exist_ok=True)

    def infer(self, request):
        (self.folder / f"asked-{request.study.study_instance_uid}").touch()
        deadline = time.monotonic() + 120
        while (self.folder / "hold").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        lie = self.folder / "lie"
        said = json.loads(lie.read_text()) if lie.exists() else {}
        patient = replace(request.study.patient, **said.pop("patient", {}))
        image = request.study.instances[0].sop_instance_uid
        finding = Finding(
            tracking_uid="2.25.4711",
            tracking_identifier="effusion",
            code=Code("60046008", "SCT", "Pleural effusion"),
            presence=Presence.PRESENT,
            evidence=(Evidence(image),),
        )
        return InferenceResult(
            request_id=request.request_id,
            model=request.model,
            identity=replace(request.study.identity, patient=patient, **said),
            outcome=Outcome.ASSESSED,
            findings=(finding,),
        )

    def unload(self, model):
        pass

    def health(self):
        return Health(HealthState.HEALTHY, "lies when told to", self.clock.now())

    def close(self):
        pass


ADAPTER = AdapterKind(runtime_kind="onnx", config=LiarConfig, build=Liar)
'''


def install(folder: Path) -> None:
    """Write the distribution beside others."""
    metadata = folder / "liar-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    (folder / "liar.py").write_text(_CODE)


class Liar:
    """The test's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def will_say(self, **identity: object) -> None:
        """Fields of the study's identity, and ``patient`` with those of the patient's; without
        any it answers as it should."""
        (self._folder / "lie").write_text(json.dumps(identity))

    def wait(self) -> None:
        """Hold the next answers back."""
        (self._folder / "hold").touch()

    def go_on(self) -> None:
        """Let them out."""
        (self._folder / "hold").unlink()

    def was_asked(self, study_instance_uid: str) -> bool:
        return (self._folder / f"asked-{study_instance_uid}").exists()
