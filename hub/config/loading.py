"""From the text of a file to settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from hub.config.cross_checks import cross_checks
from hub.config.file_model import Components, file_model
from hub.config.secret_references import resolved
from hub.config.section import Section
from hub.config.settings import (
    BUILTIN,
    DEFAULTS_FILE,
    ArchiveSettings,
    DestinationSettings,
    HealthRecordSettings,
    PlainSections,
    RouteSettings,
    Settings,
    SourceSettings,
)
from hub.errors import ConfigError, ConfigProblem
from hub.formats.yaml_document import YamlDocument, read_yaml, validate, validate_data

DEFAULT_FILE = Path("caidx.yaml")
"""Read when no other file is named."""


def load_settings(
    text: str, file: str, components: Components, *, registered: Collection[str] | None = ()
) -> Settings:
    """Settings from the text of a YAML file.

    Args:
        text: the file.
        file: its name, for messages.
        components: what is installed.
        registered: ids of the models that are registered with the hub, which routes may name as
            well as those of the file; None: nobody has looked, and any is taken.

    Raises:
        ConfigError: every mistake, with file, line and field.
    """
    document = _with_defaults(read_yaml(text, file))
    raw = validate(TypeAdapter(file_model(components)), document)
    problems: list[ConfigProblem] = []
    raw = resolved(raw, (), document, problems)
    settings = _settings(raw, document, components, problems)
    problems += cross_checks(settings, document, components, registered)
    if problems:
        raise ConfigError(tuple(sorted(problems, key=lambda problem: problem.line)))
    return settings


def read_settings(
    path: Path | None, components: Components, *, registered: Collection[str] | None = ()
) -> Settings:
    """Settings from a file; without one from ``caidx.yaml`` in the working directory, and
    without that the defaults. ``registered``: as of ``load_settings``.

    Raises:
        ConfigError: every mistake, or why the file cannot be read.
    """
    file = path or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)
    if file is None:
        return default_settings(components)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        problem = ConfigProblem(str(file), 0, "(document)", f"cannot be read: {reason}")
        raise ConfigError((problem,)) from None
    return load_settings(text, str(file), components, registered=registered)


def default_settings(components: Components) -> Settings:
    """The settings without any file.

    Raises:
        ConfigError: a component that the defaults use is not installed.
    """
    return load_settings("", DEFAULTS_FILE, components)


def settings_schema(components: Components) -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, with the installed connectors and adapters."""
    schema = file_model(components).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _settings(
    raw: Any, document: YamlDocument, components: Components, problems: list[ConfigProblem]
) -> Settings:
    plain = {name: getattr(raw, name) for name in PlainSections.model_fields}
    plain["routes"] = tuple(_with_destinations(route, raw.destinations) for route in raw.routes)
    return Settings.model_construct(
        file=document.file,
        sources=tuple(_source(entry, raw, components) for entry in raw.sources),
        archives=tuple(_archive(entry, components) for entry in raw.archives),
        health_records=tuple(_health_record(entry, components) for entry in raw.health_records),
        destinations=tuple(_destination(entry, raw, components) for entry in raw.destinations),
        adapters=_adapter_options(raw, document, components, problems),
        **plain,
    )


def _with_destinations(route: RouteSettings, destinations: Any) -> RouteSettings:
    if route.deliver_to is not None:
        return route
    return route.model_copy(update={"deliver_to": tuple(entry.name for entry in destinations)})


def _source(entry: Any, raw: Any, components: Components) -> SourceSettings:
    return SourceSettings.model_construct(
        name=entry.name,
        kind=entry.kind,
        completeness=_overridden(raw.completeness, entry.completeness),
        options=_options(entry, components.connectors[entry.kind].source_config),
    )


def _archive(entry: Any, components: Components) -> ArchiveSettings:
    return ArchiveSettings.model_construct(
        name=entry.name,
        kind=entry.kind,
        options=_options(entry, components.connectors[entry.kind].archive_config),
    )


