"""One instance on its way in: in memory, or on the disk as it arrives where it is large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.dicomweb.dicom_file import (
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    UID,
    FileHead,
    read_file_head,
    read_identifiers,
)
from connectors.dicomweb.status import DATA_SET_DOES_NOT_MATCH, failure_reason
from hub.errors import CaidxError, RejectedError
from hub.ports import ReceivedObject, Reception, Spool

MOST_IN_MEMORY = 8 << 20
"""A part that is longer is written to the disk as it arrives."""
_FREE = 256 << 10
"""So much of a part is always kept in memory: its head has to be read before it is spooled."""
_SPOOL_CHUNK = 1 << 20


class MemoryBudget:
    """Memory for parts, shared by all requests; used by the event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @property
    def left(self) -> int:
        """Bytes that can still be taken."""
        return self._left

    def take(self, count: int) -> bool:
        """False where there is not so much left."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        self._left += count


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance."""

    identifiers: Mapping[int, str] = field(default_factory=dict)
    """As far as they could be read, by tag."""
    failure: int | None = None
    """Failure Reason (0008,1197); None: it is stored."""

    @property
    def sop_class_uid(self) -> str:
        return self.identifiers.get(SOP_CLASS_UID, "")

    @property
    def sop_instance_uid(self) -> str:
        return self.identifiers.get(SOP_INSTANCE_UID, "")

    @property
    def study_instance_uid(self) -> str:
        return self.identifiers.get(STUDY_INSTANCE_UID, "")

    @property
    def series_instance_uid(self) -> str:
        return self.identifiers.get(SERIES_INSTANCE_UID, "")


class MismatchError(RejectedError):
    """It is a good object, but not the one that the request says."""


class IncomingPart:
    """The bytes of one part. ``wants_writing`` after ``add`` means that ``write`` is to be called,
    which blocks; ``store`` and ``discard`` block too. All else is for the event loop's thread."""

    def __init__(self, budget: MemoryBudget, study_instance_uid: str) -> None:
        self._budget = budget
        self._study_instance_uid = study_instance_uid
        self._bytes = bytearray()
        self._taken = 0
        self._too_large = False
        self._spool: Spool | None = None
        self._identifiers: Mapping[int, str] = {}
        self._failed: CaidxError | None = None

    def refuse(self, error: CaidxError) -> None:
        """Drop it, and whatever comes of it."""
        self._failed = self._failed or error
        self.close()

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        if self._failed is not None:
            return
        self._bytes += piece
        if self._too_large:
            return
        length = len(self._bytes)
        wanted = length - _FREE - self._taken
        if length > MOST_IN_MEMORY or (wanted > 0 and not self._budget.take(wanted)):
            self._too_large = True
        elif wanted > 0:
            self._taken += wanted

    @property
    def wants_writing(self) -> bool:
        if self._failed is not None:
            return False
        return self._too_large and (self._spool is None or len(self._bytes) >= _SPOOL_CHUNK)

    def write(self, reception: Reception) -> None:
        """Write what is in memory to the disk."""
        pending, self._bytes = self._bytes, bytearray()
        try:
            if self._spool is None:
                self._begin_spool(reception, pending)
            else:
                self._spool.write(pending)
        except CaidxError as error:
            self.discard()
            self._failed = error

    def store(self, reception: Reception) -> Outcome:
        """That was all of it; when this returns it is durable, or why not is known."""
        try:
            if self._failed is not None:
                raise self._failed
            if self._spool is None:
                reception.store(self._received())
            else:
                self._spool.write(self._bytes)
                self._spool.store()
        except CaidxError as error:
            self.discard()
            mismatch = isinstance(error, MismatchError)
            reason = DATA_SET_DOES_NOT_MATCH if mismatch else failure_reason(error)
            return Outcome(self._identifiers, reason)
        return Outcome(self._identifiers)

    def discard(self) -> None:
        """Nothing of it stays on the disk. After ``store`` it does nothing."""
        if self._spool is not None:
            self._spool.discard()

    def close(self) -> None:
        """Give its memory back."""
        self._bytes = bytearray()
        self._budget.give_back(self._taken)
        self._taken = 0

    def _begin_spool(self, reception: Reception, beginning: bytearray) -> None:
        head = read_file_head(beginning)
        data_set = memoryview(beginning)[head.data_start :]
        self._identify(head, data_set, whole=False)
        self._spool = reception.spool(
            self._identifiers[SOP_CLASS_UID],
            self._identifiers[SOP_INSTANCE_UID],
            head.transfer_syntax_uid,
        )
        self._spool.write(data_set)

    def _received(self) -> ReceivedObject:
        head = read_file_head(self._bytes)
        data_set = memoryview(self._bytes)[head.data_start :]
        self._identify(head, data_set, whole=True)
        return ReceivedObject(
            sop_class_uid=self._identifiers[SOP_CLASS_UID],
            sop_instance_uid=self._identifiers[SOP_INSTANCE_UID],
            transfer_syntax_uid=head.transfer_syntax_uid,
            data_set=data_set,
        )

    def _identify(self, head: FileHead, data_set: memoryview, *, whole: bool) -> None:
        """Whose it is, by the data set itself.

        Raises:
            RejectedError: it does not say, or it is not what the request or the file says.
        """
        found = read_identifiers(data_set, head.transfer_syntax_uid, whole=whole)
        self._identifiers = {tag: uid for tag, uid in found.items() if UID.match(uid)}
        if {SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID} - set(self._identifiers):
            raise RejectedError("a UID that identifies the object is missing or is none")
        if any(self._identifiers[tag] != uid for tag, uid in head.identifiers.items()):
            raise MismatchError("the file meta information names another object")
        if self._study_instance_uid not in {"", self._identifiers[STUDY_INSTANCE_UID]}:
            raise MismatchError("the object belongs to another study than the request says")
