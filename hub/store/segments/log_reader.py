"""Reading a segment's log from where the index ends: what one round takes from one segment.

The SHA-256 and the header of every object are taken from the mapped file, without a copy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import struct
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto

from hub.domain.study import Instance, Location
from hub.errors import RejectedError
from hub.formats.dicom.header import HeaderScan, instance_from_header, scan_header
from hub.formats.dicom.header_outline import HeaderOutline
from hub.formats.dicom.part10 import split_part10
from hub.ports import EndOfTransfer
from hub.store.segments.format import (
    CONTINUED,
    RECORD_HEADER_SIZE,
    RecordHead,
    RecordKind,
    SegmentHeader,
    payload_of,
    read_record_header,
)
from hub.store.segments.objects import SegmentLog

DAMAGED, UNREADABLE = "segment.damaged", "object.unreadable"
_RECORD_MAGIC = b"CAIDXREC"
_GROUP_LENGTH_AT = 140
"""Of the value of (0002,0000), behind preamble, prefix and its own header (PS3.10 7.1)."""
_FIRST_META_END = 144
_LENGTH = struct.Struct("<I")
_ENDS = {end.value for end in EndOfTransfer} | {CONTINUED}
_BLOCK = 1 << 20
_MADV_POPULATE_READ = 22
"""Linux 5.14, madvise(2); older kernels say EINVAL."""
_EHWPOISON = 133
_CANNOT_BE_READ = frozenset({errno.EFAULT, errno.EIO, _EHWPOISON})


class Familiar:
    """The object that was read before from the same log: most of the next one's header is the
    same (`hub.formats.dicom.header_outline`)."""

    __slots__ = ("before", "outline")

    def __init__(self) -> None:
        self.outline = HeaderOutline()
        self.before: tuple[HeaderScan, Instance] | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One whole object of a log."""

    instance: Instance
    received_at: datetime

    @property
    def start(self) -> int:
        """Offset of the record within the segment."""
        return self.instance.location.offset - RECORD_HEADER_SIZE


@dataclass(frozen=True, slots=True)
class Flaw:
    """A record that cannot be indexed."""

    action: str
    """``DAMAGED``, or ``UNREADABLE``: as it was written, but no DICOM object for the index."""
    reason: str
    offset: int
    """Of the record within the segment."""


@dataclass(slots=True)
class Portion:
    """What one round takes from one segment."""

    segment: str
    header: SegmentHeader
    until: int
    """Where the next record begins, or will begin."""
    arrivals: list[Arrival] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    ended_at: datetime | None = None
    """When its writer said ``end``."""
    end: str | None = None
    """`EndOfTransfer`, or ``CONTINUED``; None while the segment is being written."""
    more: bool = False
    """It was enough for this round, but not all that is there."""
    length: int = 0
    """Bytes of the objects."""
    durable_to: int = 0
    """Up to this offset the writer said that its records are durable."""
    held: RecordHead | None = None
    """The last record, if it may not be durable yet: it was left for later."""
    familiar: Familiar = field(default_factory=Familiar, repr=False)

    @property
    def records(self) -> int:
        """How many records it covers; the end of a dead writer counts as one."""
        return len(self.arrivals) + len(self.flaws) + (self.end is not None)

    def is_news(self, offset: int) -> bool:
        """Whether anything was found behind an offset."""
        return self.until != offset or self.end is not None or bool(self.flaws)

    def one_by_one(self) -> list[Portion]:
        """The same with one object each; the last one also has what is no object."""
        parts = []
        for arrival in self.arrivals[:-1]:
            until = arrival.instance.location.offset + arrival.instance.location.length
            parts.append(Portion(self.segment, self.header, until, [arrival], more=True))
        return [*parts, replace(self, arrivals=self.arrivals[-1:])]

    def without_objects(self) -> Portion:
        """The database does not take them: a person has to look."""
        flaws = [
            Flaw(UNREADABLE, "the database does not take what its header says", arrival.start)
            for arrival in self.arrivals
        ]
        return replace(self, arrivals=[], flaws=[*flaws, *self.flaws])