def _health_record(entry: Any, components: Components) -> HealthRecordSettings:
    return HealthRecordSettings.model_construct(
        name=entry.name,
        kind=entry.kind,
        options=_options(entry, components.connectors[entry.kind].record_config),
    )


def _destination(entry: Any, raw: Any, components: Components) -> DestinationSettings:
    connector = components.connectors[entry.kind]
    return DestinationSettings.model_construct(
        name=entry.name,
        kind=entry.kind,
        delivery=_overridden(raw.delivery, entry.delivery),
        documents=entry.documents or tuple(connector.sends or connector.accepts),
        concurrency=entry.concurrency,
        rate_per_minute=entry.rate_per_minute,
        outcomes=entry.outcomes,
        critical_only=entry.critical_only,
        options=_options(entry, connector.destination_config),
    )


def _overridden(general: Section, own: Section) -> Any:
    return general.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def _options(entry: BaseModel, config: type[Any] | None) -> Any:
    """The connector's own part of an entry, as an instance of the connector's own class."""
    if config is None:
        return None
    given = {name: getattr(entry, name) for name in config.model_fields}
    return config.model_construct(_fields_set=entry.model_fields_set & set(given), **given)


def _adapter_options(
    raw: Any, document: YamlDocument, components: Components, problems: list[ConfigProblem]
) -> dict[str, Any]:
    """Options of every adapter kind: the kind's own defaults where the file says nothing about it.
    One that needs more than that is a mistake only where it is named."""
    named: dict[str, tuple[str | int, ...]] = {
        kind: ("registration", "adapters", runtime)
        for runtime, kind in raw.registration.adapters.items()
    }
    named |= {m.adapter: ("models", i, "adapter") for i, m in enumerate(raw.models) if m.adapter}
    options: dict[str, Any] = {}
    for kind, adapter in components.adapters.items():
        given = getattr(raw.adapters, kind)
        if given is None:
            try:
                path = named.get(kind, ())
                given = validate_data(TypeAdapter[Any](adapter.config), {}, document, prefix=path)
            except ConfigError as error:
                if kind in named:
                    problems += [_in_adapters(problem, kind) for problem in error.problems]
                continue
        options[kind] = given
    return options


def _in_adapters(problem: ConfigProblem, kind: str) -> ConfigProblem:
    return replace(problem, field=f"adapters.{kind}.{problem.field.rsplit('.', 1)[-1]}")


def _with_defaults(document: YamlDocument) -> YamlDocument:
    """The document with the sections that a missing section stands for."""
    if not isinstance(document.data, dict):
        return document
    data = dict(document.data)
    data.setdefault("sources", [{"name": "dicom", "kind": "dicom"}])
    folder = Path(str(data.get("data", PlainSections.model_fields["data"].default))) / "results"
    results = {"name": "results", "kind": "folder", "folder": str(folder)}
    data.setdefault("destinations", [results])
    data.setdefault("models", [{"package": BUILTIN + model} for model in _REFERENCE_ROUTES])
    if "routes" not in data and isinstance(data["models"], list):
        packages = [m.get("package") for m in data["models"] if isinstance(m, dict)]
        data["routes"] = [
            route for model, route in _REFERENCE_ROUTES.items() if BUILTIN + model in packages
        ]
    return YamlDocument(document.file, data, document.lines)


_REFERENCE_ROUTES: Mapping[str, Mapping[str, Any]] = {
    "lung-density": {
        "name": "chest-ct",
        "when": '"CT" in study.modalities_in_study',
        "series": 'series.modality == "CT" && !("LOCALIZER" in series.image_type) && '
        'series.body_part_examined in ["", "CHEST", "THORAX", "LUNG", "CHEST_TO_PELVIS"]',
        "model": "lung-density",
    },
    "ecg-intervals": {
        "name": "ecg",
        "when": '"ECG" in study.modalities_in_study',
        "series": 'series.modality == "ECG"',
        "model": "ecg-intervals",
    },
}
