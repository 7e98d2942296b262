"""One association as an acceptor sees it: the byte stream in, indications out; no I/O.

    loop:  n = socket.recv_into(association.get_buffer())
           indication = association.buffer_updated(n)
           ... act on it: accept, reject, respond, release, abort ...
           socket.sendall(association.take_outgoing())

A PDU is never put together in memory: the bytes of a data set go from the socket to the place
in the data buffer where they stay, whatever fragments they come in. What is allowed when is the
table's affair (`upper_layer.py`); what the bytes mean is that of `pdu.py` and `dimse.py`; this
module cuts the stream into PDUs and fragments, and joins fragments to messages (PS3.8 annex E).
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from connectors.dicom.data_buffer import DataBuffer
from connectors.dicom.dimse import (
    MAXIMUM_COMMAND_LENGTH,
    Command,
    InvalidCommandError,
    decode_command,
)
from connectors.dicom.pdu import (
    HEAD_LENGTH,
    IS_COMMAND,
    IS_LAST,
    MAXIMUM_ASSOCIATE_LENGTH,
    PDV_HEAD_LENGTH,
    AbortReason,
    AbortSource,
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    InvalidPduError,
    PduType,
    Rejection,
    decode_abort,
    decode_associate_request,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_message,
    encode_release_response,
)
from connectors.dicom.upper_layer import Do, Event, ImpossibleError, State, UpperLayer


@dataclass(frozen=True, slots=True)
class Requested:
    """A-ASSOCIATE indication: answer by ``accept`` or ``reject``."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class Chunk:
    """The data buffer is full and the data set goes on: take these bytes away."""

    context_id: int
    command: Command
    data: memoryview
    """As long as nothing more is received."""


@dataclass(frozen=True, slots=True)
class Message:
    """A DIMSE message is complete."""

    context_id: int
    command: Command
    data: memoryview
    """The data set, or what followed the last `Chunk`; as long as nothing more is received."""


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """A-RELEASE indication: answer by ``release``."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A-ABORT or A-P-ABORT indication: the association is over."""

    detail: str
    """Why, for the log; no patient data."""


Indication = Requested | Chunk | Message | ReleaseRequested | Aborted


class _Reading(Enum):
    """What the next bytes are."""

    HEAD = auto()
    """Head of a PDU and, of a P-DATA-TF, of its first PDV: both in one go."""
    BODY = auto()
    """What follows the head of a PDU that is no P-DATA-TF."""
    PDV_HEAD = auto()
    """Head of a further PDV in the same PDU."""
    FRAGMENT = auto()
    """The fragment in a PDV."""
    NOTHING = auto()
    """The stream cannot be followed any more; bytes are thrown away."""


_HEAD = struct.Struct(">BxI")
_PDV_HEAD = struct.Struct(">IBB")
_BOTH_HEADS = HEAD_LENGTH + PDV_HEAD_LENGTH
_PDV_OVERHEAD = 2
"""Presentation context ID and message control header count as part of the PDV."""
_OTHER_PDU_LENGTH = 4
_SCRATCH = 4096

_EVENT_OF = {
    PduType.A_ASSOCIATE_RQ: Event.A_ASSOCIATE_RQ,
    PduType.A_ASSOCIATE_AC: Event.A_ASSOCIATE_AC,
    PduType.A_ASSOCIATE_RJ: Event.A_ASSOCIATE_RJ,
    PduType.A_RELEASE_RQ: Event.A_RELEASE_RQ,
    PduType.A_RELEASE_RP: Event.A_RELEASE_RP,
    PduType.A_ABORT: Event.A_ABORT,
}
_ASSOCIATE = frozenset({PduType.A_ASSOCIATE_RQ, PduType.A_ASSOCIATE_AC})


