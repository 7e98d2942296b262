"""One object that is too large for memory, on its way to a file of its own.

It is written as it comes, behind room for the headers; these are written last. So whatever breaks
off leaves a file that is no segment.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from dataclasses import dataclass

from xxhash import xxh3_128

from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import HeaderScan, scan_header
from hub.formats.dicom.part10 import part10_prefix
from hub.ports import Buffer, Clock, ReceivedObject
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import (
    HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RecordKind,
    SegmentHeader,
    pack_record_header,
    pack_segment_header,
)
from hub.store.segments.writer import END_ROOM, SegmentWriter

_SYNC_EVERY = 64 << 20
"""Bytes after which what was written is synced: so the last sync is short, and the memory full of
unwritten pages stays small."""
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class SpoolOwner:
    """What a spool needs of the transfer that it belongs to."""

    pool: ExtentPool
    clock: Clock
    must_not_be_too_long: Callable[[int], None]
    """Raises RejectedError for a data set of so many bytes."""
    check: Callable[[HeaderScan, ReceivedObject], None]
    """Raises RejectedError where the data set is not what the protocol announced."""
    header: Callable[[str], SegmentHeader]
    """Of a segment for that study."""
    reject: Callable[[str, int, str], None]
    """Puts a rejection on record: why, how many bytes, SHA-256."""
    adopt: Callable[[str, SegmentWriter], None]
    """The study goes on in this segment."""


class SegmentSpool:
    """One large object (hub.ports.Spool); for one thread at a time."""

    def __init__(self, owner: SpoolOwner, announced: ReceivedObject) -> None:
        """Raises:
        TransientError: out of resources.
        RejectedError: what the protocol named cannot stand in a file.
        """
        self._owner = owner
        self._announced = announced
        self._prefix = part10_prefix(announced)
        self._start = HEADER_SIZE + RECORD_HEADER_SIZE + len(self._prefix)
        """Of the data set within the file."""
        self._length = 0
        self._synced = 0
        self._digest = xxh3_128(self._prefix)
        self._file = owner.pool.begin_outsize()
        self._done = False

    def write(self, chunk: Buffer) -> None:
        """The next bytes (see hub.ports.Spool)."""
        self._must_be_open()
        try:
            self._owner.must_not_be_too_long(self._length + len(chunk))
        except RejectedError as error:
            self._owner.reject(str(error), self._length + len(chunk), "")
            self.discard()
            raise
        try:
            self._owner.pool.must_have_room()
            self._append(chunk)
        except TransientError:
            self.discard()
            raise
        except OSError as error:
            self.discard()
            raise TransientError(f"cannot write a large object: {error.strerror}") from error

    def store(self) -> None:
        """That was all of it (see hub.ports.Spool)."""
        self._must_be_open()
        try:
            study = self._scan()
            self._write_frame(self._owner.header(study))
            extent = self._owner.pool.finish_outsize(self._file)
        except (RejectedError, TransientError):
            self.discard()
            raise
        except OSError as error:
            self.discard()
            raise TransientError(f"cannot write a large object: {error.strerror}") from error
        self._done = True
        writer = SegmentWriter(
            extent, self._owner.header(study), self._owner.pool.disk, end=self._end
        )
        self._owner.adopt(study, writer)

    def discard(self) -> None:
        """Nothing of it stays (see hub.ports.Spool)."""
        if not self._done:
            self._done = True
            self._owner.pool.discard_outsize(self._file)

    def _append(self, chunk: Buffer) -> None:
        disk, handle = self._owner.pool.disk, self._file.handle
        self._digest.update(chunk)
        disk.write(handle, [chunk], self._end)
        self._length += len(chunk)
        if self._length - self._synced >= _SYNC_EVERY:
            disk.sync_data(handle)
            self._synced = self._length

    @property
    def _end(self) -> int:
        return self._start + self._length

    def _scan(self) -> str:
        """Check the header, without a copy of the object in memory; its Study Instance UID."""
        # The room for the end goes first: so the file has its length, and can be mapped.
        self._owner.pool.disk.write(self._file.handle, [bytes(END_ROOM)], self._end)
        with (
            mmap.mmap(self._file.handle, 0, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as log,
            log[self._start : self._end] as data_set,
        ):
            try:
                scan = scan_header(data_set, self._announced.transfer_syntax_uid)
                self._owner.check(scan, self._announced)
            except RejectedError as error:
                # The traceback holds views of the map, which could not be closed under them.
                reason = str(error)
            else:
                return scan.study_instance_uid
            self._owner.reject(reason, self._length, _sha256(data_set))
        raise RejectedError(reason)

    def _write_frame(self, header: SegmentHeader) -> None:
        """The segment's header and the record's, in one write."""
        length = len(self._prefix) + self._length
        checksum, now = self._digest.digest(), self._owner.clock.now()
        frame = [
            pack_segment_header(header),
            pack_record_header(RecordKind.OBJECT, length, checksum, now),
            self._prefix,
        ]
        self._owner.pool.disk.write(self._file.handle, frame, 0)

    def _must_be_open(self) -> None:
        if self._done:
            raise TransientError("the object was discarded or stored already")


def _sha256(data_set: memoryview) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data_set), _HASH_BLOCK):
        digest.update(data_set[start : start + _HASH_BLOCK])
    return digest.hexdigest()
