"""The register of models: those of the configuration, and those that were registered; one list for
the command line, the API and all who look a model up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile

from hub.bootstrap.hub import Hub, package_of
from hub.bootstrap.models import package_store
from hub.config import ModelSettings, Settings, model_id_of
from hub.domain.inference import ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.registration import RegistrationState
from hub.errors import ConfigError, RejectedError
from hub.ports import ModelPackage
from hub.registration import ConfiguredModel
from hub.registry import Components
from hub.store import registrations
from hub.store.database import Database
from hub.store.package_store import PackageStore
from hub.store.registrations import CONFIGURED, NoSuchModelError, Registration

REGISTERED = "registered"
"""Where the package of a model is: `registered`, in the data directory, or `configuration`."""
_LOOK_SECONDS = 15.0
"""A configured package that cannot be read is not read more often: it may be large."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One version of one model, as people see it."""

    id: str
    version: str
    vendor: str
    state: RegistrationState
    origin: str
    """registered or configuration."""
    sha256: str
    since: datetime | None
    """Of the state; None: since it stands in the configuration."""
    who: str
    why: str
    adapter: str | None = None
    """Kind, where the configuration chose one."""
    card: ModelCard | None = field(default=None, repr=False)
    """None where the package cannot be read."""
    problem: str = ""
    """Why it cannot run, as far as its package and the configuration tell."""

    @property
    def key(self) -> ModelKey:
        return ModelKey(self.id, self.version, self.sha256)

    @property
    def is_current(self) -> bool:
        """New requests would be pinned to this version, were it not suspended."""
        return self.state in (RegistrationState.ACTIVE, RegistrationState.SUSPENDED)


