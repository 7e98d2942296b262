"""The hub's settings: one YAML 1.2 file, frozen, every field with a working default.

Nothing unknown is accepted, and every mistake is reported at once with file, line and field.
A secret is written as a reference, ``env:NAME`` or ``file:/path``, and read when the file is
loaded. Relative paths are relative to the working directory of the process.

The sections of connectors and model adapters are validated by their own configuration classes,
which the caller brings (``Components``): this module knows none of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    create_model,
    field_validator,
)

from hub.domain.delivery import RetryPolicy
from hub.domain.inference import Priority
from hub.domain.routing import RouteMode
from hub.errors import ConfigError, ConfigProblem
from hub.formats.yaml_document import FieldPath, YamlDocument, read_yaml, validate, validate_data
from hub.ports import AdapterKind, Connector

BUILTIN = "builtin:"
MANIFEST = "model.yaml"
DEFAULTS_FILE = "(defaults)"
"""Stands for the file name where there is no file."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WHAT_NAMES_ARE = "must be lower-case letters, digits and hyphens, at most 63 of them"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(_WHAT_NAMES_ARE)
    return name


def _checked_timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be a time zone of the IANA database, e.g. Europe/Berlin")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


@dataclass(frozen=True, slots=True)
class Components:
    """What is installed: how to validate the sections of connectors and model adapters."""

    connectors: Mapping[str, Connector]
    """By ``kind``."""
    adapters: Mapping[str, AdapterKind]
    """By ``kind``."""


class Section(BaseModel):
    """Base of every section: frozen, and nothing unknown is accepted."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        arbitrary_types_allowed=True,
    )


class IdentifierSettings(Section):
    """An identifier with the system that issued it."""

    system: str
    """URI of the issuing system, e.g. `urn:oid:1.2.276.0.76.4.1`."""
    value: str
    """The identifier itself."""


class SiteSettings(Section):
    """The institution that runs the hub and answers for its results."""

    institution_name: str = "Unnamed institution"
    """Stands in every report as the organisation that is responsible for it."""
    organization_identifiers: tuple[IdentifierSettings, ...] = ()
    """Identifiers of the institution, e.g. its national register number."""
    timezone: Annotated[str, AfterValidator(_checked_timezone)] = "UTC"
    """Local time of the institution (IANA name), for reports and DICOM dates and times."""
    result_system: str = "urn:caidx:results"
    """URI of the system of the identifiers that the hub gives to its own results."""
    patient_identifier_system: str = ""
    """URI of the system of patient IDs that arrive without an issuer; empty: unknown."""
    accession_identifier_system: str = ""
    """URI of the system of accession numbers that arrive without an issuer; empty: unknown."""
    identifier_systems: Mapping[str, str] = Field(default_factory=dict)
    """Issuer as in the DICOM header (of patient ID or accession number) -> URI of its system."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone itself."""
        return ZoneInfo(self.timezone)


class DatabaseSettings(Section):
    """Where the hub keeps what it knows."""

    url: SecretStr | None = None
    """`postgresql://user:password@host/name`, best as a reference (`env:CAIDX_DATABASE_URL`).
    Without it: one SQLite file in the data directory."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        text = "" if url is None else url.get_secret_value()
        if text and not text.startswith(("env:", "file:", "postgresql://", "sqlite:///")):
            raise ValueError("must begin with postgresql://, sqlite:///, env: or file:")
        return url


class CompletenessSettings(Section):
    """When a study counts as complete where nothing tells how many images it has."""

    quiet_seconds: float = Field(default=2.0, ge=0, le=3600)
    """After the sender has ended its transfer: seconds without a new image."""
    straggler_seconds: float = Field(default=30.0, gt=0, le=86400)
    """After a transfer that broke off, or is still open: seconds without a new image."""


class DeliverySettings(Section):
    """How often, and how patiently, a destination is tried."""

    first_delay: float = Field(default=30.0, gt=0)
    """Seconds to wait after the first failure."""
    factor: float = Field(default=2.0, ge=1)
    """Each wait is this many times the one before it ..."""
    max_delay: float = Field(default=600.0, gt=0)
    """... but never more than this many seconds."""
    attempts: int = Field(default=10, ge=1)
    """After this many failures the document is a dead letter for a person to look at."""

    @property
    def policy(self) -> RetryPolicy:
        """The same as the domain has it."""
        return RetryPolicy(**self.model_dump())


class SourceSettings(Section):
    """A way in; the fields beside these belong to its `kind`."""

    name: Name
    """Unique; stands in the audit log and in metrics."""
    kind: str
    """The connector, e.g. `dicom`."""
    completeness: CompletenessSettings = CompletenessSettings()
    """Overrides `completeness` for studies from this source, field by field."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class DestinationSettings(Section):
    """A way out; the fields beside these belong to its `kind`."""

    name: Name
    """Unique; routes name it in `deliver_to`."""
    kind: str
    """The connector, e.g. `dicom`, `fhir` or `folder`."""
    delivery: DeliverySettings = DeliverySettings()
    """Overrides `delivery` for this destination, field by field."""
    options: Any = Field(default=None)
    """The connector's own configuration, validated."""