class _Stopped(Enum):
    ENOUGH = auto()
    END = auto()
    """An END record."""
    NO_MORE = auto()
    """No whole record follows yet."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of one segment a round may take; one object always."""

    records: int
    length: int
    """In bytes."""


def read_portion(
    log: SegmentLog,
    header: SegmentHeader,
    offset: int,
    share: Share,
    *,
    durable_to: int = 0,
    familiar: Familiar | None = None,
) -> Portion:
    """Whole records from an offset on.

    A record that is not whole yet is left for later while its writer lives. Without a living
    writer it is the end: nobody was told that the object had arrived.

    So is the last object of a living writer until it is durable: where its sync fails, the writer
    takes the record back, and the sender is told that the object was not stored. It is durable
    when the writer says so (``durable_to``), or wrote another record behind it.
    """
    portion = Portion(log.segment, header, offset, durable_to=durable_to)
    portion.familiar = familiar or Familiar()
    stopped = _read(portion, log.log, share)
    if stopped is _Stopped.NO_MORE and not log.is_being_written():
        portion.durable_to, portion.held = len(log.log), None
        stopped = _read(portion, log.log, share)  # what was written before the writer ended
        while stopped is _Stopped.NO_MORE and _skip_damage(portion, log.log):
            stopped = _read(portion, log.log, share)
        if stopped is _Stopped.NO_MORE:
            portion.end = EndOfTransfer.ABORTED.value
    portion.more = stopped is _Stopped.ENOUGH
    return portion


def backlog(log: SegmentLog, offset: int) -> tuple[int, int]:
    """(records, bytes) that wait behind an offset, by their headers alone."""
    records, record, end = 0, read_record_header(log.log, offset), offset
    while record is not None:
        records, end = records + 1, record.end
        record = read_record_header(log.log, end)
    return records, end - offset


def holds_records(log: SegmentLog, offset: int) -> bool:
    """Whether anything lies at an offset or behind it that claims to be a record."""
    return _find_record(log.log, offset) is not None


def _read(portion: Portion, log: memoryview, share: Share) -> _Stopped:  # noqa: PLR0911 - one for each way to stop
    while True:
        if not is_readable(log, portion.until, portion.until + RECORD_HEADER_SIZE):
            return _unreadable(portion, None)
        record = read_record_header(log, portion.until)
        if record is None:
            return _Stopped.NO_MORE
        if _may_be_taken_back(portion, log, record):
            portion.held = record
            return _Stopped.NO_MORE
        if not is_readable(log, record.payload_start, record.end):
            return _unreadable(portion, record)
        payload = payload_of(log, record)
        if payload is None:
            if read_record_header(log, record.end) is None:
                return _Stopped.NO_MORE
            _note(portion, DAMAGED, "a record is not as it was written")
        elif record.kind is RecordKind.END:
            portion.end, portion.ended_at = _end_in(payload), record.received_at
        else:
            if len(portion.arrivals) >= share.records or portion.length >= share.length:
                return _Stopped.ENOUGH
            _take(portion, record, payload)
            portion.length += record.length
        portion.until = record.end
        if portion.end is not None:
            return _Stopped.END


def _may_be_taken_back(portion: Portion, log: memoryview, record: RecordHead) -> bool:
    if record.kind is RecordKind.END or record.end <= portion.durable_to:
        return False
    if not is_readable(log, record.end, record.end + RECORD_HEADER_SIZE):
        return False  # what lies behind it is damaged: this is not the last one
    return read_record_header(log, record.end) is None


