"""What arrives by WADO-RS, on its way into the hub's intake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from connectors.dicomweb.multipart import Event, PartBegins, PartEnds
from hub.errors import RejectedError
from hub.formats.dicom.header import scan_header
from hub.formats.dicom.part10 import split_part10
from hub.ports import (
    ArchiveContext,
    EndOfTransfer,
    ReceivedObject,
    Sender,
    Spool,
)

_IN_MEMORY_BYTES = 32 << 20
"""What is larger goes to the disk as it comes."""


class Transfer:
    """One retrieval: one transfer into the intake."""

    def __init__(self, context: ArchiveContext, url: str, study_instance_uid: str) -> None:
        address = urlsplit(url).hostname or ""
        self.reception = context.intake.open(Sender(source=context.name, address=address))
        self._end = EndOfTransfer.ABORTED
        self.study_instance_uid = study_instance_uid
        """What was asked for; nothing else is taken, whoever answers."""
        self.count = 0
        """Parts that came."""
        self.refusals: list[str] = []
        """Why parts, of these, were refused: no DICOM file, or nothing that the intake takes."""

    def finished(self) -> None:
        """The archive has sent all of it.

        Raises:
            RejectedError: not all of it was taken; what was stays.
        """
        if self.refusals:
            raise RejectedError(
                f"{len(self.refusals)} of {self.count} instances were refused: {self.refusals[0]}"
            )
        self._end = EndOfTransfer.RELEASED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reception.close(self._end)


class RetrievedParts:
    """One part after another, a Part 10 file each, into the intake."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._reception = transfer.reception
        self._head = bytearray()
        self._spool: Spool | None = None
        self._is_refused = False
        self.count = 0

    def take(self, events: Iterable[Event]) -> None:
        """What the next bytes of the answer held. A part that is refused does not stop the
        others.

        Raises:
            TransientError: the intake is out of resources.
        """
        for event in events:
            if isinstance(event, PartBegins):
                self._head, self._is_refused = bytearray(), False
            elif isinstance(event, PartEnds):
                self.count += 1
                self._transfer.count += 1
                self._unless_refused(self._end)
            else:
                self._unless_refused(partial(self._add, event))

    def _unless_refused(self, step: Callable[[], None]) -> None:
        if self._is_refused:
            return
        try:
            step()
        except RejectedError as error:
            self._is_refused, self._head = True, bytearray()
            self._discard()
            self._transfer.refusals.append(str(error))

    def _add(self, piece: memoryview) -> None:
        if self._spool is not None:
            self._spool.write(piece)
            return
        self._head += piece
        if len(self._head) > _IN_MEMORY_BYTES:
            received = self._received(bytes(self._head))
            self._spool = self._reception.spool(
                received.sop_class_uid, received.sop_instance_uid, received.transfer_syntax_uid
            )
            self._spool.write(received.data_set)
            self._head = bytearray()

    def _end(self) -> None:
        if self._spool is not None:
            spool, self._spool = self._spool, None
            try:
                spool.store()
            finally:
                spool.discard()
        else:
            self._reception.store(self._received(bytes(self._head)))

    def _received(self, file: bytes) -> ReceivedObject:
        syntax, data_set = split_part10(file)
        scan = scan_header(data_set, syntax)
        if scan.study_instance_uid != self._transfer.study_instance_uid:
            raise RejectedError("an instance is of another study than was asked for")
        return ReceivedObject(scan.sop_class_uid, scan.sop_instance_uid, syntax, data_set)

    def _discard(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()  # it broke off
