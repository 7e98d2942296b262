"""The shape of the file: the hub's own sections and those of the installed components.

Each connector's configuration class is joined with the fields that the hub adds (name, kind,
overrides), so that one validation finds every mistake and one JSON Schema shows every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field, create_model

from hub.config.section import Section
from hub.config.settings import (
    ArchiveSettings,
    DestinationSettings,
    HealthRecordSettings,
    ModelSettings,
    Name,
    PlainSections,
    Settings,
    SourceSettings,
)
from hub.ports import AdapterKind, Connector


class Components(Protocol):
    """What is installed: how to validate the sections of connectors and model adapters."""

    @property
    def connectors(self) -> Mapping[str, Connector]:
        """By ``kind``."""
        ...

    @property
    def adapters(self) -> Mapping[str, AdapterKind]:
        """By ``kind``."""
        ...


def file_model(components: Components) -> type[BaseModel]:
    """The model of the whole file with what is installed."""
    connectors = components.connectors
    sources = {kind: c.source_config for kind, c in connectors.items() if c.source_config}
    destinations = {
        kind: c.destination_config for kind, c in connectors.items() if c.destination_config
    }
    archives = {kind: c.archive_config for kind, c in connectors.items() if c.archive_config}
    records = {kind: c.record_config for kind, c in connectors.items() if c.record_config}
    fields: dict[str, Any] = {
        "health_records": _described("health_records", _entries(records, HealthRecordSettings)),
        "archives": _described("archives", _entries(archives, ArchiveSettings)),
        "sources": _described("sources", _entries(sources, SourceSettings)),
        "destinations": _described("destinations", _entries(destinations, DestinationSettings)),
        "models": _described("models", _models(components)),
        "adapters": (_adapter_sections(components), Field(default_factory=dict)),
    }
    doc = "Configuration of the CAIDX hub."
    return create_model("Configuration", __base__=PlainSections, __doc__=doc, **fields)


def _adapter_sections(components: Components) -> Any:
    fields: dict[str, Any] = {
        kind: (adapter.config | None, Field(default=None, description=f"Options of {kind}."))
        for kind, adapter in components.adapters.items()
    }
    doc = "Options of each kind of model adapter."
    return create_model("Adapters", __base__=Section, __doc__=doc, **fields)


def _literal(*values: str) -> Any:
    literal: Any = Literal
    return literal[values]


def _described(name: str, annotation: Any) -> tuple[Any, Any]:
    return (annotation, Field(default=(), description=Settings.model_fields[name].description))


def _models(components: Components) -> Any:
    kinds = _literal(*(components.adapters or ["none is installed"]))
    adapter = (kinds | None, ModelSettings.model_fields["adapter"])
    doc = ModelSettings.__doc__
    entry: Any = create_model("Model", __base__=ModelSettings, __doc__=doc, adapter=adapter)
    return tuple[entry, ...]


def _entries(configs: Mapping[str, type[Any]], shape: type[Section]) -> Any:
    """A tuple of entries, one shape per kind: the common fields and those of the kind."""
    members = [_entry(kind, config, shape) for kind, config in configs.items()]
    union: Any = members[0] if members else shape
    for member in members[1:]:
        union = union | member
    return tuple[union, ...]


def _entry(kind: str, config: type[Any], shape: type[Section]) -> type[BaseModel]:
    """Where a connector has a field of its own under a common name (say, narrower
    ``documents``), its own one counts."""
    fields: dict[str, Any] = {
        name: (common.annotation, common)
        for name, common in shape.model_fields.items()
        if name != "options" and name not in config.model_fields
    }
    fields["name"] = (Name, shape.model_fields["name"])
    fields["kind"] = (_literal(kind), shape.model_fields["kind"])
    title = f"{kind.title()}{shape.__name__.removesuffix('Settings')}"
    made: type[BaseModel] = create_model(
        title, __base__=config, __doc__=config.__doc__ or shape.__doc__, **fields
    )
    return made
