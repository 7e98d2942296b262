"""What one association stores: its reception, opened by the first object and closed once."""

from __future__ import annotations

from collections.abc import Callable

from hub.errors import CaidxError, RejectedError
from hub.ports import EndOfTransfer, ReceivedObject, Reception, Spool


class StorageTransfer:
    """Objects in one piece go to ``Reception.store``, those in chunks to ``Reception.spool``.

    Args:
        open_reception: ``Intake.open`` for this association.
        maximum_size: of a data set, in bytes.
    """

    def __init__(self, open_reception: Callable[[], Reception], maximum_size: int) -> None:
        self._open = open_reception
        self._maximum_size = maximum_size
        self._opened: Reception | None = None
        self._spool: Spool | None = None
        self._spooled = 0
        self._failure: CaidxError | None = None
        """What was wrong with the object that is coming in chunks; told when it is complete."""
        self.stored = 0
        """Objects, so far."""

    def chunk(self, named: ReceivedObject) -> None:
        """Take ``named.data_set``, a part of the object; never raises a `CaidxError`."""
        if self._failure is not None:
            return
        try:
            self._write(named)
        except CaidxError as error:
            self._failure = error
            self._discard()

    def store(self, named: ReceivedObject) -> None:
        """Store ``named``, or the object whose last part it is.

        Raises:
            RejectedError, TransientError: as ``Reception.store``.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._spool is None:
            self._check(len(named.data_set))
            self._reception().store(named)
        else:
            try:
                self._write(named)
                self._spool.store()
            finally:
                self._discard()
        self.stored += 1

    def close(self, end: EndOfTransfer) -> None:
        """The association is over: what came in part is gone, what was stored stays."""
        self._discard()
        reception, self._opened = self._opened, None
        if reception is not None:
            reception.close(end)

    def _reception(self) -> Reception:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _write(self, named: ReceivedObject) -> None:
        self._check(self._spooled + len(named.data_set))
        if self._spool is None:
            self._spool = self._reception().spool(
                named.sop_class_uid, named.sop_instance_uid, named.transfer_syntax_uid
            )
        self._spooled += len(named.data_set)
        self._spool.write(named.data_set)

    def _check(self, size: int) -> None:
        if size > self._maximum_size:
            raise RejectedError(f"longer than {self._maximum_size} bytes")

    def _discard(self) -> None:
        spool, self._spool, self._spooled = self._spool, None, 0
        if spool is not None:
            spool.discard()
