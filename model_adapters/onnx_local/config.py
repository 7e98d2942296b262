"""Configuration of the local ONNX adapter."""

from __future__ import annotations

from pydantic import Field

from model_adapters.tensors.config import WorkerConfig, cores


class OnnxLocalConfig(WorkerConfig):
    """How many worker processes run local models, and what each may use."""

    intra_op_threads: int | None = Field(default=None, ge=1, le=256)
    """Threads of one graph. Default: the cores divided by the processes."""

    @property
    def threads_per_graph(self) -> int:
        """Threads of one graph."""
        return self.intra_op_threads or max(1, cores() // self.processes)
