"""A model package as a ZIP file, read without trusting it.

Names are those that a manifest may pin; there are no links, no encrypted members, nothing twice.
Members are read as a stream and cut off where they grow beyond what the archive says or the hub
allows, so that a small archive cannot become a large one.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO, cast

from hub.errors import ConfigError, ConfigProblem
from hub.formats.manifest.checks import is_contained

MOST_MEMBERS = 1000
MOST_TIMES_SMALLER = 200
"""No weights are compressed better; a member that would be is a bomb, or is stored by `zip -0`."""
MOST_DIRECTORY_BYTES = 2 << 20
"""Of the list of members, which is read as a whole; each takes 46 bytes there, and its name."""
_SMALL = 1 << 20
"""Bytes below which the ratio does not matter."""
_CHUNK = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_LONGEST_NAME = 80
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError)


def looks_like_archive(start: bytes) -> bool:
    """Whether bytes begin as a ZIP file does (an empty one too)."""
    return start.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class _InPieces:
    """A file of which no one can read very much at once: `zipfile` believes what an archive says of
    the length of its list of members, and makes an object of each before anybody can count."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Raises:
        BadZipFile: it would be more than any package needs.
        """
        content = self._file.read(MOST_DIRECTORY_BYTES + 1 if size < 0 else size)
        if max(size, len(content)) > MOST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile
        return content


class PackageArchive:
    """The members of one archive; every message names the archive and the member."""

    def __init__(self, file: IO[bytes], name: str, *, maximum_bytes: int) -> None:
        """``file`` can be sought; ``maximum_bytes`` is for all members together, unpacked.

        Raises:
            ConfigError: it is no ZIP file, or has a member that no package has.
        """
        self.name = name
        try:
            self._zip = zipfile.ZipFile(cast("IO[bytes]", _InPieces(file)))
        except _BROKEN:
            raise ConfigError((self._problem("", "is not a ZIP file"),)) from None
        infos = self._zip.infolist()
        problems = tuple(self._problems(infos, maximum_bytes))
        if problems:
            raise ConfigError(problems)
        self._members = {info.filename: info for info in infos if not info.is_dir()}

    @property
    def names(self) -> Collection[str]:
        """Of the files in it."""
        return self._members.keys()

    def chunks(self, member: str) -> Iterator[bytes]:
        """The bytes of one file of it.

        Raises:
            ConfigError: it is not there, or is not what the archive says of it.
        """
        info = self._members.get(member)
        if info is None:
            raise ConfigError((self._problem(member, "is not in the archive"),))
        left = info.file_size
        try:
            with self._zip.open(info) as stream:
                while chunk := stream.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
        except _BROKEN:
            raise ConfigError((self._problem(member, "is damaged"),)) from None
        if left:
            raise ConfigError((self._problem(member, "has another length than it says"),))

    def _problems(
        self, infos: list[zipfile.ZipInfo], maximum_bytes: int
    ) -> Iterator[ConfigProblem]:
        if len(infos) > MOST_MEMBERS:
            yield self._problem("", f"holds {len(infos)} members; at most {MOST_MEMBERS} may be")
            return
        total = sum(info.file_size for info in infos)
        if total > maximum_bytes:
            yield self._problem("", f"unpacks to {total} bytes; at most {maximum_bytes} may be")
        seen: set[str] = set()
        for info in infos:
            name = info.filename
            if name.casefold() in seen:
                yield self._problem(name, "is there twice")
            seen.add(name.casefold())
            fault = _fault(info)
            if fault:
                yield self._problem(name, fault)

    def _problem(self, member: str, message: str) -> ConfigProblem:
        shown = ascii(member)[1:-1][:_LONGEST_NAME]  # a terminal shows it
        return ConfigProblem(self.name, 0, shown or "(archive)", message)


def _fault(info: zipfile.ZipInfo) -> str:
    """Why a member is none of a package; empty when it may be."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        return "is a link or a device: only files and folders may be"
    named = info.filename.rstrip("/") if info.is_dir() else info.filename
    if info.orig_filename != info.filename or not is_contained(named) or not named.isprintable():
        return "is a name that leads out of the package, or is no plain relative name"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is compressed by another method than deflate"
    if info.file_size > max(_SMALL, MOST_TIMES_SMALLER * info.compress_size):
        return f"unpacks to more than {MOST_TIMES_SMALLER} times its size"
    return ""
