"""``model.yaml`` to a model card, and a card with its files to a pinned package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from hub.domain.inference import ModelKey
from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import Artefact, OnnxRuntime
from hub.errors import ConfigError, ConfigProblem
from hub.formats.manifest.checks import card_faults
from hub.formats.yaml_document import YamlDocument, read_yaml, validate

PYTHON_ARTEFACT = "python:"
"""How the path of a file begins that an installed Python distribution ships."""
_NOT_IN_PACKAGE = (
    "must be a file of the package: only models that ship with Python packages may "
    "name files of those"
)


@cache
def _card() -> TypeAdapter[ModelCard]:
    """Built for the first model: it takes a tenth of a second."""
    return TypeAdapter(ModelCard)


def read_manifest(text: str, file: str) -> ModelCard:
    """The model card of a manifest.

    Raises:
        ConfigError: every mistake with its line: unknown fields, wrong types, and what does
            not fit together.
    """
    return _card_of(read_yaml(text, file))


def _card_of(document: YamlDocument) -> ModelCard:
    card = validate(_card(), document)
    problems = tuple(document.problem(path, message) for path, message in card_faults(card))
    if problems:
        raise ConfigError(problems)
    return card


def read_own_manifest(text: str, file: str) -> ModelCard:
    """The model card of a manifest whose files all come with it: none is one that an installed
    Python distribution ships.

    Raises:
        ConfigError: every mistake with its line.
    """
    document = read_yaml(text, file)
    card = _card_of(document)
    problems = tuple(
        document.problem((*path, "path"), _NOT_IN_PACKAGE)
        for path, artefact in _artefacts(card)
        if artefact.path.startswith(PYTHON_ARTEFACT)
    )
    if problems:
        raise ConfigError(problems)
    return card


def load_package(
    manifest_text: str, file: str, read_artefact: Callable[[Artefact], bytes]
) -> tuple[ModelCard, ModelKey]:
    """As ``load_pinned``, from the bytes of the files."""
    return load_pinned(manifest_text, file, lambda a: hashlib.sha256(read_artefact(a)).hexdigest())


def load_pinned(
    manifest_text: str, file: str, digest_of: Callable[[Artefact], str]
) -> tuple[ModelCard, ModelKey]:
    """The card and the key of a package whose files are what the manifest pins.

    Args:
        manifest_text: ``model.yaml``.
        file: its name, for messages.
        digest_of: gives the SHA-256 of a file of the package; may raise ``ConfigError``.

    Raises:
        ConfigError: the manifest is wrong, a file is missing or another one than pinned.
    """
    document = read_yaml(manifest_text, file)
    card = _card_of(document)
    problems: list[ConfigProblem] = []
    for path, artefact in _artefacts(card):
        try:
            found = digest_of(artefact)
        except ConfigError as error:
            problems += [document.problem((*path, "path"), p.message) for p in error.problems]
            continue
        if found != artefact.sha256.lower():
            message = f"{artefact.path} has the digest {found}: not the file that is pinned here"
            problems.append(document.problem((*path, "sha256"), message))
    if problems:
        raise ConfigError(tuple(problems))
    return card, ModelKey(card.id, card.version, package_digest(manifest_text, card))


def _artefacts(card: ModelCard) -> list[tuple[tuple[str | int, ...], Artefact]]:
    runtime = card.runtime
    if not isinstance(runtime, OnnxRuntime):
        return []
    external = enumerate(runtime.external_data)
    return [
        (("runtime", "graph"), runtime.graph),
        *((("runtime", "external_data", index), artefact) for index, artefact in external),
    ]


def package_digest(manifest_text: str, card: ModelCard) -> str:
    """SHA-256 over the manifest and the digest of every artefact, hexadecimal."""
    digest = hashlib.sha256(hashlib.sha256(manifest_text.encode()).digest())
    for artefact in sorted(card.artefacts, key=lambda artefact: artefact.path):
        digest.update(f"{artefact.path}\0{artefact.sha256.lower()}\n".encode())
    return digest.hexdigest()


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``model.yaml``, for editors and vendors."""
    schema = _card().json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "CAIDX model card (model.yaml)"
    return schema