class ModelSettings(Section):
    """A model that the hub runs."""

    package: str
    """Folder that holds the model's `model.yaml`, or `builtin:<id>` for one that an installed
    package ships, e.g. `builtin:lung-density`."""
    adapter: str = "onnx_local"
    """The kind of model adapter that runs it."""


class RouteSettings(Section):
    """A rule: when a study matches, these series go to this model."""

    name: Name
    """Unique; stands with the answer in the timeline of every study."""
    when: str
    """CEL expression over `study`; true means that the model is asked."""
    series: str = "true"
    """CEL expression over `study` and `series`; selects the model's input."""
    model: str
    """`id` of one of the models."""
    priority: Literal["stat", "urgent", "routine"] = "routine"
    """`stat` overtakes `urgent`, which overtakes `routine`."""
    deliver_to: tuple[str, ...] | None = None
    """Names of destinations; left out: every destination."""
    mode: Literal["active", "shadow"] = "active"
    """`shadow`: the model runs and is recorded, and nothing is delivered."""

    @property
    def rank(self) -> Priority:
        """The priority as the domain has it."""
        return Priority[self.priority.upper()]

    @property
    def route_mode(self) -> RouteMode:
        """The mode as the domain has it."""
        return RouteMode(self.mode)


class WorkerSettings(Section):
    """The processes that do the work."""

    count: int = Field(default=1, ge=1, le=256)
    """Worker processes that `caidx serve` starts on this host."""
    heartbeat_seconds: float = Field(default=2.0, gt=0, le=60)
    """How often a process says that it is alive; one that is silent for several heartbeats has
    its work taken over."""


class WebSettings(Section):
    """Health, metrics and the read-only API."""

    host: str = "127.0.0.1"
    """Address to listen on. The API has no log-in: beyond this host, put an authenticating
    proxy in front of it."""
    port: int = Field(default=8080, ge=1, le=65535)
    """TCP port."""


