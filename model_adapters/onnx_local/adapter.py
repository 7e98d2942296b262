"""Runs ONNX models of registered packages in local worker processes."""

from __future__ import annotations

from hub.ports import AdapterContext
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.tensors.adapter import TensorAdapter
from model_adapters.tensors.messages import EngineKind


class OnnxLocalAdapter(TensorAdapter):
    """A ``ModelAdapter``: one request costs at most one worker process."""

    def __init__(self, config: OnnxLocalConfig, context: AdapterContext) -> None:
        opener = "model_adapters.onnx_local.graph:open_graph"
        super().__init__(EngineKind("onnx", opener, config.threads_per_graph), config, context)
