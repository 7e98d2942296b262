"""The segment log: how received objects lie on disk (the byte format, and nothing else).

A segment is one file that belongs to one transfer and one study at a time, filled with zeros
before it is written (`hub.store.segments.extents`). It proves itself, so that the index can be
rebuilt from segments alone:

    offset  length
    0       8       magic ``CAIDXSG2``
    8       4       length of the JSON text that follows, unsigned, little endian
    12      8       XXH3-64 of that text
    20      n       JSON text: `SegmentHeader`
    4096            the first record

    a record:
    0       8       magic ``CAIDXREC``
    8       1       kind (`RecordKind`)
    9       7       zero
    16      8       length of the payload in bytes
    24      8       when it was received: microseconds since 1970, UTC
    32      16      XXH3-128 of the payload
    48      8       XXH3-64 of the bytes before
    56      n       payload: a complete Part 10 file, or the JSON text of an end
    56 + n          the next record, or zeros: the end of the log

The checksums tell a record that a power cut tore from a whole one: a torn one is the last of its
segment, was never acknowledged, and does not exist. They are no proof against people: the index
holds the SHA-256 of every data set for that.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from hub.errors import IntegrityError

Buffer = bytes | bytearray | memoryview

HEADER_SIZE = 4096
_MAGIC, _RECORD_MAGIC = b"CAIDXSG2", b"CAIDXREC"
_HEAD = struct.Struct("<8sIQ")
_RECORD = struct.Struct("<8sB7xQq16s")
_CHECK = struct.Struct("<Q")
RECORD_HEADER_SIZE = _RECORD.size + _CHECK.size
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordKind(IntEnum):
    OBJECT = 1
    """A complete Part 10 file."""
    END = 2
    """The transfer adds nothing more here; JSON text ``{"end": "released"}`` (`EndOfTransfer`),
    or ``{"end": "continued"}``: it goes on in another segment."""


CONTINUED = "continued"


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Whose objects these are."""

    association_id: str
    receiver_id: str
    """`hub.store.workers.ProcessIdentity.executor_id` of the process that writes."""
    study_instance_uid: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    opened_at: float
    """Seconds since 1970, UTC."""


class RecordHead(NamedTuple):
    """One record's header."""

    kind: RecordKind
    payload_start: int
    """Offset within the segment."""
    length: int
    received_at: datetime
    checksum: bytes

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.payload_start + self.length


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The first `HEADER_SIZE` bytes of a segment.

    Raises:
        IntegrityError: it does not fit: whoever filled it in did not bound its texts.
    """
    text = json.dumps(asdict(header), separators=(",", ":")).encode()
    packed = _HEAD.pack(_MAGIC, len(text), xxh3_64_intdigest(text)) + text
    if len(packed) > HEADER_SIZE:
        raise IntegrityError("the header of a segment is too long")
    return packed.ljust(HEADER_SIZE, b"\0")


def read_segment_header(block: Buffer) -> SegmentHeader | None:
    """The header in the first `HEADER_SIZE` bytes of a file; None where there is no whole one:
    the file is free, or its first record was never acknowledged."""
    if len(block) < HEADER_SIZE:
        return None
    magic, length, check = _HEAD.unpack_from(block)
    if magic != _MAGIC or length > HEADER_SIZE - _HEAD.size:
        return None
    text = bytes(block[_HEAD.size : _HEAD.size + length])
    if xxh3_64_intdigest(text) != check:
        return None
    return SegmentHeader(**json.loads(text))


def pack_record_header(
    kind: RecordKind, length: int, checksum: bytes, received_at: datetime
) -> bytes:
    """The `RECORD_HEADER_SIZE` bytes before a payload of that length and XXH3-128."""
    microseconds = (received_at - _EPOCH) // timedelta(microseconds=1)
    head = _RECORD.pack(_RECORD_MAGIC, kind, length, microseconds, checksum)
    return head + _CHECK.pack(xxh3_64_intdigest(head))


def read_record_header(log: Buffer, offset: int) -> RecordHead | None:
    """The header of the record at an offset; None at the end of the log, or where it is torn."""
    if offset + RECORD_HEADER_SIZE > len(log):
        return None
    head = bytes(log[offset : offset + _RECORD.size])
    (check,) = _CHECK.unpack_from(log, offset + _RECORD.size)
    magic, kind, length, microseconds, checksum = _RECORD.unpack(head)
    if magic != _RECORD_MAGIC or xxh3_64_intdigest(head) != check:
        return None
    received_at = _EPOCH + timedelta(microseconds=microseconds)
    start = offset + RECORD_HEADER_SIZE
    return RecordHead(RecordKind(kind), start, length, received_at, checksum)


def payload_of(log: Buffer, record: RecordHead) -> memoryview | None:
    """The payload, if all of it is there and as it was written."""
    if record.end > len(log):
        return None
    payload = memoryview(log)[record.payload_start : record.end]
    return payload if xxh3_128_digest(payload) == record.checksum else None


def whole_records(log: Buffer, offset: int = HEADER_SIZE) -> Iterator[tuple[RecordHead, bool]]:
    """Every record from an offset on: (its header, whether its payload is as it was written).

    Stops at the end of the log. A payload that is not as it was written is either the torn tail
    (nothing follows: it is not given) or damage (False): other records follow it.
    """
    record = read_record_header(log, offset)
    while record is not None:
        following = read_record_header(log, record.end)
        whole = payload_of(log, record) is not None
        if not whole and following is None:
            return
        yield record, whole
        record = following
