"""What is plugged in: connectors and model adapters, found through their entry points.

Built-in parts arrive the same way as a stranger's package. A part that cannot be imported is
kept with its reason, so that the rest goes on and an operator can read why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.inference import Outcome
from hub.errors import RejectedError
from hub.ports import AdapterKind, Connector, Destination, ModelAdapter, ModelPackage

CONNECTORS = "caidx.connectors"
MODEL_ADAPTERS = "caidx.model_adapters"
MODELS = "caidx.models"
"""Entry points whose value is the folder (pathlib.Path) of a model that a package ships."""

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """An entry point that could not be loaded."""

    group: str
    kind: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True)
class Components:
    """Every kind of part that this installation knows."""

    connectors: Mapping[str, Connector]
    adapters: Mapping[str, AdapterKind]
    models: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the models that installed packages ship, for ``builtin:<name>``."""
    unavailable: tuple[Unavailable, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model that can be asked, and the adapter that runs it."""

    package: ModelPackage
    adapter: ModelAdapter


@dataclass(frozen=True, slots=True)
class RunningDestination:
    """A destination that can be sent to, and how."""

    destination: Destination
    documents: tuple[DocumentKind, ...]
    retry: RetryPolicy
    concurrency: int
    rate_per_minute: float | None = None
    """Most documents in a minute, by all workers together."""
    outcomes: frozenset[Outcome] = frozenset({Outcome.ASSESSED, Outcome.NOT_ASSESSABLE})
    """The results of which it gets a report."""
    critical_only: bool = False
    """It gets only reports with a critical finding."""


@dataclass(frozen=True, slots=True)
class Registry:
    """What runs in this process."""

    models: Mapping[str, RunningModel] = field(default_factory=dict)
    """By model id."""
    broken_models: Mapping[str, str] = field(default_factory=dict)
    """Configured models that cannot run: id -> the reason."""
    destinations: Mapping[str, RunningDestination] = field(default_factory=dict)
    """By name in the configuration."""

    def model(self, model_id: str) -> RunningModel:
        """Raises:
        RejectedError: it is not configured here, or cannot run; the message says why.
        """
        reason = self.why_not(model_id)
        if reason is not None:
            raise RejectedError(f"model {model_id} cannot run: {reason}")
        return self.models[model_id]

    def why_not(self, model_id: str) -> str | None:
        """Why a model cannot run; None when it can."""
        if model_id in self.models:
            return None
        return self.broken_models.get(model_id, "it is not configured")

    def destination(self, name: str) -> RunningDestination:
        """Raises:
        RejectedError: no such destination is configured here.
        """
        try:
            return self.destinations[name]
        except KeyError as error:
            raise RejectedError(f"destination {name} is not configured") from error


def discover() -> Components:
    """Load every entry point of the three groups."""
    connectors, no_connectors = _load(CONNECTORS, Connector)
    adapters, no_adapters = _load(MODEL_ADAPTERS, AdapterKind)
    models, no_models = _load(MODELS, Path)
    return Components(connectors, adapters, models, (*no_connectors, *no_adapters, *no_models))


def _load(group: str, expected: type[Part]) -> tuple[dict[str, Part], list[Unavailable]]:
    found: dict[str, Part] = {}
    missing: list[Unavailable] = []
    for point in sorted(entry_points(group=group), key=lambda p: p.name):
        try:
            part = point.load()
        except (ImportError, AttributeError) as error:
            missing.append(_unavailable(group, point, f"{type(error).__name__}: {error}"))
            continue
        if isinstance(part, expected):
            found[point.name] = part
        else:
            missing.append(_unavailable(group, point, f"is no {expected.__name__}"))
    return found, missing


def _unavailable(group: str, point: EntryPoint, reason: str) -> Unavailable:
    distribution = point.dist.name if point.dist is not None else "unknown"
    return Unavailable(group, point.name, distribution, reason)