class ModelRegister:
    """Reads the register; cards are kept in memory, packages never change. Thread-safe."""

    def __init__(
        self, settings: Settings, components: Components, database: Database | None
    ) -> None:
        """``database``: None where no hub has run yet, and none can be registered."""
        self._settings = settings
        self._components = components
        self._database = database
        self._packages: PackageStore = package_store(settings)
        self._configured: dict[int, tuple[ModelPackage | ConfigError, float]] = {}
        """By place in the configuration: the package, and when it was read (monotonic seconds)."""
        self._cards: dict[str, ModelCard] = {}

    def models(self) -> Sequence[ListedModel]:
        """All of them: the configured ones first, then the registered ones by id, the last version
        first.

        Raises:
            TransientError: the database cannot be reached.
        """
        rows: list[Registration] = []
        if self._database is not None:
            with self._database.read() as connection:
                rows = registrations.all_of(connection)
        configured = [
            self._listed_configured(entry, package, rows) for entry, package in self._read()
        ]
        taken = {one.id for one in configured}
        return [
            *configured,
            *(self._listed(row, taken) for row in rows if not row.is_configured),
        ]

    def find(self, model_id: str, version: str = "", sha256: str = "") -> ListedModel:
        """One version: the one that is asked for; else the active or suspended one, else the last.

        Raises:
            NoSuchModelError: there is none.
            RejectedError: several fit.
        """
        found = [
            one
            for one in self.models()
            if one.id == model_id
            and version in ("", one.version)
            and one.sha256.startswith(sha256.lower())
        ]
        if not found:
            wanted = " ".join(filter(None, (model_id, version, sha256)))
            raise NoSuchModelError(f"no model {wanted} is configured or registered")
        if sha256 and len(found) > 1:
            raise RejectedError(f"{sha256} begins the digest of several versions")
        current = [one for one in found if one.is_current and not one.problem]
        return (current or [one for one in found if one.is_current] or found)[0]

    def find_to_activate(self, model_id: str, version: str = "", sha256: str = "") -> ListedModel:
        """The version that is asked for; else the only one that was registered after the active
        one, or that is suspended; else the active one.

        Raises:
            NoSuchModelError: there is none.
            RejectedError: several fit.
        """
        if version or sha256:
            return self.find(model_id, version, sha256)
        current = self.find(model_id)
        if current.origin == CONFIGURED:
            return current
        versions = [one for one in self.models() if one.id == model_id]
        newer = takewhile(lambda one: one.state is not RegistrationState.ACTIVE, versions)
        found = [one for one in newer if one.state is not RegistrationState.RETIRED]
        if len(found) > 1:
            listed = ", ".join(f"{one.version} ({one.state})" for one in found)
            raise RejectedError(f"which version is meant has to be said: {listed}")
        return found[0] if found else current

    def package(self, model: ListedModel) -> ModelPackage:
        """Its package, each file checked against its digest.

        Raises:
            ConfigError: it cannot be read, or was changed.
        """
        if model.origin == REGISTERED:
            return self._packages.read(model.sha256)
        for _, package in self._read():
            if isinstance(package, ModelPackage) and package.key == model.key:
                return package
            if isinstance(package, ConfigError) and model.problem == str(package):
                raise package
        raise NoSuchModelError(f"no model {model.id} is configured")

    @property
    def configured(self) -> Mapping[str, ConfiguredModel]:
        """By id; those whose packages can be read."""
        packages = [package for _, package in self._read() if isinstance(package, ModelPackage)]
        return {
            one.key.model_id: ConfiguredModel(one.key, one.card.vendor.name, one.card.runtime.kind)
            for one in packages
        }

    def _read(self) -> Sequence[tuple[ModelSettings, ModelPackage | ConfigError]]:
        entries = enumerate(self._settings.models)
        return [(entry, self._configured_package(number, entry)) for number, entry in entries]

    def _configured_package(self, number: int, entry: ModelSettings) -> ModelPackage | ConfigError:
        """Read once; what could not be read is looked at again: its disk may have been away."""
        found, at = self._configured.get(number, (None, 0.0))
        if isinstance(found, ModelPackage) or (found and time.monotonic() < at + _LOOK_SECONDS):
            return found
        read = _package_or_error(entry, self._components)
        self._configured[number] = (read, time.monotonic())
        return read

    def _listed_configured(
        self,
        entry: ModelSettings,
        package: ModelPackage | ConfigError,
        rows: Sequence[Registration],
    ) -> ListedModel:
        if isinstance(package, ConfigError):
            return ListedModel(
                id=model_id_of(entry.package) or entry.package,
                version="",
                vendor="",
                state=RegistrationState.ACTIVE,
                origin=CONFIGURED,
                sha256="",
                since=None,
                who=CONFIGURED,
                why="",
                adapter=entry.adapter,
                problem=str(package),
            )
        key, card = package.key, package.card
        versions = [row for row in rows if row.model.model_id == key.model_id]
        row = _that_decides(key, versions)
        return ListedModel(
            id=key.model_id,
            version=key.version,
            vendor=card.vendor.name,
            state=RegistrationState.ACTIVE if row is None else row.state,
            origin=CONFIGURED,
            sha256=key.sha256,
            since=None if row is None else row.changed_at,
            who=CONFIGURED if row is None else row.changed_by,
            why="" if row is None else row.reason,
            adapter=entry.adapter,
            card=card,
        )

    def _listed(self, row: Registration, configured: set[str]) -> ListedModel:
        problem = ""
        card = None
        try:
            card = self._card(row.model.sha256)
        except ConfigError as error:
            problem = str(error)
        if row.model.model_id in configured:
            problem = "the configuration names a package of this id, which is used instead"
        return ListedModel(
            id=row.model.model_id,
            version=row.model.version,
            vendor=row.vendor,
            state=row.state,
            origin=REGISTERED,
            sha256=row.model.sha256,
            since=row.changed_at,
            who=row.changed_by,
            why=row.reason,
            card=card,
            problem=problem,
        )

    def _card(self, sha256: str) -> ModelCard:
        if sha256 not in self._cards:
            self._cards[sha256] = self._packages.card(sha256)
        return self._cards[sha256]


def register_of(hub: Hub) -> ModelRegister:
    """The register of one hub."""
    return ModelRegister(hub.settings, hub.components, hub.database)


def _that_decides(key: ModelKey, versions: Sequence[Registration]) -> Registration | None:
    """The row on which it depends whether a configured version may be asked; None: none does."""
    own = next((row for row in versions if row.model == key), None)
    if own is None and registrations.why_not(versions, key):
        return next(row for row in versions if row.state is RegistrationState.SUSPENDED)
    return own


def _package_or_error(entry: ModelSettings, components: Components) -> ModelPackage | ConfigError:
    try:
        return package_of(entry, components)
    except ConfigError as error:
        return error
