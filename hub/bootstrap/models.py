"""The models and the destinations of a worker; the models begin to load before all else.

Models come and go while a worker runs: those of the configuration, and the active ones of those
that are registered (`hub.store.registrations`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from threading import RLock

import structlog

from hub.bootstrap.adapters import Adapters, adapter_kind
from hub.bootstrap.hub import Hub, package_of
from hub.config import Settings, model_id_of
from hub.domain.inference import ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.registration import RegistrationState
from hub.errors import CaidxError, ConfigError, ConfigProblem, RejectedError, TransientError
from hub.ports import DestinationContext, ModelAdapter, ModelPackage
from hub.registry import Live, Registry, RunningDestination, RunningModel
from hub.store import registrations
from hub.store.confirmations import StoredConfirmations
from hub.store.database import schema_version
from hub.store.package_store import PackageStore
from hub.store.registrations import Registration

_LOAD_ATTEMPTS = 3
_NEXT_TRY_SECONDS = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadingModels:
    """Models that load on a thread, while the rest of the worker is built."""

    adapters: Mapping[str, ModelAdapter]
    models: LiveModels
    registry: Future[Registry]
    """Done when every model is loaded, or cannot be."""


def begin_loading(hub: Hub) -> LoadingModels:
    """Start the adapters of configured models, and begin to load all models."""
    adapters = build_adapters(hub)
    models = LiveModels(hub, adapters)
    loader = ThreadPoolExecutor(1, thread_name_prefix="load-models")
    registry = loader.submit(models.load)
    loader.shutdown(wait=False)
    return LoadingModels(adapters, models, registry)


def build_adapters(hub: Hub) -> Adapters:
    """Every adapter that is installed and configured; one is built when its first model comes."""
    return Adapters(hub)


def package_store(settings: Settings) -> PackageStore:
    """The packages of registered models; they leave as much of the disk as images need once more,
    so that nobody stops the receivers by what he registers."""
    return PackageStore(
        settings.data / "models",
        settings.registration.maximum_package_mib << 20,
        2 * settings.storage.minimum_free_bytes,
    )


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
    """Load every model once; one that cannot run is kept with its reason, and the others go on."""
    return LiveModels(hub, adapters).load()


def load_one(
    hub: Hub,
    adapters: Mapping[str, ModelAdapter],
    package: ModelPackage,
    chosen_adapter: str | None = None,
) -> RunningModel:
    """Load one model into the adapter that runs it.

    Raises:
        ConfigError: no adapter runs it, or it is not what its manifest says.
        TransientError: it cannot be loaded now.
    """
    runtime, manifest = package.card.runtime.kind, str(package.directory)
    adapter = adapters[adapter_kind(hub, runtime, chosen_adapter, manifest)]
    _load(adapter, package)
    return RunningModel(package, adapter)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A version that is to run, and where its package is."""

    key: ModelKey
    package: ModelPackage | None
    """None: in the package store."""
    adapter: str | None = None
    """Chosen by the configuration."""


class _Cards(Mapping[ModelKey, ModelCard]):
    """Cards of versions that do not run here: of the configuration, or read from their packages
    when they are asked for."""

    def __init__(self, packages: PackageStore) -> None:
        self._packages = packages
        self._known: dict[ModelKey, ModelCard] = {}

    def add(self, key: ModelKey, card: ModelCard) -> None:
        self._known[key] = card

    def __getitem__(self, key: ModelKey) -> ModelCard:
        if key not in self._known:
            try:
                self._known[key] = self._packages.card(key.sha256)
            except ConfigError as error:
                raise KeyError(key) from error
        return self._known[key]

    def __iter__(self) -> Iterator[ModelKey]:
        return iter(list(self._known))

    def __len__(self) -> int:
        return len(self._known)


