"""The segment store: received instances, appended one after another, durable when acknowledged.

A segment is one file that belongs to one association and one study. It is a log of records:

    offset  length
    0       8       magic ``CAIDXSG1``
    8       8       payload length, unsigned, little endian
    16      32      SHA-256 of the payload
    48      n       payload: one complete Part 10 file

`hub.domain.study.Location` denotes the payload. Because each record proves itself, the
index can be rebuilt from the segments alone; a record that a power cut tore is the last one
of its segment, and was never acknowledged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from hub.domain.study import Location
from hub.errors import IntegrityError, TransientError

_MAGIC = b"CAIDXSG1"
_HEADER = struct.Struct("<8sQ32s")
_SUFFIX = ".segment"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.segment\Z")
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

Buffer = bytes | bytearray | memoryview


class Record(NamedTuple):
    """One complete record of a segment."""

    location: Location
    sha256: str
    """SHA-256 of the payload (the Part 10 file), hexadecimal."""


@dataclass(frozen=True, slots=True)
class SegmentStore:
    """`hub.ports.ObjectStore` on a local folder. Holds no handle, so it can be pickled."""

    root: Path
    minimum_free_bytes: int = 1 << 30
    """Below this much free space nothing more is accepted: databases and logs need room
    to say so."""

    def create(self, study_instance_uid: str) -> SegmentWriter:
        """A new, empty segment for one association and one study.

        The file's name is made of a hash and a random number: it tells nothing about the study.

        Raises:
            TransientError: out of disk space, or of file handles.
        """
        study = hashlib.sha256(study_instance_uid.encode()).hexdigest()[:16]
        segment = f"{study}-{uuid.uuid4().hex}{_SUFFIX}"
        path = self._path(segment)
        try:
            for folder in (self.root, path.parent):
                make_folder(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600)
            sync_folder(path.parent)
        except OSError as error:
            raise TransientError(f"cannot create a segment: {error.strerror}") from error
        return SegmentWriter(path, handle, self.minimum_free_bytes)

    def read(self, location: Location) -> bytes:
        """The Part 10 file at a location, in one read.

        The record's own header is checked against the location; the payload's hash is not
        (`records` does that): whoever needs proof compares ``Instance.sha256``.

        Raises:
            IntegrityError: the segment is gone, or holds no such record.
        """
        start = location.offset - _HEADER.size
        if start < 0 or location.length < 0:
            raise IntegrityError(f"segment {location.segment} cannot have such a record")
        try:
            handle = os.open(self._path(location.segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IntegrityError(
                f"segment {location.segment} cannot be opened: {error.strerror}"
            ) from error
        try:
            found = _read_fully(handle, _HEADER.size + location.length, start)
        finally:
            os.close(handle)
        expected = (_MAGIC, location.length)
        whole = len(found) == _HEADER.size + location.length
        if not whole or _HEADER.unpack_from(found)[:2] != expected:
            raise IntegrityError(
                f"segment {location.segment} holds no record of {location.length} bytes "
                f"at {location.offset}"
            )
        return found[_HEADER.size :]

    def segments(self) -> Iterator[str]:
        """The names of all segments, sorted."""
        for path in sorted(self.root.glob(f"??/*{_SUFFIX}")):
            if _NAME.match(path.name):
                yield path.name

    def records(self, segment: str) -> Iterator[Record]:
        """Every complete record of a segment, from the log itself, in the order of arrival.

        Stops at a torn tail, which a crash leaves behind an append that was not acknowledged.

        Raises:
            IntegrityError: the segment is gone, or a record that has another behind it does
                not match its hash.
        """
        try:
            handle = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IntegrityError(f"segment {segment} cannot be opened") from error
        try:
            yield from _records(handle, segment)
        finally:
            os.close(handle)

    def delete(self, segment: str) -> None:
        """Remove a segment; one that is already gone is fine."""
        path = self._path(segment)
        with suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def _path(self, segment: str) -> Path:
        if not _NAME.match(segment):
            raise IntegrityError("not the name of a segment")
        return self.root / segment[:2] / segment


class SegmentWriter:
    """Appends to one segment. For one thread at a time."""

    def __init__(self, path: Path, handle: int, minimum_free_bytes: int) -> None:
        self.segment = path.name
        self._path = path
        self._handle = handle
        self._minimum_free_bytes = minimum_free_bytes
        self._end = 0
        self._broken = ""

    @property
    def size(self) -> int:
        """Bytes written, record headers included."""
        return self._end

    def append(self, part10_chunks: Sequence[Buffer]) -> Location:
        """Append one Part 10 file, given in pieces; durable when this returns.

        Raises:
            TransientError: out of disk space; the segment stays as it was.
            IntegrityError: the disk failed; this segment takes no more.
        """
        if self._broken:
            raise IntegrityError(self._broken)
        digest, length = hashlib.sha256(), 0
        for chunk in part10_chunks:
            digest.update(chunk)
            length += len(chunk)
        self._wake()
        self._must_have_room(_HEADER.size + length)
        header = _HEADER.pack(_MAGIC, length, digest.digest())
        try:
            _write_fully(self._handle, [header, *part10_chunks])
        except OSError as error:
            self._take_back(error)
            raise TransientError(f"cannot write: {error.strerror}") from error
        self._sync()
        location = Location(self.segment, self._end + _HEADER.size, length)
        self._end += _HEADER.size + length
        return location

    def rest(self) -> None:
        """Give the file handle back until the next append."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def close(self) -> None:
        """Close the segment; calling it again is fine."""
        self.rest()
        self._broken = self._broken or f"segment {self.segment} is closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._handle >= 0:
            return
        try:
            self._handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            os.lseek(self._handle, self._end, os.SEEK_SET)
        except OSError as error:
            raise TransientError(f"cannot open a segment: {error.strerror}") from error

    def _must_have_room(self, wanted: int) -> None:
        disk = os.fstatvfs(self._handle)
        if disk.f_bavail * disk.f_frsize < self._minimum_free_bytes + wanted:
            raise TransientError(
                f"out of disk space: less than {self._minimum_free_bytes} bytes would stay free"
            )

    def _take_back(self, cause: OSError) -> None:
        """Cut off a record that could not be written whole."""
        try:
            os.ftruncate(self._handle, self._end)
            os.lseek(self._handle, self._end, os.SEEK_SET)
        except OSError as error:
            self._broken = f"segment {self.segment} cannot be mended: {error.strerror}"
        if cause.errno not in _OUT_OF_SPACE:
            self._broken = f"segment {self.segment} cannot be written: {cause.strerror}"
            raise IntegrityError(self._broken) from cause

    def _sync(self) -> None:
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            # After a failed sync the kernel may have dropped the pages and report success
            # the next time: nothing more may be promised for this file.
            self._broken = f"segment {self.segment} cannot be synced: {error.strerror}"
            if error.errno in _OUT_OF_SPACE:
                raise TransientError(self._broken) from error
            raise IntegrityError(self._broken) from error


