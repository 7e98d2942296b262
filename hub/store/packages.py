"""Model packages on disk: a folder with ``model.yaml`` and the files that it pins."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from hub.domain.model_runtime import Artefact
from hub.errors import ConfigError, ConfigProblem
from hub.formats.manifest.model_manifest import PYTHON_ARTEFACT, load_pinned
from hub.ports import ModelPackage

MANIFEST = "model.yaml"
MAXIMUM_MANIFEST_BYTES = 1 << 20
DISTRIBUTION = "caidx-hub"
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def read_package(directory: Path, *, shown: str = "") -> ModelPackage:
    """Read and verify one package; no code of the package is run or imported. ``shown``: what
    messages call the manifest; empty: by its path.

    Raises:
        ConfigError: no or a wrong manifest, a file that is missing, outside the package, or
            another one than the manifest pins.
    """
    manifest = directory / MANIFEST
    text = manifest_text(manifest)
    card, key = load_pinned(text, shown or str(manifest), lambda a: _digest(directory, a))
    paths = {artefact.path: artefact_path(directory, artefact) for artefact in card.artefacts}
    return ModelPackage(key, card, directory, paths)


def manifest_text(manifest: Path) -> str:
    """The text of ``model.yaml``.

    Raises:
        ConfigError: it is not there, too large, or no text.
    """
    try:
        if manifest.stat().st_size > MAXIMUM_MANIFEST_BYTES:
            raise _error(manifest, "", "is larger than any manifest")
        return manifest.read_text(encoding="utf-8")
    except OSError as error:
        raise _error(manifest, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _error(manifest, "", "is not UTF-8 text") from None


def _digest(directory: Path, artefact: Artefact) -> str:
    path = artefact_path(directory, artefact)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"{artefact.path} cannot be read: {error.strerror}"
        raise _error(directory / MANIFEST, artefact.path, message) from None


def artefact_path(directory: Path, artefact: Artefact) -> Path:
    """The file itself, inside the package or inside an installed Python distribution.

    Raises:
        ConfigError: it lies outside, links included, or the distribution is not installed.
    """
    manifest = directory / MANIFEST
    root, relative = directory, artefact.path
    if artefact.path.startswith(PYTHON_ARTEFACT):
        name, _, relative = artefact.path.removeprefix(PYTHON_ARTEFACT).partition("/")
        root = _distribution_folder(name, manifest, artefact)
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise _error(manifest, artefact.path, f"{artefact.path} lies outside the package")
    return path


def _distribution_folder(name: str, manifest: Path, artefact: Artefact) -> Path:
    spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        message = f"the Python package {name} is not installed: {_how_to_install(name)}"
        raise _error(manifest, artefact.path, message)
    return Path(locations[0])


def _how_to_install(name: str) -> str:
    """The extra of this distribution that brings a package, from its own metadata."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        extra = _EXTRA.search(requirement)
        if extra and re.match(rf"{re.escape(name)}\b", requirement, re.IGNORECASE):
            return f"pip install '{DISTRIBUTION}[{extra[1]}]'"
    return f"pip install {name}"


def _error(manifest: Path, field: str, message: str) -> ConfigError:
    return ConfigError((ConfigProblem(str(manifest), 0, field, message),))
