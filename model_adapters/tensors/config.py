"""Configuration that the adapters of tensor models share: their worker processes."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerConfig(BaseModel):
    """How many worker processes read the input of models, and what each may use."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    processes: int = Field(default_factory=lambda: min(2, cores()), ge=1, le=64)
    """Worker processes; each runs one request at a time. Default: 2, or the cores if fewer."""
    decoder_threads: int | None = Field(default=None, ge=1, le=256)
    """Threads that decompress images in one worker. Default: the cores, at most 4."""
    memory_limit_mb: int | None = Field(default=None, ge=256)
    """Most private memory of one worker, in MiB; beyond it only the request at hand fails."""
    start_timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest time for a worker to start and for a model to load in it."""

    @property
    def threads_per_decoder(self) -> int:
        """Threads that decompress images."""
        return self.decoder_threads or min(4, cores())
