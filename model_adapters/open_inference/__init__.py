"""Models on servers of the Open Inference Protocol, version 2: KServe, Triton, OpenVINO Model
Server, MLServer, Ray Serve."""

from hub.ports import AdapterKind, at_first_call
from model_adapters.open_inference.config import OpenInferenceConfig

ADAPTER = AdapterKind(
    runtime_kind="open_inference",
    config=OpenInferenceConfig,
    build=at_first_call("model_adapters.open_inference.adapter:OpenInferenceAdapter"),
)
