"""One connection of a sender: its messages, one after another, each with its answer."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from connectors.hl7v2.mllp import BlockReader, BlockTooLongError, block
from connectors.hl7v2.status import answer_to
from hub.errors import RejectedError, TransientError
from hub.formats.hl7v2.message import MessageError, read_header
from hub.ports import Clock

log = structlog.get_logger(__name__)

_RECEIVE = 65536


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take."""

    message_size: int
    """Bytes."""
    idle: float
    """Seconds between messages."""
    message: float
    """Seconds for one message to arrive, and for its answer to leave."""


class Conversation:
    """Runs on a thread of its own.

    Args:
        connection: connected, TLS and all; whoever opened it closes it.
        address: of the sender, for the log.
        take: takes one message, as it came, and returns when it is durably recorded; raises
            RejectedError and TransientError.
        limits: see there.
        clock: the time, for answers.
    """

    def __init__(
        self,
        connection: socket.socket,
        address: str,
        take: Callable[[bytes], None],
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._address = address
        self._take = take
        self._limits = limits
        self._clock = clock
        self._stopping = False

    def run(self) -> None:
        """Until the sender closes, breaks off, or goes beyond a limit."""
        reader = BlockReader(self._limits.message_size)
        deadline = time.monotonic() + self._limits.idle
        try:
            while not self._stopping:
                received = self._receive(deadline)
                if not received:
                    return
                was_inside = reader.is_inside
                messages = reader.feed(received)
                if not all(self._answer(message) for message in messages):
                    return
                if messages or (reader.is_inside and not was_inside):
                    # Bytes between messages move no deadline, or a sender could hold the line.
                    now = time.monotonic()
                    deadline = now + (
                        self._limits.message if reader.is_inside else self._limits.idle
                    )
        except BlockTooLongError as error:
            self._refuse(error.head, error)
        except OSError as error:  # TimeoutError is one
            if reader.is_inside:
                reason = type(error).__name__
                log.warning("patient.message.broken", address=self._address, reason=reason)

    def stop(self) -> None:
        """From another thread: answer what has arrived, then end."""
        self._stopping = True
        try:
            self._connection.shutdown(socket.SHUT_RD)
        except OSError:
            return  # it is closed already

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        return self._connection.recv(_RECEIVE)

    def _answer(self, content: bytes) -> bool:
        """Take a message and answer it; False where the next one cannot be told from garbage."""
        try:
            self._take(content)
        except (RejectedError, TransientError) as error:
            return self._refuse(content, error)
        return self._send(content, None)

    def _refuse(self, content: bytes, error: RejectedError | TransientError) -> bool:
        code = error.code if isinstance(error, MessageError) else ""
        log.warning(
            "patient.message.refused",
            address=self._address,
            reason=str(error),
            error=type(error).__name__,
            status=code,
        )
        return self._send(content, error)

    def _send(self, content: bytes, error: RejectedError | TransientError | None) -> bool:
        header = read_header(content)
        own_id = secrets.token_hex(9)
        self._connection.settimeout(self._limits.message)
        try:
            for answer in answer_to(header, error, self._clock.now(), own_id):
                self._connection.sendall(block(answer))
        except OSError:
            return False  # it does not listen any more; it will send the message again
        return header is not None
