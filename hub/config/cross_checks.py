"""Mistakes that only show when sections are compared: names used twice, or used and not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from hub.config.file_model import Components
from hub.config.settings import BUILTIN, Settings
from hub.errors import ConfigError, ConfigProblem
from hub.formats.route_expression import compile_expression
from hub.formats.yaml_document import YamlDocument, read_yaml

_MANIFEST = "model.yaml"


def cross_checks(
    settings: Settings,
    document: YamlDocument,
    components: Components,
    registered: Collection[str] | None,
) -> Iterator[ConfigProblem]:
    """``registered``: ids of the registered models; None: nobody has looked which there are."""
    for section in ("sources", "archives", "destinations", "routes"):
        yield from _duplicates(
            [entry.name for entry in getattr(settings, section)], section, document
        )
    yield from _archive_problems(settings, document)
    models = _model_ids(settings)
    yield from _model_problems(settings, document, models)
    yield from _document_problems(settings, document, components)
    yield from _expression_problems(settings, document)
    yield from _route_problems(settings, document)
    yield from _routed_model_problems(settings, document, models, registered)
    yield from _adapter_problems(settings, document, components)
    yield from _retention_problems(settings, document)


def _retention_problems(settings: Settings, document: YamlDocument) -> Iterator[ConfigProblem]:
    """Reports are not deleted before the images that they were made from, and images are deleted
    before there is no room for new ones."""
    general = settings.retention
    watermark, refused = general.minimum_free_gib * (1 << 30), settings.storage.minimum_free_bytes
    if 0 < watermark <= refused:
        message = f"no image is accepted below {refused / (1 << 30):g} GiB (storage): must be more"
        yield document.problem(("retention", "minimum_free_gib"), message)
    kept: dict[tuple[str | int, ...], tuple[float, float]] = {
        ("retention",): (general.images_days, general.results_days)
    }
    for index, route in enumerate(settings.routes):
        own = route.retention
        images = general.images_days if own.images_days is None else own.images_days
        results = general.results_days if own.results_days is None else own.results_days
        if own.model_fields_set:
            kept["routes", index, "retention"] = (images, results)
    for path, (images, results) in kept.items():
        if results < images:
            message = f"results would be deleted ({results:g} days) before images ({images:g})"
            yield document.problem((*path, "results_days"), message)


def _duplicates(names: list[str], section: str, document: YamlDocument) -> Iterator[ConfigProblem]:
    for index, name in enumerate(names):
        first = names.index(name)
        if first < index:
            line = document.line_of((section, first, "name"))
            message = f"{name} is taken; the first one is on line {line}"
            yield document.problem((section, index, "name"), message)


def _archive_problems(settings: Settings, document: YamlDocument) -> Iterator[ConfigProblem]:
    """Archives that are named must be there; what they send is told from what sources take in by
    the name."""
    names = [archive.name for archive in settings.archives]
    sources = [source.name for source in settings.sources]
    for index, name in enumerate(names):
        if name in sources:
            yield document.problem(("archives", index, "name"), f"{name} is the name of a source")
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("completeness", "archive"), settings.completeness.archive),
        *(
            (("priors", "archives", position), name)
            for position, name in enumerate(settings.priors.archives or ())
        ),
    ]
    for index, source in enumerate(settings.sources):
        if source.completeness.archive != settings.completeness.archive:
            at = ("sources", index, "completeness", "archive")
            named.append((at, source.completeness.archive))
    for path, name in named:
        if name and name not in names:
            known = ", ".join(names) or "none"
            yield document.problem(path, f"there is no archive {name}; configured: {known}")


def _model_ids(settings: Settings) -> list[str]:
    """The ``id`` of each configured model; empty where its manifest does not tell one."""
    return [model_id_of(model.package) for model in settings.models]


def model_id_of(package: str) -> str:
    """The ``id`` in a package's manifest, which may be wrong in all else; empty without one."""
    if package.startswith(BUILTIN):
        return package.removeprefix(BUILTIN)
    manifest = Path(package) / _MANIFEST
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
            manifest = Path(model.package) / _MANIFEST
            known = manifest.is_file()
            message = f"{manifest} names no id" if known else f"there is no file {manifest}"
            yield document.problem(path, message)
        elif models.index(models[index]) < index:
            yield document.problem(path, f"the model {models[index]} is configured twice")


def _document_problems(
    settings: Settings, document: YamlDocument, components: Components
) -> Iterator[ConfigProblem]:
    for index, destination in enumerate(settings.destinations):
        taken = components.connectors[destination.kind].accepts
        for position, kind in enumerate(destination.documents):
            if kind not in taken:
                message = f"a {destination.kind} destination cannot take {kind.value}"
                message += f"; it takes {', '.join(taken) or 'nothing'}"
                yield document.problem(("destinations", index, "documents", position), message)


def _expression_problems(settings: Settings, document: YamlDocument) -> Iterator[ConfigProblem]:
    for index, route in enumerate(settings.routes):
        texts = {"when": (route.when, ("study",)), "series": (route.series, ("study", "series"))}
        for name, (text, variables) in texts.items():
            try:
                compile_expression(text, names=variables)
            except ValueError as error:
                yield document.problem(("routes", index, name), f"is not a CEL rule: {error}")


def _routed_model_problems(
    settings: Settings,
    document: YamlDocument,
    models: list[str],
    registered: Collection[str] | None,
) -> Iterator[ConfigProblem]:
    """A model of a route stands in the file, or is registered. Where nobody looked for the
    registered ones, the worker raises an alert for one that is neither."""
    if registered is None:
        return
    for index, route in enumerate(settings.routes):
        if route.model not in models and route.model not in registered:
            known = ", ".join(filter(None, models)) or "none"
            others = f"; registered: {', '.join(sorted(registered))}" if registered else ""
            message = f"there is no model {route.model}; configured: {known}{others}"
            yield document.problem(("routes", index, "model"), message)


def _adapter_problems(
    settings: Settings, document: YamlDocument, components: Components
) -> Iterator[ConfigProblem]:
    for runtime, kind in settings.registration.adapters.items():
        path = ("registration", "adapters", runtime)
        adapter = components.adapters.get(kind)
        if adapter is None:
            known = ", ".join(sorted(components.adapters)) or "none"
            yield document.problem(path, f"there is no adapter {kind}; installed: {known}")
        elif adapter.runtime_kind != runtime:
            message = f"adapter {kind} runs {adapter.runtime_kind} models"
            yield document.problem(path, message)


def _route_problems(settings: Settings, document: YamlDocument) -> Iterator[ConfigProblem]:
    destinations = {destination.name: destination for destination in settings.destinations}
    for index, route in enumerate(settings.routes):
        for position, name in enumerate(route.deliver_to or ()):
            path = ("routes", index, "deliver_to", position)
            if name not in destinations:
                known = ", ".join(destinations) or "none"
                message = f"there is no destination {name}; configured: {known}"
                yield document.problem(path, message)
            elif not destinations[name].documents:
                kind = destinations[name].kind
                yield document.problem(path, f"a {kind} destination takes no documents")