def _records(handle: int, segment: str) -> Iterator[Record]:
    size = os.fstat(handle).st_size
    position = 0
    while position + _HEADER.size <= size:
        header = _read_fully(handle, _HEADER.size, position)
        magic, length, digest = _HEADER.unpack(header)
        start = position + _HEADER.size
        if magic != _MAGIC or start + length > size:
            return
        if _digest(handle, start, length) != digest:
            if start + length == size:
                return
            raise IntegrityError(f"segment {segment} is damaged at byte {position}")
        yield Record(Location(segment, start, length), digest.hex())
        position = start + length


_BLOCK = 1 << 20


def _digest(handle: int, start: int, length: int) -> bytes:
    digest = hashlib.sha256()
    for offset in range(0, length, _BLOCK):
        digest.update(os.pread(handle, min(_BLOCK, length - offset), start + offset))
    return digest.digest()


def _read_fully(handle: int, length: int, offset: int) -> bytes:
    """``length`` bytes, or fewer at the end of the file."""
    found = os.pread(handle, length, offset)
    while 0 < len(found) < length:  # one read moves at most 2 GiB
        more = os.pread(handle, length - len(found), offset + len(found))
        if not more:
            break
        found += more
    return found


def _write_fully(handle: int, chunks: Sequence[Buffer]) -> None:
    pending = [memoryview(chunk) for chunk in chunks if len(chunk)]
    while pending:
        written = os.writev(handle, pending)
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if written:
            pending[0] = pending[0][written:]


def make_folder(folder: Path) -> None:
    """A folder that only its owner can enter, and whose name survives a power cut."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