class LiveModels:
    """The models of one process, kept as the configuration and the registrations say.

    A new version is loaded before the old one is forgotten. A version that was replaced stays for
    as long as open requests are pinned to it; a suspended one is forgotten at once.
    """

    def __init__(self, hub: Hub, adapters: Mapping[str, ModelAdapter]) -> None:
        self._hub = hub
        self._adapters = adapters
        self._packages = package_store(hub.settings)
        self._lock = RLock()
        """Held while models are loaded and forgotten."""
        self._configured: dict[str, _Wanted] = {}
        self._unreadable: dict[str, str] = {}
        self._loaded: dict[ModelKey, RunningModel] = {}
        self._faults: dict[ModelKey, tuple[str, float]] = {}
        """Why a version could not be loaded, and when to try again (monotonic seconds)."""
        self._seen: frozenset[tuple[str, str, str]] | None = None
        self._models: Live[str, RunningModel] = Live()
        self._broken: Live[str, str] = Live()
        self._suspended: Live[str, str] = Live()
        self._cards = _Cards(self._packages)

    def load(self) -> Registry:
        """Read the configured packages and load every model.

        Raises:
            TransientError: the database cannot be reached.
        """
        self._read_configured()
        self.look()
        return Registry(
            models=self._models,
            broken_models=self._broken,
            suspended=self._suspended,
            cards=self._cards,
            bring=self.bring,
            look=self.look,
            destinations=build_destinations(self._hub),
        )

    def look(self) -> None:
        """Load what was activated, forget what was suspended, retired or replaced since the last
        look. Cheap where nothing has changed.

        Raises:
            TransientError: the database cannot be reached.
        """
        if self._seen is not None and self._seen == self._states() and not self._is_unsettled():
            return
        with self._lock:
            seen = self._states()  # before the rows: what changes in between is seen next time
            rows: list[Registration] = []
            pinned: frozenset[str] = frozenset()
            if seen:
                with self._hub.database.read() as connection:
                    rows = registrations.all_of(connection)
                    pinned = registrations.pinned_and_open(connection)
            self._apply(rows, pinned)
            self._seen = seen

    def _states(self) -> frozenset[tuple[str, str, str]]:
        """Empty in a database that no hub of this version has used."""
        if self._seen is None:
            found, needed = schema_version(self._hub.database)
            if found != needed:
                return frozenset()
        with self._hub.database.read() as connection:
            return registrations.states(connection)

    def bring(self, key: ModelKey) -> RunningModel:
        """`Registry.bring`: a version that requests are pinned to."""
        with self._lock:
            found = self._loaded.get(key)
            if found is not None:
                return found
            try:
                return self._load(self._to_bring(key))
            except ConfigError as error:
                raise RejectedError(f"model {key} cannot run: {error}") from error

    def _to_bring(self, key: ModelKey) -> _Wanted:
        configured = self._configured.get(key.model_id)
        if configured is not None and configured.key == key:
            return configured
        if key.model_id in self._unreadable:
            raise RejectedError(f"model {key} cannot run: {self._unreadable[key.model_id]}")
        with self._hub.database.read() as connection:
            rows = registrations.of_model(connection, key.model_id)
        if not any(row.model == key and not row.is_configured for row in rows):
            raise RejectedError(f"the request is pinned to {key}, which runs no longer")
        return _Wanted(key, None)

    def _is_unsettled(self) -> bool:
        """Whether something has to be done though nothing was registered or changed."""
        now = time.monotonic()
        running = {model.package.key for model in self._models.values()}
        faults = list(self._faults.values())  # whoever loads now changes them
        return bool(self._loaded.keys() - running) or any(now >= at for _, at in faults)

    def _read_configured(self) -> None:
        for entry in self._hub.settings.models:
            try:
                package = package_of(entry, self._hub.components)
                runtime = package.card.runtime.kind
                kind = adapter_kind(self._hub, runtime, entry.adapter, entry.package)
                self._adapters[kind]  # it gets ready while the others are read
            except ConfigError as error:
                model_id = model_id_of(entry.package) or entry.package
                self._unreadable[model_id] = str(error)
                log.error("model.broken", model_id=model_id, reason=str(error))  # noqa: TRY400
            else:
                wanted = _Wanted(package.key, package, entry.adapter)
                self._configured[package.card.id] = wanted
                self._cards.add(package.key, package.card)

    def _apply(self, rows: list[Registration], pinned: frozenset[str]) -> None:
        versions = {
            model_id: list(group) for model_id, group in groupby(rows, lambda r: r.model.model_id)
        }
        wanted, suspended = self._wanted(versions)
        self._suspended.replace(suspended)
        running = {
            model_id: model for model_id, model in self._models.items() if model_id in wanted
        }
        self._models.replace(running)  # what was suspended is asked nothing new from now on
        for model_id, one in wanted.items():
            model = self._loaded_or_fault(one)
            if model is not None:
                running[model_id] = model
            else:
                running.pop(model_id, None)
        self._models.replace(running)
        self._broken.replace(self._unreadable | self._reasons(wanted))
        self._forget(wanted, versions, pinned)

    def _wanted(
        self, versions: Mapping[str, list[Registration]]
    ) -> tuple[dict[str, _Wanted], dict[str, str]]:
        """By model id what is to run, and why what is suspended is not."""
        wanted: dict[str, _Wanted] = {}
        suspended: dict[str, str] = {}
        for model_id, rows in versions.items():
            states = {row.state: row for row in rows}
            active = states.get(RegistrationState.ACTIVE)
            stopped = states.get(RegistrationState.SUSPENDED)
            if active is not None and not active.is_configured:
                wanted[model_id] = _Wanted(active.model, None)
            elif active is None and stopped is not None:
                suspended[model_id] = f"version {stopped.model.version} is {stopped.in_words}"
        for model_id, one in self._configured.items():
            wanted.pop(model_id, None)  # the configuration goes before
            refused = registrations.why_not(versions.get(model_id, ()), one.key)
            if not refused:
                wanted[model_id] = one
                suspended.pop(model_id, None)
            else:
                suspended[model_id] = refused
        return wanted, suspended

    def _loaded_or_fault(self, one: _Wanted) -> RunningModel | None:
        found = self._loaded.get(one.key)
        if found is not None:
            return found
        reason, at = self._faults.get(one.key, ("", 0.0))
        if time.monotonic() < at:
            return None
        try:
            return self._load(one)
        except CaidxError as error:
            if str(error) != reason:
                log.error(  # noqa: TRY400 - the reason says it
                    "model.broken", model_id=one.key.model_id, reason=str(error)
                )
            self._faults[one.key] = (str(error), time.monotonic() + _NEXT_TRY_SECONDS)
            return None

    def _reasons(self, wanted: Mapping[str, _Wanted]) -> dict[str, str]:
        keys = {one.key: model_id for model_id, one in wanted.items()}
        self._faults = {key: fault for key, fault in self._faults.items() if key in keys}
        return {keys[key]: reason for key, (reason, _) in self._faults.items()}

    def _load(self, one: _Wanted) -> RunningModel:
        package = one.package or self._packages.read(one.key.sha256)
        model = load_one(self._hub, self._adapters, package, one.adapter)
        self._loaded[one.key] = model
        self._faults.pop(one.key, None)
        self._cards.add(one.key, package.card)
        if self._seen is not None:  # it came while the others were running
            log.info("model.loaded", model_id=one.key.model_id, model_version=one.key.version)
        return model

    def _forget(
        self,
        wanted: Mapping[str, _Wanted],
        versions: Mapping[str, list[Registration]],
        pinned: frozenset[str],
    ) -> None:
        keep = {one.key for one in wanted.values()}
        for key, model in list(self._loaded.items()):
            refused = registrations.why_not(versions.get(key.model_id, ()), key)
            if key not in keep and (refused or key.sha256 not in pinned):
                del self._loaded[key]
                model.adapter.unload(key)
                log.info("model.unloaded", model_id=key.model_id, model_version=key.version)


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