class LogSettings(Section):
    """What is logged, and how it looks. Patient data is never logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""
    format: Literal["json", "console"] = "json"
    """One JSON object per line, or lines for people."""


class _Plain(Section):
    """The sections that need no component to be validated."""

    site: SiteSettings = SiteSettings()
    """The institution."""
    data: Path = Path("var")
    """Folder for the database (if it is SQLite), images and results."""
    database: DatabaseSettings = DatabaseSettings()
    """Where the hub keeps what it knows."""
    models: tuple[ModelSettings, ...] = ()
    """The models. Left out: the two reference models that the hub ships."""
    routes: tuple[RouteSettings, ...] = ()
    """The rules. Left out: a rule for each reference model among the models."""
    completeness: CompletenessSettings = CompletenessSettings()
    """When a study counts as complete."""
    delivery: DeliverySettings = DeliverySettings()
    """How destinations are tried."""
    workers: WorkerSettings = WorkerSettings()
    """The processes that do the work."""
    web: WebSettings = WebSettings()
    """Health, metrics and the read-only API."""
    log: LogSettings = LogSettings()
    """What is logged."""


class Settings(_Plain):
    """Everything the hub was told, validated, with the defaults filled in."""

    file: str = DEFAULTS_FILE
    """Where it was read from."""
    sources: tuple[SourceSettings, ...] = ()
    """The ways in. Left out: DICOM C-STORE, AE title CAIDX, on 127.0.0.1:11112."""
    destinations: tuple[DestinationSettings, ...] = ()
    """The ways out. Left out: the folder `results` in the data directory."""
    adapters: Mapping[str, Any] = Field(default_factory=dict)
    """Validated options of each model adapter kind that a model uses."""

    @property
    def database_url(self) -> str:
        """The configured URL, or that of the SQLite file in the data directory."""
        url = self.database.url
        return url.get_secret_value() if url else f"sqlite:///{self.data / 'caidx.sqlite'}"


# --- loading -----------------------------------------------------------------------------


def load_settings(text: str, file: str, components: Components) -> Settings:
    """Settings from the text of a YAML file.

    Raises:
        ConfigError: every mistake, with file, line and field.
    """
    document = _with_defaults(read_yaml(text, file))
    raw = validate(TypeAdapter(_file_model(components)), document)
    problems: list[ConfigProblem] = []
    raw = _resolved(raw, (), document, problems)
    settings = _settings(raw, document, components, problems)
    problems += _cross_checks(settings, document, components)
    if problems:
        raise ConfigError(tuple(sorted(problems, key=lambda problem: problem.line)))
    return settings


def default_settings(components: Components) -> Settings:
    """The settings without any file.

    Raises:
        ConfigError: a component that the defaults use is not installed.
    """
    return load_settings("", DEFAULTS_FILE, components)


def settings_schema(components: Components) -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, with the installed connectors and adapters."""
    schema = _file_model(components).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _settings(
    raw: Any, document: YamlDocument, components: Components, problems: list[ConfigProblem]
) -> Settings:
    plain = {name: getattr(raw, name) for name in _Plain.model_fields}
    plain["routes"] = tuple(_with_destinations(route, raw.destinations) for route in raw.routes)
    return Settings.model_construct(
        file=document.file,
        sources=tuple(_source(entry, raw, components) for entry in raw.sources),
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


def _destination(entry: Any, raw: Any, components: Components) -> DestinationSettings:
    return DestinationSettings.model_construct(
        name=entry.name,
        kind=entry.kind,
        delivery=_overridden(raw.delivery, entry.delivery),
        options=_options(entry, components.connectors[entry.kind].destination_config),
    )


def _overridden(general: Section, own: Section | None) -> Any:
    if own is None:
        return general
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
    """Options of every adapter kind that a model uses; the kind's own defaults where the file
    says nothing about it."""
    options: dict[str, Any] = {}
    for index, model in enumerate(raw.models):
        kind = model.adapter
        if kind in options:
            continue
        given = getattr(raw.adapters, kind)
        if given is None:
            try:
                adapter = TypeAdapter[Any](components.adapters[kind].config)
                given = validate_data(adapter, {}, document, prefix=("models", index, "adapter"))
            except ConfigError as error:
                problems += [_in_adapters(problem, kind) for problem in error.problems]
        options[kind] = given
    return options


def _in_adapters(problem: ConfigProblem, kind: str) -> ConfigProblem:
    return replace(problem, field=f"adapters.{kind}.{problem.field.rsplit('.', 1)[-1]}")


# --- the file, with the sections of the installed components -------------------------------


def _file_model(components: Components) -> type[BaseModel]:
    connectors = components.connectors
    sources = {kind: c.source_config for kind, c in connectors.items() if c.source_config}
    destinations = {
        kind: c.destination_config for kind, c in connectors.items() if c.destination_config
    }
    adapter_fields: dict[str, Any] = {
        kind: (Annotated[adapter.config | None, Field(description=f"Options of {kind}.")], None)
        for kind, adapter in components.adapters.items()
    }
    fields: dict[str, Any] = {
        "sources": _field("sources", _entries(sources, SourceSettings, "completeness")),
        "destinations": _field(
            "destinations", _entries(destinations, DestinationSettings, "delivery")
        ),
        "models": _field("models", tuple[_model_entry(components), ...]),
        "adapters": (
            Annotated[
                create_model("Adapters", __base__=Section, **adapter_fields),
                Field(description="Options of each kind of model adapter."),
            ],
            Field(default_factory=dict, validate_default=True),
        ),
    }
    return cast(
        "type[BaseModel]",
        create_model("Configuration", __base__=_Plain, __doc__="The CAIDX hub's file.", **fields),
    )


def _field(name: str, annotation: Any) -> tuple[Any, Any]:
    described = Field(description=Settings.model_fields[name].description)
    return (Annotated[annotation, described], ())


def _model_entry(components: Components) -> Any:
    kinds = Literal.__getitem__(tuple(components.adapters) or ("none is installed",))
    return create_model(
        "Model",
        __base__=ModelSettings,
        __doc__=ModelSettings.__doc__,
        adapter=(kinds, "onnx_local"),
    )


def _entries(configs: Mapping[str, type[Any]], shape: type[Section], override: str) -> Any:
    """A tuple of entries, one shape per kind: the common fields and those of the kind."""
    members = tuple(_entry(kind, config, shape, override) for kind, config in configs.items())
    union: Any = members[0] if members else shape
    for member in members[1:]:
        union = union | member
    return tuple[union, ...]


def _entry(kind: str, config: type[Any], shape: type[Section], override: str) -> type[BaseModel]:
    common = shape.model_fields
    names = ("name", "kind", override)
    types = (Name, Literal.__getitem__((kind,)), common[override].annotation)
    fields: dict[str, Any] = {
        name: (Annotated[annotation, Field(description=common[name].description)], ...)
        for name, annotation in zip(names, types, strict=True)
    }
    fields[override] = (fields[override][0] | None, None)
    title = f"{kind.title()}{shape.__name__.removesuffix('Settings')}"
    return cast(
        "type[BaseModel]",
        create_model(title, __base__=config, __doc__=config.__doc__, **fields),
    )


def _with_defaults(document: YamlDocument) -> YamlDocument:
    """The document with the sections that a missing section stands for."""
    if not isinstance(document.data, dict):
        return document
    data = dict(document.data)
    data.setdefault("sources", [{"name": "dicom", "kind": "dicom"}])
    folder = Path(str(data.get("data", _Plain.model_fields["data"].default))) / "results"
    results = {"name": "results", "kind": "folder", "path": str(folder)}
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


# --- secrets -----------------------------------------------------------------------------


def _resolved(
    value: Any, path: FieldPath, document: YamlDocument, problems: list[ConfigProblem]
) -> Any:
    """The value with every secret that is a reference replaced by what it refers to."""
    if isinstance(value, SecretStr):
        return _secret(value, path, document, problems)
    if isinstance(value, BaseModel):
        changed = {name: _resolved(part, (*path, name), document, problems) for name, part in value}
        return value.model_copy(update=changed)
    if isinstance(value, tuple | list):
        parts = (_resolved(v, (*path, i), document, problems) for i, v in enumerate(value))
        return type(value)(parts)
    if isinstance(value, dict):
        return {k: _resolved(v, (*path, k), document, problems) for k, v in value.items()}
    return value


def _secret(
    secret: SecretStr, path: FieldPath, document: YamlDocument, problems: list[ConfigProblem]
) -> SecretStr:
    scheme, _, reference = secret.get_secret_value().partition(":")
    if scheme == "env":
        found = os.environ.get(reference)
        if not found:
            problems.append(document.problem(path, f"the variable {reference} is not set"))
        return SecretStr(found or "")
    if scheme == "file":
        try:
            return SecretStr(Path(reference).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not UTF-8 text"
            problems.append(document.problem(path, f"cannot read {reference}: {reason}"))
    return secret


# --- cross checks ------------------------------------------------------------------------


def _cross_checks(
    settings: Settings, document: YamlDocument, components: Components
) -> Iterator[ConfigProblem]:
    for section in ("sources", "destinations", "routes"):
        yield from _duplicates(
            [entry.name for entry in getattr(settings, section)], section, document
        )
    models = _model_ids(settings)
    yield from _model_problems(settings, document, models)
    yield from _route_problems(settings, document, components, models)


def _duplicates(names: list[str], section: str, document: YamlDocument) -> Iterator[ConfigProblem]:
    for index, name in enumerate(names):
        first = names.index(name)
        if first < index:
            line = document.line_of((section, first, "name"))
            message = f"{name} is taken; the first one is on line {line}"
            yield document.problem((section, index, "name"), message)


def _model_ids(settings: Settings) -> list[str]:
    """The ``id`` of each configured model; empty where its manifest does not tell one."""
    return [_model_id(model.package) for model in settings.models]


def _model_id(package: str) -> str:
    if package.startswith(BUILTIN):
        return package.removeprefix(BUILTIN)
    manifest = Path(package) / MANIFEST
    try:
        data = read_yaml(manifest.read_text(encoding="utf-8"), str(manifest)).data
    except (OSError, UnicodeDecodeError, ConfigError):
        return ""  # _model_problems says what is wrong with it
    return str(data.get("id", "")) if isinstance(data, dict) else ""


def _model_problems(
    settings: Settings, document: YamlDocument, models: list[str]
) -> Iterator[ConfigProblem]:
    for index, model in enumerate(settings.models):
        path = ("models", index, "package")
        if not models[index]:
            manifest = Path(model.package) / MANIFEST
            known = manifest.is_file()
            message = f"{manifest} names no id" if known else f"there is no file {manifest}"
            yield document.problem(path, message)
        elif models.index(models[index]) < index:
            yield document.problem(path, f"the model {models[index]} is configured twice")


def _route_problems(
    settings: Settings, document: YamlDocument, components: Components, models: list[str]
) -> Iterator[ConfigProblem]:
    kinds = {destination.name: destination.kind for destination in settings.destinations}
    for index, route in enumerate(settings.routes):
        if route.model not in models:
            known = ", ".join(filter(None, models)) or "none"
            message = f"there is no model {route.model}; configured: {known}"
            yield document.problem(("routes", index, "model"), message)
        for position, name in enumerate(route.deliver_to or ()):
            path = ("routes", index, "deliver_to", position)
            if name not in kinds:
                known = ", ".join(kinds) or "none"
                message = f"there is no destination {name}; configured: {known}"
                yield document.problem(path, message)
            elif not components.connectors[kinds[name]].accepts:
                message = f"a destination of kind {kinds[name]} takes no documents"
                yield document.problem(path, message)
