"""Has inference servers run the models of registered packages: input is read and decoded in worker
processes here, tensors travel, and findings are made here."""

from __future__ import annotations

from hub.ports import AdapterContext
from hub.transport.address_guard import AddressGuard
from model_adapters.open_inference.config import OpenInferenceConfig
from model_adapters.open_inference.settings import EngineSettings
from model_adapters.tensors.adapter import TensorAdapter
from model_adapters.tensors.messages import EngineKind


class OpenInferenceAdapter(TensorAdapter):
    """A ``ModelAdapter``. The HTTP exchange is the worker's: it has the tensors.

    Raises:
        ConfigError: `outbound.private_networks` cannot be used.
    """

    def __init__(self, config: OpenInferenceConfig, context: AdapterContext) -> None:
        AddressGuard(context.private_networks)  # a mistake in it is told now, and not by a worker
        settings = EngineSettings(
            servers=config.servers,
            private_networks=context.private_networks,
            answer_bytes=config.answer_limit_mb << 20,
            load_seconds=config.start_timeout_seconds * _OF_THE_START,
        )
        opener = "model_adapters.open_inference.engine:open_engine"
        super().__init__(
            EngineKind("open-inference", opener, settings),
            config,
            context,
            reading_seconds=config.read_timeout_seconds,
        )


_OF_THE_START = 0.8
"""So that a slow server is told from a worker that hangs."""
