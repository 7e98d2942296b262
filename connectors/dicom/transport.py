"""A TCP connection, plain or TLS: receive into given memory, send, both with a time limit."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl  # loaded only where TLS is configured: the receiver starts sooner without it


class ConnectionBrokenError(Exception):
    """The connection is of no use any more; the message is for the log."""


class Transport(Protocol):
    """What `connection.Connection` needs of a connection.

    Every other failure than a wait in vain is a `ConnectionBrokenError`.
    """

    def receive_into(self, view: memoryview, *, fill: bool) -> int:
        """Wait for bytes; 0 when the peer has closed.

        ``fill``: all of these bytes have to come, so that it may wait for the last one; it
        returns with fewer all the same when the peer closes or the time runs out.

        Raises:
            TimeoutError: none came in time.
        """
        ...

    def send(self, data: bytes) -> None:
        """Send all, in time; another thread may be receiving meanwhile."""
        ...

    def set_timeout(self, seconds: float) -> None:
        """For each ``receive_into`` and ``send`` from now on."""
        ...

    def wake(self) -> None:
        """Let a ``receive_into`` in another thread return what is there already, then 0."""
        ...

    def close(self) -> None: ...


class PlainTransport:
    """`Transport` over TCP. The kernel keeps the time: one system call for each receive."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self._socket = connection
        self._receive_into = connection.recv_into

    def receive_into(self, view: memoryview, *, fill: bool) -> int:
        try:
            return self._receive_into(view, 0, socket.MSG_WAITALL if fill else 0)
        except BlockingIOError:  # SO_RCVTIMEO ran out
            raise TimeoutError from None
        except OSError as error:
            raise _broken(error) from error

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:  # BlockingIOError: SO_SNDTIMEO ran out
            raise _broken(error) from error

    def set_timeout(self, seconds: float) -> None:
        microseconds = max(int(seconds * 1_000_000), 1)  # 0 would be no limit
        limit = struct.pack("ll", *divmod(microseconds, 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def wake(self) -> None:
        _shut_down_reading(self._socket)

    def close(self) -> None:
        self._socket.close()


class TlsTransport:
    """`Transport` over TLS. OpenSSL allows one thread at a time: a lock, never held while
    waiting."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        from ssl import SSLWantReadError, SSLWantWriteError  # noqa: PLC0415 - see above

        connection.settimeout(0)
        self._socket = connection
        self._lock = threading.Lock()
        self._timeout = 0.0
        self._want_read, self._want_write = SSLWantReadError, SSLWantWriteError

    def receive_into(self, view: memoryview, *, fill: bool) -> int:  # noqa: ARG002 - OpenSSL
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                with self._lock:
                    return self._socket.recv_into(view)
            except self._want_read:
                self._wait(select.POLLIN, deadline)
            except self._want_write:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise _broken(error) from error

    def send(self, data: bytes) -> None:
        try:
            self._send(memoryview(data), time.monotonic() + self._timeout)
        except OSError as error:
            raise _broken(error) from error

    def _send(self, left: memoryview, deadline: float) -> None:
        while left:
            try:
                with self._lock:
                    left = left[self._socket.send(left) :]
            except self._want_write:
                self._wait(select.POLLOUT, deadline)
            except self._want_read:
                self._wait(select.POLLIN, deadline)

    def _wait(self, what: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, what)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise TimeoutError

    def set_timeout(self, seconds: float) -> None:
        self._timeout = seconds

    def wake(self) -> None:
        _shut_down_reading(self._socket)

    def close(self) -> None:
        self._socket.close()


def _broken(error: OSError) -> ConnectionBrokenError:
    if isinstance(error, BlockingIOError | TimeoutError):
        return ConnectionBrokenError("the peer does not read")
    return ConnectionBrokenError(error.strerror or type(error).__name__)


def _shut_down_reading(connection: socket.socket) -> None:
    try:
        # SSLSocket's own shutdown would forget that there is TLS.
        socket.socket.shutdown(connection, socket.SHUT_RD)
    except OSError:
        return  # it is closed already: nobody waits