def is_readable(log: memoryview, start: int, end: int) -> bool:
    """Whether the disk gives these bytes. Without asking first, a page that cannot be read ends
    the process (SIGBUS), again and again. What lies behind the end of the log is readable."""
    if not isinstance(log.obj, mmap.mmap) or start >= len(log):
        return True
    start -= start % mmap.PAGESIZE
    try:
        log.obj.madvise(_MADV_POPULATE_READ, start, min(end, len(log)) - start)
    except OSError as error:
        return error.errno not in _CANNOT_BE_READ
    return True


def _unreadable(portion: Portion, record: RecordHead | None) -> _Stopped:
    """The disk does not give what it holds. Where not even a header can be read, nobody knows
    where the next record begins."""
    _note(portion, DAMAGED, "a record cannot be read from the disk")
    if record is None:
        portion.end = EndOfTransfer.ABORTED.value
        return _Stopped.END
    portion.until = record.end
    return _Stopped.ENOUGH


def _take(portion: Portion, record: RecordHead, payload: memoryview) -> None:
    location = Location(portion.segment, record.payload_start, record.length)
    try:
        instance = understand(payload, location, portion.familiar)
    except RejectedError as error:
        _note(portion, UNREADABLE, str(error))
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:
        # A fault of the hub's own reader must not keep all that comes after it. Its message
        # may hold patient data.
        _note(portion, UNREADABLE, f"fault of the hub: {type(error).__name__}")
    else:
        if instance.study_instance_uid == portion.header.study_instance_uid:
            portion.arrivals.append(Arrival(instance, record.received_at))
        else:
            _note(portion, UNREADABLE, "the object belongs to another study than its segment")


def understand(
    part10_file: memoryview, location: Location, familiar: Familiar | None = None
) -> Instance:
    """What the index keeps of an object, from its Part 10 file as the hub writes it.

    Raises:
        RejectedError: it cannot be read.
    """
    if len(part10_file) < _FIRST_META_END:
        raise RejectedError("the file meta information breaks off")
    start = _FIRST_META_END + _LENGTH.unpack_from(part10_file, _GROUP_LENGTH_AT)[0]
    transfer_syntax_uid, _ = split_part10(bytes(part10_file[:start]))
    data_set = part10_file[start:]
    known = familiar or Familiar()
    scan = scan_header(data_set, transfer_syntax_uid, known.outline)
    sha256 = hashlib.sha256(data_set).hexdigest()
    instance = instance_from_header(scan, sha256=sha256, location=location, like=known.before)
    known.before = scan, instance
    return instance


def _end_in(payload: memoryview) -> str:
    """What an END record says; an end that is not understood is none that can be relied on."""
    try:
        end = json.loads(bytes(payload)).get("end")
    except (ValueError, AttributeError):
        end = None
    return end if end in _ENDS else EndOfTransfer.ABORTED.value


def _skip_damage(portion: Portion, log: memoryview) -> bool:
    """Go on behind a record whose own header is damaged; False where nothing follows, or where
    the payload of the last record is torn (what looks like a record in there is a sender's)."""
    if read_record_header(log, portion.until) is not None:
        return False
    following = _find_record(log, portion.until)
    if following is None:
        return False
    _note(portion, DAMAGED, "the header of a record is not as it was written")
    portion.until = following
    return True


def _find_record(log: memoryview, offset: int) -> int | None:
    """Where the first whole record at or behind an offset begins."""
    overlap = len(_RECORD_MAGIC) - 1
    for start in range(offset, len(log), _BLOCK):
        block = bytes(log[start : start + _BLOCK + overlap])
        at = block.find(_RECORD_MAGIC)
        while at >= 0:
            record = read_record_header(log, start + at)
            if record is not None and payload_of(log, record) is not None:
                return start + at
            at = block.find(_RECORD_MAGIC, at + 1)
    return None


def _note(portion: Portion, action: str, reason: str) -> None:
    portion.flaws.append(Flaw(action, reason, portion.until))


__all__ = [
    "DAMAGED",
    "UNREADABLE",
    "Arrival",
    "Flaw",
    "Portion",
    "Share",
    "backlog",
    "holds_records",
    "read_portion",
    "understand",
]
