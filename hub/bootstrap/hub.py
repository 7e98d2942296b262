"""The store and the settings, as roles and commands share them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from hub.bootstrap.clock import SystemClock
from hub.config import BUILTIN, ModelSettings, Settings
from hub.errors import ConfigError, ConfigProblem, TransientError
from hub.ports import Clock, ModelPackage, at_first_call
from hub.registry import Components
from hub.store.database import Database, engine_schema_version, migrate, open_database
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.packages import read_package
from hub.store.segments.objects import SegmentStore

ENGINE_SCHEMA_VERSION = 125
"""Of the tables of the job engine whose version is pinned; a test holds it to this."""

_migrate_engine = at_first_call("hub.durable:migrate_engine")


_MIGRATION_SECONDS, _MIGRATION_PAUSE = 10.0, 0.1


@dataclass(frozen=True, slots=True)
class Hub:
    """What every role and command shares: the settings and the store."""

    settings: Settings
    components: Components
    database: Database
    objects: SegmentStore
    documents: DocumentStore
    clock: Clock = field(default_factory=SystemClock)

    def migrate(self) -> None:
        """Bring the hub's and the engine's tables to this version.

        Roles start together, and each does this: one that finds another at it waits.

        Raises:
            TransientError: the database cannot be reached or changed, for so long.
        """
        deadline = time.monotonic() + _MIGRATION_SECONDS
        while True:
            try:
                self._migrate()
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_MIGRATION_PAUSE)
            else:
                return

    def _migrate(self) -> None:
        migrate(self.database)
        if engine_schema_version(self.database) < ENGINE_SCHEMA_VERSION:
            _migrate_engine(self.database.url)

    def journal(self, actor: str) -> Journal:
        return Journal(self.clock, actor)

    def close(self) -> None:
        self.database.close()


def open_hub(settings: Settings, components: Components) -> Hub:
    """Open the store; nothing runs yet, and no schema is touched.

    Raises:
        TransientError: the database cannot be reached.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    return Hub(
        settings=settings,
        components=components,
        database=open_database(settings.database_url),
        objects=SegmentStore(settings.data / "objects"),
        documents=DocumentStore(settings.data / "documents"),
    )


def package_of(model: ModelSettings, components: Components) -> ModelPackage:
    """Read a configured model's package.

    Raises:
        ConfigError: it is not there, or not what its manifest says.
    """
    name = model.package
    if not name.startswith(BUILTIN):
        return read_package(Path(name))
    folder = components.models.get(name.removeprefix(BUILTIN))
    if folder is None:
        known = ", ".join(sorted(components.models)) or "none"
        problem = ConfigProblem(name, 0, "package", f"no installed package ships it ({known})")
        raise ConfigError((problem,))
    return read_package(folder)