class Association:
    """See the module. Used by one thread, but for ``send``; it never raises because of what a
    peer sends.

    Args:
        maximum_length: of the P-DATA-TF PDUs that we take, as the answer tells the peer.
        data: where data sets go.
    """

    def __init__(self, maximum_length: int, data: DataBuffer) -> None:
        self.artim_runs = False
        self.closed = False
        """The transport connection is to be closed, or is."""
        self._upper_layer = UpperLayer()
        self._maximum_length = maximum_length
        self._peer_maximum_length = 0
        self._accepted: frozenset[int] = frozenset()
        self._outgoing: deque[bytes] = deque()
        self._reading = _Reading.HEAD
        self._head = bytearray(_BOTH_HEADS)
        self._head_view = memoryview(self._head)
        self._have = 0
        self._kind = PduType.P_DATA_TF
        self._body = bytearray()
        self._scratch = memoryview(bytearray(0))
        self._pdu_left = 0
        self._fragment_left = 0
        self._control = 0
        self._context_id = 0
        self._command_bytes = bytearray()
        self._command: Command | None = None
        self._data = data
        self._data_is_taken = False
        self._do(Event.TRANSPORT_CONNECTION_INDICATION)

    # --- state -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._upper_layer.state

    @property
    def established(self) -> bool:
        return self._upper_layer.state is State.STA6

    def take_outgoing(self) -> bytes:
        """What is to be sent now; empty when there is nothing."""
        outgoing = b""
        while self._outgoing:
            outgoing += self._outgoing.popleft()
        return outgoing

    # --- primitives of the user --------------------------------------------------------------

    def accept(self, answer: AssociateAccept, peer_maximum_length: int) -> None:
        """A-ASSOCIATE response: the association is established."""
        accepted = (c.context_id for c in answer.contexts if c.result is ContextResult.ACCEPTANCE)
        self._accepted = frozenset(accepted)
        self._peer_maximum_length = peer_maximum_length
        self._do(Event.A_ASSOCIATE_RESPONSE_ACCEPT, encode_associate_accept(answer))

    def reject(self, rejection: Rejection) -> None:
        """A-ASSOCIATE response: the association is refused."""
        self._do(Event.A_ASSOCIATE_RESPONSE_REJECT, encode_associate_reject(rejection))

    def send(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """P-DATA request: a DIMSE message.

        Changes no state (DT-1), so another thread may call it, if one alone takes and sends.

        Raises:
            ImpossibleError: the association is not established, or not any more.
        """
        if not self._upper_layer.allows(Event.P_DATA_REQUEST):
            raise ImpossibleError("there is no association")
        message = encode_message(context_id, command, data_set, self._peer_maximum_length)
        self._outgoing.append(message)

    def release(self) -> None:
        """A-RELEASE response."""
        self._do(Event.A_RELEASE_RESPONSE, encode_release_response())

    def abort(self) -> None:
        """A-ABORT request, where the association is not over already."""
        if self._upper_layer.allows(Event.A_ABORT_REQUEST):
            self._do(Event.A_ABORT_REQUEST)
            self._reading = _Reading.NOTHING  # the rest of a message may still come: not a message

    # --- what the transport says -------------------------------------------------------------

    def transport_closed(self) -> Aborted | None:
        """The peer closed the connection, or it broke."""
        self.closed = True
        if self.state is State.STA1:
            return None
        return self._do(Event.TRANSPORT_CONNECTION_CLOSED, detail="the connection closed")

    def artim_expired(self) -> None:
        """The ARTIM timer ran out; only while ``artim_runs``."""
        self._do(Event.ARTIM_EXPIRED)

    # --- the byte stream ---------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Where the next bytes go: at least one byte, at most what is wanted now."""
        if self._reading is _Reading.FRAGMENT:
            if self._control & IS_COMMAND:
                return self._scratch_of(self._fragment_left)
            if self._data_is_taken:
                self._data.clear()
                self._data_is_taken = False
            return self._data.space(self._fragment_left)
        if self._reading is _Reading.HEAD:
            return self._head_view[self._have :]
        if self._reading is _Reading.PDV_HEAD:
            return self._head_view[self._have : PDV_HEAD_LENGTH]
        if self._reading is _Reading.BODY:
            return self._scratch_of(self._pdu_left)
        return self._scratch_of(_SCRATCH)

    @property
    def wants_all(self) -> bool:
        """Whether what ``get_buffer`` gave has to be filled before anything can happen."""
        return self._reading is _Reading.FRAGMENT

    def buffer_updated(self, count: int) -> Indication | None:
        """So many bytes (at least one) were put where ``get_buffer`` said."""
        try:
            return self._grew(count)
        except InvalidPduError as error:
            return self._invalid(error)
        except InvalidCommandError as error:
            self._reading = _Reading.NOTHING
            self.abort()
            return Aborted(str(error))

    def _grew(self, count: int) -> Indication | None:
        if self._reading is _Reading.FRAGMENT:
            return self._fragment_grew(count)
        if self._reading is _Reading.BODY:
            return self._body_grew(count)
        self._have += count
        if self._reading is _Reading.HEAD:
            return self._head_grew()
        if self._reading is _Reading.PDV_HEAD and self._have == PDV_HEAD_LENGTH:
            return self._begin_fragment(0)
        return None

    def _scratch_of(self, size: int) -> memoryview:
        size = min(size, _SCRATCH)
        if len(self._scratch) < size:
            self._scratch = memoryview(bytearray(_SCRATCH))
        return self._scratch[:size]

    def _head_grew(self) -> Indication | None:
        if self._have < HEAD_LENGTH:
            return None
        kind, length = _HEAD.unpack_from(self._head)
        if kind != PduType.P_DATA_TF:
            return self._begin_body(kind, length)
        if not HEAD_LENGTH <= length <= self._maximum_length:
            raise InvalidPduError("the length of a P-DATA-TF is not allowed")
        if self.state is not State.STA6:
            self._reading = _Reading.NOTHING
            return self._do(Event.P_DATA_TF, detail="P-DATA-TF is not expected now")
        if self._have < _BOTH_HEADS:
            return None
        self._pdu_left = length
        return self._begin_fragment(HEAD_LENGTH)

    # --- PDUs other than P-DATA-TF -----------------------------------------------------------

    def _begin_body(self, kind: int, length: int) -> Indication | None:
        if kind not in _EVENT_OF:
            raise InvalidPduError("the PDU is of no known type", AbortReason.UNRECOGNIZED_PDU)
        self._kind = PduType(kind)
        largest = MAXIMUM_ASSOCIATE_LENGTH if self._kind in _ASSOCIATE else _OTHER_PDU_LENGTH
        if not _OTHER_PDU_LENGTH <= length <= largest:
            raise InvalidPduError("the length of a PDU is not allowed")
        # The head was read together with what would be a PDV's head: those bytes are body, and
        # two of them may already be of the next PDU.
        surplus = self._head[HEAD_LENGTH : self._have]
        body, rest = surplus[:length], surplus[length:]
        self._body = body
        self._pdu_left = length - len(body)
        self._head[: len(rest)] = rest
        self._have = len(rest)
        if self._pdu_left:
            self._reading = _Reading.BODY
            return None
        return self._received(self._kind, bytes(self._body))

    def _body_grew(self, count: int) -> Indication | None:
        self._body += self._scratch[:count]
        self._pdu_left -= count
        if self._pdu_left:
            return None
        self._reading = _Reading.HEAD
        body, self._body = bytes(self._body), bytearray()
        return self._received(self._kind, body)

    def _received(self, kind: PduType, body: bytes) -> Indication | None:
        state = self.state
        if kind is PduType.A_ASSOCIATE_RQ and state is State.STA2:
            request = decode_associate_request(body)
            self._do(Event.A_ASSOCIATE_RQ)
            return Requested(request)
        if kind is PduType.A_RELEASE_RQ and state is State.STA6:
            if self._command is not None or self._command_bytes:
                raise InvalidPduError("A-RELEASE-RQ amid a message", AbortReason.UNEXPECTED_PDU)
            self._do(Event.A_RELEASE_RQ)
            return ReleaseRequested()
        if kind is PduType.A_ABORT:
            source, reason = decode_abort(body)
            return self._do(Event.A_ABORT, detail=f"the peer aborted: {source}, {reason}")
        return self._do(_EVENT_OF[kind], detail=f"{kind.name} is not expected now")

    # --- P-DATA-TF ---------------------------------------------------------------------------

    def _begin_fragment(self, offset: int) -> Indication | None:
        """The head of a PDV is there."""
        length, context_id, control = _PDV_HEAD.unpack_from(self._head, offset)
        self._have = 0
        self._pdu_left -= 4 + length
        if length < _PDV_OVERHEAD or self._pdu_left < 0 or 0 < self._pdu_left < PDV_HEAD_LENGTH:
            raise InvalidPduError("the length of a PDV is not allowed")
        if context_id not in self._accepted:
            raise InvalidPduError("a PDV is of no accepted presentation context")
        if (self._command_bytes or self._command) and context_id != self._context_id:
            raise InvalidPduError("a message goes on in another presentation context")
        is_command = bool(control & IS_COMMAND)
        if is_command is (self._command is not None):
            raise InvalidPduError("command and data set of a message are out of order")
        self._context_id, self._control = context_id, control
        self._fragment_left = length - _PDV_OVERHEAD
        if not self._fragment_left:
            return self._end_fragment()
        self._reading = _Reading.FRAGMENT
        if is_command:
            if len(self._command_bytes) + self._fragment_left > MAXIMUM_COMMAND_LENGTH:
                raise InvalidPduError("the command set is too long")
            return None
        if self._data_is_taken:
            self._data.clear()
            self._data_is_taken = False
        return self._make_room()

    def _make_room(self) -> Chunk | None:
        """There has to be room for at least one byte; if not, what is there has to go."""
        self._data.reserve(self._fragment_left)
        if not self._data.full:
            return None
        assert self._command is not None  # noqa: S101 - a data fragment follows its command
        self._data_is_taken = True
        return Chunk(self._context_id, self._command, self._data.filled)

    def _fragment_grew(self, count: int) -> Indication | None:
        self._fragment_left -= count
        if self._control & IS_COMMAND:
            self._command_bytes += self._scratch[:count]
            return None if self._fragment_left else self._end_fragment()
        data = self._data
        data.used += count
        if not self._fragment_left:
            return self._end_fragment()
        return self._make_room() if data.full else None

    def _end_fragment(self) -> Indication | None:
        self._reading = _Reading.PDV_HEAD if self._pdu_left else _Reading.HEAD
        if not self._control & IS_LAST:
            return None
        if self._control & IS_COMMAND:
            command = decode_command(self._command_bytes)
            self._command_bytes = bytearray()
            self._data.clear()
            if command.has_data_set:
                self._command = command
                return None
        else:
            assert self._command is not None  # noqa: S101 - a data fragment follows its command
            command, self._command = self._command, None
            if self._data_is_taken:
                self._data.clear()
        self._data_is_taken = True
        return Message(self._context_id, command, self._data.filled)

    # --- the table ---------------------------------------------------------------------------

    def _invalid(self, error: InvalidPduError) -> Aborted | None:
        self._reading = _Reading.NOTHING
        if self.state is State.STA13:
            return None  # AA-7 once is enough: what follows is noise
        before = self.state
        indication = self._do(Event.INVALID_PDU, detail=str(error), reason=error.reason)
        return indication or (Aborted(str(error)) if before is State.STA2 else None)

    def _do(
        self,
        event: Event,
        pdu: bytes = b"",
        *,
        detail: str = "",
        reason: AbortReason = AbortReason.UNEXPECTED_PDU,
    ) -> Aborted | None:
        indication = None
        for step in self._upper_layer.take(event):
            if step is Do.SEND:
                self._outgoing.append(pdu)
            elif step is Do.SEND_USER_ABORT:
                abort = encode_abort(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED)
                self._outgoing.append(abort)
            elif step is Do.SEND_PROVIDER_ABORT:
                self._outgoing.append(encode_abort(AbortSource.SERVICE_PROVIDER, reason))
            elif step is Do.INDICATE_ABORT:
                indication = Aborted(detail)
            elif step is Do.CLOSE:
                self.closed = True
            elif step is not Do.INDICATE:
                self.artim_runs = step is Do.START_ARTIM
        return indication
