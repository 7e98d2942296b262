"""What a worker process gets to know, by its pipe, of the adapter's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from model_adapters.open_inference.config import ServerConfig


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """It holds secrets: never in arguments or the environment of a process."""

    servers: tuple[ServerConfig, ...] = field(default=(), repr=False)
    private_networks: tuple[str, ...] = ()
    answer_bytes: int = 1 << 30
    load_seconds: float = 48.0
    """For all questions about one model while it is loaded."""
