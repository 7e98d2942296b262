"""A connection to a receiver of HL7 v2 messages, from our side."""

from __future__ import annotations

import select
import socket
import ssl
import time

from connectors.hl7v2.mllp import BlockReader, BlockTooLongError, block
from hub.errors import TransientError

_RECEIVE = 65536
_LONGEST_ANSWER = 1 << 20
"""Bytes; an answer that is longer is no acknowledgement."""
_MOST_GARBAGE = 4 << 20
"""Bytes outside of any block, after which nobody waits for one."""


class MllpConnection:
    """One message at a time."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self._connection = connection
        self._peer = peer

    def exchange(self, content: bytes, timeout: float) -> bytes:
        """Send a message and wait for the block that answers it.

        Raises:
            ConnectionError: the peer closed the connection before it answered.
            TransientError: no answer in time, or none that can be one.
        """
        deadline = time.monotonic() + timeout
        reader = BlockReader(_LONGEST_ANSWER)
        received = 0
        try:
            self._connection.settimeout(timeout)
            self._connection.sendall(block(content))
            while received < _MOST_GARBAGE:
                piece = self._receive(deadline)
                received += len(piece)
                blocks = reader.feed(piece)
                if blocks:
                    return blocks[0]
        except TimeoutError:
            raise TransientError(f"{self._peer}: no acknowledgement in {timeout:g} s") from None
        except BlockTooLongError:
            raise TransientError(f"{self._peer}: the answer is too long") from None
        except ConnectionError:
            raise
        except OSError as error:  # ssl.SSLError is one
            raise TransientError(f"{self._peer}: {_reason(error)}") from None
        raise TransientError(f"{self._peer}: the answer is no HL7 v2 message")

    def is_quiet(self) -> bool:
        """Nothing has come since the last answer: neither its end nor what nobody asked for."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return False
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        self._connection.close()

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        piece = self._connection.recv(_RECEIVE)
        if not piece:
            raise ConnectionResetError
        return piece


def connect(host: str, port: int, timeout: float, tls: ssl.SSLContext | None) -> MllpConnection:
    """Open a connection.

    Args:
        host: name or address.
        port: TCP port.
        timeout: seconds for the connection, and again for TLS.
        tls: for a TLS connection.

    Raises:
        TransientError: it cannot be opened now.
    """
    peer = f"{host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise TransientError(f"cannot connect to {peer}: {_reason(error)}") from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is None:
            return MllpConnection(plain, peer)
        return MllpConnection(tls.wrap_socket(plain, server_hostname=host), peer)
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        raise TransientError(f"cannot connect to {peer}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
