"""Local ONNX models in worker processes: a manifest and a graph, no code."""

from hub.ports import AdapterKind, at_first_call
from model_adapters.onnx_local.config import OnnxLocalConfig

ADAPTER = AdapterKind(
    runtime_kind="onnx",
    config=OnnxLocalConfig,
    build=at_first_call("model_adapters.onnx_local.adapter:OnnxLocalAdapter"),
)
