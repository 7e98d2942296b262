"""The segment store: received objects are read from segments, and segments released again.

Their byte format is `hub.store.segments.format`, their files come from
`hub.store.segments.extents`, and `hub.store.reception` fills them. `hub.domain.study.Location`
denotes the payload of a record.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from hub.domain.study import Location
from hub.errors import IntegrityError
from hub.store.segments.format import (
    HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RecordKind,
    SegmentHeader,
    read_record_header,
    read_segment_header,
)
from hub.store.segments.names import USED, is_segment, path_of

if TYPE_CHECKING:
    from hub.store.segments.extents import ExtentPool


@dataclass(frozen=True, slots=True)
class SegmentStore:
    """`hub.ports.ObjectStore` on a local folder. Holds no handle, so it can be pickled."""

    root: Path
    """``<data>/objects``."""

    def read(self, location: Location) -> bytes:
        """The Part 10 file at a location.

        What is given is as it was written: neither damaged, nor of a segment that is being
        overwritten meanwhile and may hold another study's objects next.

        Raises:
            IntegrityError: the segment is gone, or holds no such record any more.
        """
        start = location.offset - RECORD_HEADER_SIZE
        if start < HEADER_SIZE or location.length < 0:
            raise IntegrityError(f"segment {location.segment} cannot have such a record")
        handle = self._open(location.segment)
        try:
            # Apart from its header, so that the object is not copied once more.
            head = read_record_header(_read_fully(handle, RECORD_HEADER_SIZE, start), 0)
            denoted = (RecordKind.OBJECT, location.length)
            if head is not None and (head.kind, head.length) == denoted:
                found = _read_fully(handle, location.length, location.offset)
                if xxh3_128_digest(found) == head.checksum:
                    return found
        except OSError as error:
            raise IntegrityError(
                f"segment {location.segment} cannot be read: {error.strerror}"
            ) from error
        finally:
            os.close(handle)
        raise IntegrityError(
            f"segment {location.segment} holds no object of {location.length} bytes "
            f"at {location.offset}"
        )

    def segments(self) -> Iterator[str]:
        """The names of all segments in use, in no particular order."""
        used = self.root / USED
        if not used.is_dir():
            return
        with os.scandir(used) as folders:
            names = [folder.path for folder in folders if folder.is_dir()]
        for name in names:
            with os.scandir(name) as files:
                yield from [file.name for file in files if is_segment(file.name)]

    @contextmanager
    def open_log(self, segment: str) -> Iterator[SegmentLog]:
        """A segment's bytes, to be read as it grows.

        Raises:
            IntegrityError: the segment is gone, or cannot be read.
        """
        handle = self._open(segment)
        try:
            try:
                mapped = mmap.mmap(handle, 0, prot=mmap.PROT_READ)
            except (OSError, ValueError) as error:  # a file of no bytes cannot be mapped
                raise IntegrityError(f"segment {segment} cannot be read") from error
            try:
                with memoryview(mapped) as log:
                    yield SegmentLog(segment, handle, log, path_of(self.root, segment))
            finally:
                _unmap(mapped)
        finally:
            os.close(handle)

    def release(self, segment: str, pool: ExtentPool) -> None:
        """Overwrite a segment with zeros, durably, and give its extent back to the pool; one that
        is already gone is fine.

        Raises:
            TransientError: somebody writes to it, or the disk cannot do it now.
        """
        pool.release(segment)

    def _open(self, segment: str) -> int:
        try:
            return os.open(path_of(self.root, segment), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IntegrityError(f"segment {segment} cannot be opened: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class SegmentLog:
    """One segment, open for reading; made by ``SegmentStore.open_log``."""

    segment: str
    _handle: int
    log: memoryview
    """The whole file; it shows what is written later too. Gone when ``open_log`` ends: no view
    of it may be kept."""
    _path: Path

    @property
    def header(self) -> SegmentHeader | None:
        """Whose objects these are; None as long as there is no whole header, or where the disk
        does not give it: to touch the map then would end the process (SIGBUS)."""
        try:
            return read_segment_header(os.pread(self._handle, HEADER_SIZE, 0))
        except OSError:
            return None

    def is_being_written(self) -> bool:
        """Whether a living writer holds the segment; false too where it was released.

        Raises:
            IntegrityError: it cannot be opened.
        """
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise IntegrityError(
                f"segment {self.segment} cannot be opened: {error.strerror}"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def sync(self) -> None:
        """Make durable what the log shows: a writer may have died between writing a record and
        syncing it.

        Raises:
            IntegrityError: the disk failed.
        """
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            raise IntegrityError(
                f"segment {self.segment} cannot be synced: {error.strerror}"
            ) from error


def _unmap(mapped: mmap.mmap) -> None:
    """A view that somebody kept delays it until that is gone."""
    try:
        mapped.close()
    except BufferError:
        return


def _read_fully(handle: int, length: int, offset: int) -> bytes:
    """``length`` bytes, or fewer at the end of the file."""
    found = os.pread(handle, length, offset)
    while 0 < len(found) < length:  # one read moves at most 2 GiB
        more = os.pread(handle, length - len(found), offset + len(found))
        if not more:
            break
        found += more
    return found
