"""What is plugged in: connectors and model adapters, found through their entry points.

Built-in parts arrive the same way as a stranger's package. A part that cannot be imported is
kept with its reason, so that the rest goes on and an operator can read why.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from hub.domain.delivery import DocumentKind, RetryPolicy
from hub.domain.inference import ModelKey, Outcome
from hub.domain.model_card import ModelCard
from hub.errors import RejectedError
from hub.ports import AdapterKind, Connector, Destination, ModelAdapter, ModelPackage

CONNECTORS = "caidx.connectors"
MODEL_ADAPTERS = "caidx.model_adapters"
MODELS = "caidx.models"
"""Entry points whose value is the folder (pathlib.Path) of a model that a package ships."""

Part = TypeVar("Part")
Key = TypeVar("Key")
Value = TypeVar("Value")


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


class Live(Mapping[Key, Value]):
    """A mapping that others read while its owner replaces it, whole, at once."""

    def __init__(self, content: Mapping[Key, Value] | None = None) -> None:
        self._content: Mapping[Key, Value] = dict(content or {})

    def replace(self, content: Mapping[Key, Value]) -> None:
        """From now on it holds this."""
        self._content = dict(content)

    def __getitem__(self, key: Key) -> Value:
        return self._content[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def keys(self) -> KeysView[Key]:
        return self._content.keys()

    def values(self) -> ValuesView[Value]:
        return self._content.values()

    def items(self) -> ItemsView[Key, Value]:
        return self._content.items()


@dataclass(frozen=True, slots=True)
class Registry:
    """What runs in this process. In a worker its mappings are `Live`: models come and go."""

    models: Mapping[str, RunningModel] = field(default_factory=dict)
    """By model id: the version that new requests are pinned to."""
    broken_models: Mapping[str, str] = field(default_factory=dict)
    """Models that cannot run: id -> the reason."""
    destinations: Mapping[str, RunningDestination] = field(default_factory=dict)
    """By name in the configuration."""
    suspended: Mapping[str, str] = field(default_factory=dict)
    """Models that a person suspended: id -> by whom and why."""
    cards: Mapping[ModelKey, ModelCard] = field(default_factory=dict)
    """Of versions that do not run, and that requests are pinned to or may be."""
    bring: Callable[[ModelKey], RunningModel] | None = None
    """Loads a registered version that requests are pinned to and that does not run here: one that
    was replaced, or one that has just been activated. May raise ``RejectedError`` (there is none)
    or ``TransientError``."""
    look: Callable[[], None] | None = None
    """Loads what was activated since the last look, which is a moment ago."""

    def catch_up(self, model_ids: Iterable[str]) -> None:
        """Look at once where one of these does not run: it may have just been activated.

        Raises:
            TransientError: the database cannot be reached.
        """
        if self.look is not None and any(one not in self.models for one in model_ids):
            self.look()

    def model(self, model_id: str) -> RunningModel:
        """What new requests are pinned to.

        Raises:
            RejectedError: it is not configured here, or cannot run; the message says why.
        """
        found = self.models.get(model_id)
        if found is None:
            raise RejectedError(f"model {model_id} cannot run: {self.why_not(model_id)}")
        return found

    def pinned(self, key: ModelKey) -> RunningModel:
        """The version that a request is pinned to.

        Raises:
            RejectedError: it runs no longer, or cannot run; the message says why.
            TransientError: it cannot be loaded now.
        """
        found = self.models.get(key.model_id)
        if found is not None and found.package.key == key:
            return found
        if self.bring is not None:
            return self.bring(key)
        self.model(key.model_id)
        raise RejectedError(f"the request is pinned to {key}, which runs no longer")

    def card(self, key: ModelKey) -> ModelCard | None:
        """The card of one version; None where it is not known here."""
        found = self.models.get(key.model_id)
        if found is not None and found.package.key == key:
            return found.package.card
        return self.cards.get(key)

    def snapshot(self) -> Registry:
        """The models as they are now, for one piece of work.

        By their items: what goes by keys would ask for one that has just gone.
        """
        return replace(
            self,
            models=dict(self.models.items()),
            broken_models=dict(self.broken_models.items()),
            suspended=dict(self.suspended.items()),
        )

    def why_not(self, model_id: str) -> str | None:
        """Why a model cannot run; None when it can."""
        if model_id in self.models:
            return None
        suspended = self.suspended.get(model_id)
        if suspended is not None:
            return suspended
        return self.broken_models.get(model_id, "it is neither configured nor registered")

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
