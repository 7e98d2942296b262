"""Receiving: an object is checked, appended to a segment, and durable before it is acknowledged.

Nothing here knows a database: the segment is the log, and the indexer follows it. Each transfer
writes one segment for each study at a time, and the next, larger one when that is full.

A transfer keeps few segments open. What it puts away ends with ``continued``: whatever else comes
of that study lies in another segment of the same association. ``released`` or ``aborted`` is the
last thing that it writes, into each segment that is open then: the end of all its studies. A
segment that breaks, because a write to it failed, gets no end; what failed may come again, perhaps
in another transfer. So for the indexer the whole transfer then counts as aborted
(`hub.store.transfers.note_end`), and its studies wait for stragglers.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import HeaderScan, identifying_texts, scan_header
from hub.formats.dicom.part10 import part10_prefix
from hub.ports import Clock, EndOfTransfer, ReceivedObject, Sender
from hub.store.segments.bell import Bell
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import CONTINUED, SegmentHeader
from hub.store.segments.names import EXTENT_CLASSES
from hub.store.segments.spool import SegmentSpool, SpoolOwner
from hub.store.segments.writer import SegmentWriter, bytes_needed

OPEN_SEGMENTS = 8
"""File handles of one transfer: it may carry any number of studies, but sends one after another."""

_LONGEST_TEXT = 64
"""VR LO (PS3.5 6.2). A patient ID is never shortened: that could make it another patient's."""
_LARGEST_ON_PROMISE = EXTENT_CLASSES[2]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_SENDER_TEXT = 256
"""Characters of what describes the sender, in a segment's header."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What the intake takes."""

    maximum_instance_bytes: int = 4 << 30
    """Longest data set, as it is encoded."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An object that was refused for what it is."""

    association_id: str
    sender: Sender
    reason: str
    """Why; no patient data."""
    length: int
    """Bytes of the data set, as far as they arrived."""
    sha256: str
    """Of the data set, hexadecimal; empty where it was not received to its end."""


@dataclass(frozen=True, slots=True)
class SegmentIntake:
    """Hands every transfer its own reception (hub.ports.Intake)."""

    pool: ExtentPool
    bell: Bell
    clock: Clock
    receiver_id: str
    """`hub.domain.process.ProcessIdentity.executor_id` of this process."""
    limits: IntakeLimits
    on_rejected: Callable[[Rejection], None]
    """Called in the thread of the transfer, before the sender is told: it must not wait."""

    def open(self, sender: Sender) -> StudyReception:
        """Begin a transfer; nothing is written before its first object."""
        return StudyReception(self, sender)


