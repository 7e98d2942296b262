"""The models and the destinations of a worker; the models begin to load before all else."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from hub.bootstrap.hub import Hub, package_of
from hub.config import ModelSettings, model_id_of
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.ports import AdapterContext, DestinationContext, ModelAdapter, ModelPackage
from hub.registry import Components, Registry, RunningDestination, RunningModel
from hub.store.confirmations import StoredConfirmations

_LOAD_ATTEMPTS = 3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadingModels:
    """Adapters whose models load on a thread, while the rest of the worker is built."""

    adapters: Mapping[str, ModelAdapter]
    registry: Future[Registry]
    """Done when every model is loaded, or cannot be."""


def begin_loading(hub: Hub) -> LoadingModels:
    """Start the adapters, and begin to load all models."""
    adapters = build_adapters(hub)
    loader = ThreadPoolExecutor(1, thread_name_prefix="load-models")
    registry = loader.submit(load_registry, hub, adapters)
    loader.shutdown(wait=False)
    return LoadingModels(adapters, registry)


def build_adapters(hub: Hub) -> dict[str, ModelAdapter]:
    """One adapter per kind that a model uses."""
    return {
        kind: hub.components.adapters[kind].build(
            options, AdapterContext(name=kind, objects=hub.objects, clock=hub.clock)
        )
        for kind, options in hub.settings.adapters.items()
    }


def build_destinations(hub: Hub) -> dict[str, RunningDestination]:
    """Every configured destination; none is contacted."""
    destinations = {}
    for entry in hub.settings.destinations:
        build = hub.components.connectors[entry.kind].build_destination
        if build is None:  # settings are validated against the connectors: a stranger's mistake
            problem = ConfigProblem(
                hub.settings.file, 0, entry.name, f"{entry.kind} is no destination"
            )
            raise ConfigError((problem,))
        context = DestinationContext(
            name=entry.name, clock=hub.clock, confirmations=StoredConfirmations(hub.database)
        )
        destinations[entry.name] = RunningDestination(
            destination=build(entry.options, context),
            documents=tuple(entry.documents),
            retry=entry.delivery.policy,
            concurrency=entry.concurrency,
            rate_per_minute=entry.rate_per_minute,
            outcomes=frozenset(entry.outcomes),
            critical_only=entry.critical_only,
        )
    return destinations


def load_registry(hub: Hub, adapters: Mapping[str, ModelAdapter]) -> Registry:
    """Load every model; one that cannot run is kept with its reason, and the others go on."""
    models: dict[str, RunningModel] = {}
    broken: dict[str, str] = {}
    for entry in hub.settings.models:
        model_id = model_id_of(entry.package) or entry.package
        try:
            package = package_of(entry, hub.components)
            model_id = package.card.id
            _must_run(entry, package, hub.components)
            _load(adapters[entry.adapter], package)
        except CaidxError as error:
            broken[model_id] = str(error)
            log.error("model.broken", model_id=model_id, reason=str(error))  # noqa: TRY400
        else:
            models[model_id] = RunningModel(package, adapters[entry.adapter])
    return Registry(models=models, broken_models=broken, destinations=build_destinations(hub))


def _must_run(entry: ModelSettings, package: ModelPackage, components: Components) -> None:
    wanted, offered = package.card.runtime.kind, components.adapters[entry.adapter].runtime_kind
    if wanted != offered:
        message = f"adapter {entry.adapter} runs {offered} models, this one is {wanted}"
        raise ConfigError((ConfigProblem(entry.package, 0, "runtime.kind", message),))


def _load(adapter: ModelAdapter, package: ModelPackage) -> None:
    """Load a model; what may be a passing fault of a busy machine is tried again."""
    for _ in range(_LOAD_ATTEMPTS - 1):
        try:
            adapter.load(package)
        except TransientError as error:
            log.warning("model.not-loaded", model_id=package.card.id, reason=str(error))
        else:
            return
    adapter.load(package)
