"""Appends records to one segment: one write and one sync for each object."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime

from xxhash import xxh3_128, xxh3_128_digest

from hub.errors import TransientError
from hub.store.disk import Buffer, Disk
from hub.store.segments.extents import ClaimedExtent
from hub.store.segments.format import (
    HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RecordKind,
    SegmentHeader,
    pack_record_header,
    pack_segment_header,
)

END_ROOM = 256
"""Bytes kept for the end of the transfer."""


def bytes_needed(payload: int) -> int:
    """Size of a segment that holds one object of so many bytes, and the end of its transfer."""
    return HEADER_SIZE + RECORD_HEADER_SIZE + payload + END_ROOM


class SegmentWriter:
    """The writer of one segment, for one thread at a time; it owns the extent's handle.

    After a failed write or sync nothing more is promised for the segment: the kernel may have
    dropped the pages, and report success the next time. It is broken then, and another one has to
    be opened.
    """

    __slots__ = ("_disk", "_end", "_extent", "_header", "_open", "segment", "size")

    def __init__(
        self, extent: ClaimedExtent, header: SegmentHeader, disk: Disk, *, end: int = 0
    ) -> None:
        """``end``: where the log ends, in a segment that somebody filled already."""
        self.segment = extent.segment
        self.size = extent.size
        self._extent = extent
        self._header = header
        self._disk = disk
        self._end = end
        self._open = True

    @property
    def end(self) -> int:
        """Where the log ends; all before it is durable."""
        return self._end

    @property
    def is_open(self) -> bool:
        """Whether it takes records: neither ended nor broken."""
        return self._open

    def has_room(self, payload: int) -> bool:
        """Whether an object of so many bytes, and the end of the transfer, still fit."""
        start = self._end or HEADER_SIZE
        return start + RECORD_HEADER_SIZE + payload + END_ROOM <= self.size

    def append(self, prefix: bytes, data_set: Buffer, received_at: datetime) -> None:
        """Append one Part 10 file, given in two pieces; durable when this returns.

        Raises:
            TransientError: the disk failed; the segment is broken, the object not stored.
        """
        digest = xxh3_128(prefix)
        digest.update(data_set)
        length = len(prefix) + len(data_set)
        head = pack_record_header(RecordKind.OBJECT, length, digest.digest(), received_at)
        self._write([head, prefix, data_set], RECORD_HEADER_SIZE + length)

    def close(self, end: str, at: datetime) -> None:
        """Record how the transfer goes on, or ended, and give the file back; never raises.

        Where the record cannot be written, the segment is one whose writer died.

        Args:
            end: an ``EndOfTransfer``, or ``CONTINUED``.
            at: when.
        """
        if not self._open:
            return
        text = json.dumps({"end": end}, separators=(",", ":")).encode()
        head = pack_record_header(RecordKind.END, len(text), xxh3_128_digest(text), at)
        with suppress(TransientError):
            self._write([head, text], RECORD_HEADER_SIZE + len(text))
            self._give_back()

    def _write(self, buffers: list[Buffer], length: int) -> None:
        if not self._open:
            raise TransientError(f"segment {self.segment} takes no more")
        start = self._end or HEADER_SIZE
        first = not self._end
        if first:
            buffers = [pack_segment_header(self._header), *buffers]
        try:
            self._disk.write(self._extent.handle, buffers, 0 if first else start)
            self._disk.sync_data(self._extent.handle)
        except OSError as error:
            self._break(start)
            raise TransientError(
                f"segment {self.segment} cannot be written: {error.strerror}"
            ) from error
        self._end = start + length

    def _break(self, start: int) -> None:
        """What was not acknowledged must not be found whole: the sender sends it again, and that
        copy must not count as a duplicate of one that is only in memory."""
        with suppress(OSError):
            self._disk.write(self._extent.handle, [bytes(RECORD_HEADER_SIZE)], start)
        self._give_back()

    def _give_back(self) -> None:
        self._open = False
        with suppress(OSError):  # close(2) may report what an earlier write met
            os.close(self._extent.handle)