class StudyReception:
    """One transfer (hub.ports.Reception); used by one thread at a time."""

    def __init__(self, intake: SegmentIntake, sender: Sender) -> None:
        self._intake = intake
        self._sender = sender
        self.association_id = str(uuid.uuid4())
        self._open: OrderedDict[str, SegmentWriter] = OrderedDict()
        """By study, the one used last at the end."""
        self._sizes: dict[str, int] = {}
        """Size of the last extent, by study."""
        self._last_study = ""
        self._stored_bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def store(self, received: ReceivedObject) -> None:
        """Store durably (see hub.ports.Reception)."""
        data_set = received.data_set
        try:
            self._must_not_be_too_long(len(data_set))
            scan = scan_header(data_set, received.transfer_syntax_uid)
            must_be_as_announced(scan, received)
            prefix = part10_prefix(received)
        except RejectedError as error:
            self._reject(str(error), len(data_set), hashlib.sha256(data_set).hexdigest())
            raise
        self._intake.pool.must_have_room()
        study = scan.study_instance_uid
        writer = self._writer(study, len(prefix) + len(data_set))
        writer.append(prefix, data_set, self._intake.clock.now())
        self._last_study = study
        self._stored_bytes += len(data_set)
        self._intake.bell.ring(writer.segment, writer.end)

    def spool(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> SegmentSpool:
        """Begin a large object (see hub.ports.Reception).

        Raises:
            TransientError: out of resources.
            RejectedError: what the protocol named cannot stand in a file.
        """
        announced = ReceivedObject(sop_class_uid, sop_instance_uid, transfer_syntax_uid, b"")
        owner = SpoolOwner(
            pool=self._intake.pool,
            clock=self._intake.clock,
            must_not_be_too_long=self._must_not_be_too_long,
            check=must_be_as_announced,
            header=self._header,
            reject=self._reject,
            adopt=self._adopt_stored,
        )
        return SegmentSpool(owner, announced)

    def close(self, end: EndOfTransfer) -> None:
        """Record the end (see hub.ports.Reception); never raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        now = self._intake.clock.now()
        writers = [writer for writer in self._open.values() if writer.is_open]
        if not writers and self._last_study:
            writers = self._for_the_end_alone()
        for writer in writers:
            writer.close(end.value, now)
            self._intake.bell.ring(writer.segment)
        self._open.clear()

    def _writer(self, study: str, length: int) -> SegmentWriter:
        """The study's segment, if the object fits; or else the next one."""
        writer = self._open.get(study)
        if writer is None or not writer.is_open or not writer.has_room(length):
            needed, pool = bytes_needed(length), self._intake.pool
            extent = pool.claim(needed, self._room_for_the_rest(study))
            writer = SegmentWriter(extent, self._header(study), pool.disk)
            self._adopt(study, writer)
        self._open.move_to_end(study)
        return writer

    def _room_for_the_rest(self, study: str) -> int:
        """What the extent that is claimed for a study should be larger than, in bytes.

        The one before, if nobody knows what is to come. If the sender said it, and as long as it
        is all of one study: the extent that will be filled to a third at least. A promise alone
        gets no more than an ordinary transfer in its third extent.
        """
        before = self._sizes.get(study, 0)
        rest = self._sender.announced_bytes - self._stored_bytes
        if rest <= 0 or self._sizes.keys() - {study}:
            return before
        largest = max(_LARGEST_ON_PROMISE, 4 * before)
        useful = [size for size in EXTENT_CLASSES if size <= min(3 * rest, largest)]
        return max(useful, default=EXTENT_CLASSES[0]) - 1

    def _adopt(self, study: str, writer: SegmentWriter) -> None:
        """Go on in another segment; the study's last one, or the one used longest ago, ends."""
        before = self._open.pop(study, None)
        if before is None and len(self._open) >= OPEN_SEGMENTS:
            _, before = self._open.popitem(last=False)
        if before is not None:
            before.close(CONTINUED, self._intake.clock.now())
            self._intake.bell.ring(before.segment, before.end)
        self._open[study] = writer
        self._last_study = study
        if writer.size in EXTENT_CLASSES:
            self._sizes[study] = writer.size

    def _adopt_stored(self, study: str, writer: SegmentWriter) -> None:
        self._adopt(study, writer)
        self._intake.bell.ring(writer.segment, writer.end)

    def _for_the_end_alone(self) -> list[SegmentWriter]:
        """The segments that could have told the end broke: one that holds nothing else."""
        pool = self._intake.pool
        try:
            extent = pool.claim(bytes_needed(0))
        except TransientError:
            return []
        return [SegmentWriter(extent, self._header(self._last_study), pool.disk)]

    def _header(self, study: str) -> SegmentHeader:
        sender = self._sender
        return SegmentHeader(
            association_id=self.association_id,
            receiver_id=self._intake.receiver_id,
            study_instance_uid=study,
            source=sender.source[:_LONGEST_SENDER_TEXT],
            calling_ae_title=sender.calling_ae_title[:_LONGEST_SENDER_TEXT],
            called_ae_title=sender.called_ae_title[:_LONGEST_SENDER_TEXT],
            address=sender.address[:_LONGEST_SENDER_TEXT],
            opened_at=self._intake.clock.now().timestamp(),
        )

    def _must_not_be_too_long(self, length: int) -> None:
        longest = self._intake.limits.maximum_instance_bytes
        if length > longest:
            raise RejectedError(f"the data set is longer than the {longest} bytes that are taken")

    def _reject(self, reason: str, length: int, sha256: str) -> None:
        rejection = Rejection(self.association_id, self._sender, reason, length, sha256)
        self._intake.on_rejected(rejection)


def must_be_as_announced(scan: HeaderScan, announced: ReceivedObject) -> None:
    """The message and the data set are about the same object, and the index can hold it.

    Raises:
        RejectedError: they are not, or it cannot.
    """
    if scan.sop_instance_uid != announced.sop_instance_uid:
        raise RejectedError("SOP Instance UID of the message and of the data set differ")
    if scan.sop_class_uid != announced.sop_class_uid:
        raise RejectedError("SOP Class UID of the message and of the data set differ")
    for name, text in identifying_texts(scan):
        if len(text) > _LONGEST_TEXT:
            raise RejectedError(f"{name} is longer than {_LONGEST_TEXT} characters")
        if _CONTROL.search(text):
            raise RejectedError(f"{name} holds control characters")
