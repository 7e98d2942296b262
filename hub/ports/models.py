"""Ways to run a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hub.domain.inference import Deferred, InferenceRequest, InferenceResult, ModelKey, Unsuitable
from hub.domain.model_card import ModelCard
from hub.ports.process import Health


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model as registered: its card, its files, its digest."""

    key: ModelKey
    card: ModelCard
    directory: Path
    """Folder of ``model.yaml``."""
    artefacts: Mapping[str, Path] = field(default_factory=dict)
    """``Artefact.path`` of the card -> the file itself: found, contained and pinned when the
    package was registered. Whoever reads it checks the SHA-256 of what was read."""


class ModelAdapter(Protocol):
    """One way to run models. Thread-safe; ``infer`` may be called concurrently."""

    def load(self, package: ModelPackage) -> None:
        """Make a model ready; loading a new version happens before the old one is unloaded.

        Raises:
            ConfigError: the package is not what its manifest says.
            TransientError: it cannot be loaded now.
        """
        ...

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        """Answer one request.

        Raises:
            TransientError: this attempt failed (worker died, time-out); another may succeed.
            RejectedError: the input cannot be read or the model's answer is broken.
        """
        ...

    def unload(self, model: ModelKey) -> None: ...

    def health(self) -> Health: ...

    def close(self) -> None: ...
