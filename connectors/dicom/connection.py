"""One connection on a thread of its own: moves bytes and time between a transport and the
association, and what the association indicates to the services behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from connectors.dicom.association import (
    Aborted,
    Association,
    Chunk,
    Indication,
    Message,
    ReleaseRequested,
    Requested,
)
from connectors.dicom.data_buffer import DataBuffer
from connectors.dicom.pdu import AssociateAccept, AssociateRequest, Rejection
from connectors.dicom.transport import ConnectionBrokenError, Transport
from connectors.dicom.upper_layer import ImpossibleError
from hub.ports import EndOfTransfer

log = structlog.get_logger(__name__)


class Performer(Protocol):
    """Performs what a peer asks for on one association; called by one thread."""

    def requested(self, request: AssociateRequest) -> AssociateAccept | Rejection:
        """Answer an A-ASSOCIATE-RQ."""
        ...

    def chunk(self, chunk: Chunk) -> None:
        """Take a part of a data set that goes on."""
        ...

    def message(self, message: Message) -> bytes:
        """Perform a message and give the command set of the response; empty for none."""
        ...

    def responded(self) -> None:
        """The response is sent."""
        ...

    def ended(self, end: EndOfTransfer) -> None:
        """The association that was accepted is over; called exactly once."""
        ...


SendMessage = Callable[[int, bytes, bytes], bool]
"""(presentation context ID, command set, data set) -> whether it could be sent."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    artim: float
    """For the A-ASSOCIATE-RQ to come, and for the peer to close in the end (PS3.8 9.1.5)."""
    idle: float


class Connection:
    """See the module.

    Args:
        transport: the connection, after any TLS handshake.
        address: the peer's, for the log.
        maximum_length: of the P-DATA-TF PDUs that we take.
        data: for data sets.
        timeouts: see there.
        performer: built with the function that sends messages of our own on this association.
    """

    def __init__(
        self,
        transport: Transport,
        address: str,
        *,
        maximum_length: int,
        data: DataBuffer,
        timeouts: Timeouts,
        performer: Callable[[SendMessage], Performer],
    ) -> None:
        self._transport = transport
        self._address = address
        self._timeouts = timeouts
        self._data = data
        self._association = Association(maximum_length, data)
        self._performer = performer(self.send_message)
        self._accepted = False
        self._deadline: float | None = None
        self._stopping = False
        self._sending = threading.Lock()

    @property
    def established(self) -> bool:
        """Whether it is an association; any thread may ask."""
        return self._association.established

    def run(self) -> None:
        """Until the connection is closed; its faults end here, those of the performer do not."""
        try:
            while not self._association.closed:
                self._turn()
        except ConnectionBrokenError as error:
            self._end(EndOfTransfer.ABORTED, f"the connection broke: {error}")
        finally:
            # Also when the performer failed in a way that nobody expects: nothing stays open.
            try:
                self._end(EndOfTransfer.ABORTED, "a fault of the hub")
            finally:
                self._transport.close()
                self._data.close()

    def stop(self) -> None:
        """From another thread: abort the association once what is being stored is answered."""
        self._stopping = True
        self._transport.wake()

    def send_message(self, context_id: int, command: bytes, data_set: bytes) -> bool:
        """`SendMessage`, from any thread."""
        try:
            with self._sending:
                self._association.send(context_id, command, data_set)
                self._transport.send(self._association.take_outgoing())
        except (ImpossibleError, ConnectionBrokenError):
            return False
        return True

    # --- the loop ----------------------------------------------------------------------------

    def _turn(self) -> None:
        association = self._association
        if self._deadline is not None or association.artim_runs:
            self._keep_time()
        try:
            buffer = association.get_buffer()
            count = self._transport.receive_into(buffer, fill=association.wants_all)
        except TimeoutError:
            self._timed_out()
        else:
            if self._stopping:
                self._abort("the hub stops")
                association.closed = True
                return
            if count:
                indication = association.buffer_updated(count)
            else:
                indication = association.transport_closed()
            if indication is None:
                if association.established:
                    return
            else:
                self._act(indication)
        self._flush()

    def _keep_time(self) -> None:
        """ARTIM has one deadline, whatever comes meanwhile; the idle time begins with each
        byte."""
        now = time.monotonic()
        if not self._association.artim_runs:
            self._deadline = None
            self._transport.set_timeout(self._timeouts.idle)
            return
        if self._deadline is None:
            self._deadline = now + self._timeouts.artim
        self._transport.set_timeout(max(self._deadline - now, 0.001))

    def _timed_out(self) -> None:
        if self._association.artim_runs:
            self._association.artim_expired()
        else:
            self._abort(f"no word for {self._timeouts.idle:g} seconds")

    def _flush(self) -> None:
        with self._sending:
            outgoing = self._association.take_outgoing()
            if outgoing:
                self._transport.send(outgoing)

    # --- indications ---------------------------------------------------------------------------

    def _act(self, indication: Indication) -> None:
        if isinstance(indication, Message):
            self._perform(indication)
        elif isinstance(indication, Chunk):
            self._performer.chunk(indication)
        elif isinstance(indication, Requested):
            self._answer(indication.request)
        elif isinstance(indication, ReleaseRequested):
            # First the end is on record, then the peer is told.
            self._end(EndOfTransfer.RELEASED)
            self._association.release()
        else:
            self._ended_by(indication)

    def _perform(self, message: Message) -> None:
        response = self._performer.message(message)
        if response:
            self._association.send(message.context_id, response)
            self._flush()
            self._performer.responded()
        if self._stopping:
            self._abort("the hub stops")

    def _answer(self, request: AssociateRequest) -> None:
        answer = self._performer.requested(request)
        if isinstance(answer, Rejection):
            self._association.reject(answer)
        else:
            self._accepted = True
            self._association.accept(answer, request.maximum_length)

    def _ended_by(self, aborted: Aborted) -> None:
        if not self._accepted:
            log.info("dicom.connection.invalid", address=self._address, reason=aborted.detail)
        self._end(EndOfTransfer.ABORTED, aborted.detail)

    def _abort(self, reason: str) -> None:
        self._association.abort()
        self._end(EndOfTransfer.ABORTED, reason)
        self._flush()

    def _end(self, end: EndOfTransfer, reason: str = "") -> None:
        accepted, self._accepted = self._accepted, False
        if not accepted:
            return
        if end is EndOfTransfer.ABORTED:
            log.warning("dicom.association.aborted", address=self._address, reason=reason)
        self._performer.ended(end)
