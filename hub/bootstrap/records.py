"""The health records that a worker asks for measured values."""

from __future__ import annotations

from hub.bootstrap.hub import Hub
from hub.errors import ConfigError, ConfigProblem
from hub.ports import HealthRecord, RecordContext


def build_records(hub: Hub) -> dict[str, HealthRecord]:
    """The clients of all configured health records, by name; nothing is contacted before it is
    asked."""
    return {entry.name: build_record(hub, entry.name) for entry in hub.settings.health_records}


def build_record(hub: Hub, name: str) -> HealthRecord:
    """One health record's client.

    Raises:
        ConfigError: it can never be asked as configured.
    """
    entry = next(entry for entry in hub.settings.health_records if entry.name == name)
    build = hub.components.connectors[entry.kind].build_record
    if build is None:  # settings are validated against the connectors: a stranger's mistake
        problem = ConfigProblem(hub.settings.file, 0, name, f"{entry.kind} is no health record")
        raise ConfigError((problem,))
    context = RecordContext(
        name=name,
        clock=hub.clock,
        identifier_systems=hub.settings.site.systems_by_issuer,
    )
    return build(entry.options, context)
