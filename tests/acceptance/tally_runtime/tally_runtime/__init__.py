"""A stranger's model adapter: it writes down what happens to it, and answers when it may.

It knows nothing of the hub but its ports, its domain and its errors.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hub.domain.inference import InferenceRequest, InferenceResult, ModelKey, Outcome
from hub.errors import TransientError
from hub.ports import AdapterContext, AdapterKind, Health, HealthState, ModelPackage

_PATIENCE_SECONDS = 120


class TallyConfig(BaseModel):
    """Where the tally is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path


class Tally:
    """A ``ModelAdapter``: while there is a file ``hold`` in the folder, answers wait."""

    def __init__(self, config: TallyConfig, context: AdapterContext) -> None:
        self._folder, self._clock = config.folder, context.clock
        self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, package: ModelPackage) -> None:
        self._note("load", package.key)

    def infer(self, request: InferenceRequest) -> InferenceResult:
        uid = request.study.study_instance_uid
        self._note("start", request.model, uid)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (self._folder / "hold").exists():
            if time.monotonic() > deadline:
                raise TransientError("it was held for too long")
            time.sleep(0.01)
        self._note("end", request.model, uid)
        return InferenceResult(
            request_id=request.request_id,
            model=request.model,
            identity=request.study.identity,
            outcome=Outcome.NOT_ASSESSABLE,
            reasons=("it only counts",),
            ran_on="tally",
        )

    def unload(self, model: ModelKey) -> None:
        self._note("unload", model)

    def health(self) -> Health:
        return Health(HealthState.HEALTHY, "counts", self._clock.now())

    def close(self) -> None:
        """Nothing is held."""

    def _note(self, what: str, model: ModelKey, uid: str = "") -> None:
        """One line, whole, whoever else writes."""
        handle = os.open(self._folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what} {os.getpid()} {model.version} {uid}\n".encode())
        os.close(handle)


ADAPTER = AdapterKind(runtime_kind="onnx", config=TallyConfig, build=Tally)
