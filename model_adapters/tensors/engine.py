"""What an adapter adds to the shared machinery: how a worker process opens a model, and asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hub.domain.model_card import ModelCard
from hub.ports import ModelPackage
from model_adapters.tensors.feeding import bindings_of, feed
from model_adapters.tensors.preprocessing import Data

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an engine answered."""

    tensors: Mapping[str, Array]
    """Every output by name."""
    version: str = ""
    """As `Engine.version`, of what gave this answer."""
    ran_on: str = ""
    """As `hub.domain.inference.InferenceResult.ran_on`."""


class Engine(Protocol):
    """A model that is ready to be asked. Used by one thread."""

    @property
    def version(self) -> str:
        """What tells this model from another one of the same name, where the digest of the package
        does not; empty: nothing, or it is not known before the first answer."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> Outputs:
        """Raises:
        RejectedError: the model does not take this input, or its answer is broken.
        TransientError: it cannot be asked now.
        """
        ...

    def close(self) -> None:
        """It is not asked again."""
        ...


class OpenEngine(Protocol):
    """Opens the model of a package in the worker process."""

    def __call__(self, package: ModelPackage, settings: Any) -> Engine:
        """``settings``: of `model_adapters.tensors.messages.EngineKind`.

        Raises:
            ConfigError: the model is not what the manifest says.
            TransientError: it cannot be opened now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A card and the engine that runs it."""

    card: ModelCard
    engine: Engine

    def run(self, data: Data) -> Outputs:
        """Feed the engine as the manifest says.

        Raises:
            UnsuitableError: the model needs what the input does not have.
            RejectedError, TransientError: see `Engine.run`.
        """
        return self.engine.run({b.name: feed(b, data) for b in bindings_of(self.card)})
