"""Packages of registered models: ``<data>/models/<SHA-256>/``, written once and read-only.

What is offered (a folder, a manifest, an archive) is copied into a folder of its own, checked
there, and renamed when it is whole and on disk; a crash before that leaves only a folder that the
next one removes. Only ``model.yaml`` and the files that it pins are taken.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from hub.domain.model_card import ModelCard
from hub.errors import ConfigError, ConfigProblem, TransientError
from hub.formats.manifest.model_manifest import package_digest, read_manifest, read_own_manifest
from hub.formats.manifest.package_archive import PackageArchive
from hub.ports import ModelPackage
from hub.store.disk import make_folder, sync_folder
from hub.store.packages import (
    MANIFEST,
    MAXIMUM_MANIFEST_BYTES,
    artefact_path,
    manifest_text,
    read_package,
)

_NO_SPACE = "no space left for models"
_INCOMING = "incoming-"
_LEFT_BEHIND_SECONDS = 24 * 3600.0
_CHUNK = 1 << 20
_FILE_MODE, _FOLDER_MODE = 0o400, 0o500


class Offered(Protocol):
    """A package as it is brought, not trusted."""

    def names(self) -> Collection[str] | None:
        """What it holds, where all of that has to be pinned; None: the rest is not looked at."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of ``model.yaml`` or of a file that it pins.

        Raises:
            ConfigError: it is not there, or not what it should be.
        """
        ...


@dataclass(frozen=True, slots=True)
class OfferedFolder:
    """A folder with ``model.yaml``, and the files that it pins among others."""

    folder: Path

    def names(self) -> Collection[str] | None:
        return None

    def chunks(self, name: str) -> Iterator[bytes]:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise _problem(name, f"{name} lies outside the package")
        if not path.is_file():  # a pipe or a device would never end
            raise _problem(name, f"there is no file {name} in {self.folder}")
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise _problem(name, f"{name} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class OfferedManifest:
    """``model.yaml`` alone, of a model that needs no files: somebody else runs it."""

    content: bytes

    def names(self) -> Collection[str] | None:
        return None

    def chunks(self, name: str) -> Iterator[bytes]:
        if name != MANIFEST:
            message = f"{name} did not come with the manifest: give a folder or a ZIP file"
            raise _problem(name, message)
        yield self.content


@dataclass(frozen=True, slots=True)
class OfferedArchive:
    """A ZIP file."""

    archive: PackageArchive

    def names(self) -> Collection[str] | None:
        return self.archive.names

    def chunks(self, name: str) -> Iterator[bytes]:
        return self.archive.chunks(name)


@dataclass(frozen=True, slots=True)
class PackageStore:
    """The packages of all registered models."""

    root: Path
    """``<data>/models``"""
    maximum_bytes: int = 2 << 30
    """Of one package."""
    minimum_free_bytes: int = 0
    """With less space than that on its disk, nothing is taken."""

    def must_have_room(self) -> None:
        """Raises:
        TransientError: images will need what is left of the disk.
        """
        folder = next(one for one in (self.root, *self.root.parents) if one.exists())
        if shutil.disk_usage(folder).free < self.minimum_free_bytes:
            raise TransientError(_NO_SPACE)

    def read(self, sha256: str) -> ModelPackage:
        """A package, each file checked against its digest again.

        Raises:
            ConfigError: it is gone, or was changed.
        """
        folder = self.root / sha256
        package = read_package(folder)
        if package.key.sha256 != sha256:
            raise _problem(MANIFEST, "is another one than was registered", folder)
        return package

    def card(self, sha256: str) -> ModelCard:
        """The card alone: the other files are not read.

        Raises:
            ConfigError: it is gone, or was changed.
        """
        manifest = self.root / sha256 / MANIFEST
        text = manifest_text(manifest)
        card = read_manifest(text, str(manifest))
        if package_digest(text, card) != sha256:
            raise _problem(MANIFEST, "is another one than was registered", manifest.parent)
        return card

    @contextmanager
    def taking(self, offered: Offered) -> Iterator[ModelPackage]:
        """A copy of what is offered, whole and as its manifest says; gone afterwards unless it
        was kept (``keep``).

        Raises:
            ConfigError: every mistake, with its line where there is one.
            TransientError: no space left.
        """
        folder = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            with no_space_is_transient():
                for made in (self.root, folder):
                    make_folder(made)
                self._sweep()
                self.must_have_room()
                self._copy(offered, folder)
                yield read_package(folder, shown=MANIFEST)
        finally:
            _remove(folder)

    def keep(self, package: ModelPackage) -> ModelPackage:
        """Keep what was taken, under its digest; what is there already, and whole, stays."""
        final = self.root / package.key.sha256
        if final.exists():
            with suppress(ConfigError):
                return self.read(package.key.sha256)
            final.rename(self.root / f"{_INCOMING}{uuid.uuid4().hex}")  # damaged: it makes room
        _seal(package.directory)
        try:
            package.directory.rename(final)
        except OSError as error:  # somebody else keeps the same at the same time
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_folder(self.root)
        return self.read(package.key.sha256)

    def _copy(self, offered: Offered, folder: Path) -> None:
        content = b"".join(_limited(offered.chunks(MANIFEST), MAXIMUM_MANIFEST_BYTES, MANIFEST))
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise _problem(MANIFEST, "is not UTF-8 text") from None
        card = read_own_manifest(text, MANIFEST)
        pinned = {artefact.path for artefact in card.artefacts}
        foreign = sorted(set(offered.names() or ()) - pinned - {MANIFEST})
        if foreign:
            raise ConfigError(tuple(_not_pinned(name) for name in foreign))
        _write(folder / MANIFEST, iter((content,)))
        left = self.maximum_bytes
        for artefact in card.artefacts:
            path = artefact_path(folder, artefact)
            if not path.exists():  # two artefacts may be one file
                make_folder(path.parent)
                left -= _write(path, _limited(offered.chunks(artefact.path), left, artefact.path))
                self.must_have_room()

    def _sweep(self) -> None:
        """Remove what crashes left behind."""
        oldest = time.time() - _LEFT_BEHIND_SECONDS
        for folder in self.root.glob(f"{_INCOMING}*"):
            with suppress(FileNotFoundError):
                if folder.stat().st_mtime < oldest:
                    _remove(folder)


@contextmanager
def no_space_is_transient() -> Iterator[None]:
    """Raises:
    TransientError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(_NO_SPACE) from error
        raise


def _limited(chunks: Iterator[bytes], most: int, name: str) -> Iterator[bytes]:
    for chunk in chunks:
        most -= len(chunk)
        if most < 0:
            raise _problem(name, f"{name} is larger than any may be")
        yield chunk


def _write(path: Path, chunks: Iterator[bytes]) -> int:
    """Durably; returns how many bytes."""
    written = 0
    with path.open("xb") as file:
        for chunk in chunks:
            written += file.write(chunk)
        _sync(file)
    return written


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _seal(folder: Path) -> None:
    """Read-only, and every name in it on disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        path.chmod(_FOLDER_MODE if path.is_dir() else _FILE_MODE)
    sync_folder(folder)
    folder.chmod(_FOLDER_MODE)


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _not_pinned(name: str) -> ConfigProblem:
    return ConfigProblem(MANIFEST, 0, name, "is in the archive, and the manifest does not pin it")


def _problem(field: str, message: str, folder: Path | None = None) -> ConfigError:
    file = MANIFEST if folder is None else str(folder / MANIFEST)
    return ConfigError((ConfigProblem(file, 0, field, message),))
