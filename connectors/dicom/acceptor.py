"""Listens, and gives every connection a thread: the only part of the acceptor with sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

from connectors.dicom.transport import PlainTransport, TlsTransport, Transport

if TYPE_CHECKING:
    import ssl  # loaded only where TLS is configured

log = structlog.get_logger(__name__)

_BACKLOG = 512
"""Connections that the kernel keeps waiting until they are accepted."""
_PAUSE = 0.1
"""Seconds after which accepting is tried again where the system has no resources."""


class Conversation(Protocol):
    """What runs on a connection's thread."""

    @property
    def established(self) -> bool:
        """Whether it is an association."""
        ...

    def run(self) -> None: ...

    def stop(self) -> None:
        """From another thread: end soon."""
        ...


class Acceptor:
    """A listening socket and the threads of its connections.

    Args:
        name: of the source, for the threads.
        maximum_connections: with those that are no associations; further ones are closed.
        maximum_waiting: connections from one address that are no associations: yet, or any more.
        handshake_timeout: seconds for the TLS handshake.
        converse: builds what runs on a connection, from its transport and the peer's address.
        tls: for TLS connections.
    """

    def __init__(
        self,
        name: str,
        *,
        maximum_connections: int,
        maximum_waiting: int,
        handshake_timeout: float,
        converse: Callable[[Transport, str], Conversation],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._name = name
        self._maximum_connections = maximum_connections
        self._maximum_waiting = maximum_waiting
        self._handshake_timeout = handshake_timeout
        self._converse = converse
        self._tls = tls
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._running: dict[threading.Thread, Conversation | None] = {}
        self._addresses: dict[threading.Thread, str] = {}
        self._stopping = False
        self._lock = threading.Lock()

    def listen(self, host: str, port: int) -> None:
        """Start to listen.

        Raises:
            OSError: it cannot.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._accepting = threading.Thread(
            target=self._accept, args=(listener,), name=f"{self._name}-accept", daemon=True
        )
        self._accepting.start()

    def stop(self, grace: float) -> None:
        """Stop listening; let connections end for ``grace`` seconds, then end them."""
        listener, self._listener = self._listener, None
        if listener is None or self._accepting is None:
            return
        self._stopping = True
        _wake(listener)
        self._accepting.join()
        listener.close()
        self._join(grace)
        with self._lock:
            conversations = list(self._running.values())
        for conversation in conversations:
            if conversation is not None:
                conversation.stop()
        self._join(grace)

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._running)
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping:
            try:
                connection, address = listener.accept()
            except ConnectionError:
                continue  # it was gone before it was accepted
            except OSError as error:
                if not self._stopping:
                    log.warning("dicom.accept.failed", reason=error.strerror)
                    time.sleep(_PAUSE)
                continue
            self._begin(connection, address[0])

    def _begin(self, connection: socket.socket, address: str) -> None:
        thread = threading.Thread(
            target=self._run, args=(connection, address), name=self._name, daemon=True
        )
        with self._lock:
            limit = self._limit_reached(address)
            if limit is None:
                self._running[thread], self._addresses[thread] = None, address
        if limit is not None:
            log.warning("dicom.connection.refused", address=address, limit=limit)
            connection.close()
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads
            log.warning("dicom.connection.refused", address=address, reason="no more threads")
            self._forget(thread)
            connection.close()

    def _limit_reached(self, address: str) -> int | None:
        """The limit that forbids one more connection from this address."""
        if len(self._running) >= self._maximum_connections:
            return self._maximum_connections
        waiting = sum(
            self._addresses[thread] == address
            and (conversation is None or not conversation.established)
            for thread, conversation in self._running.items()
        )
        return self._maximum_waiting if waiting >= self._maximum_waiting else None

    def _run(self, connection: socket.socket, address: str) -> None:
        thread = threading.current_thread()
        try:
            transport = self._transport(connection, address)
            if transport is None:
                return
            conversation = self._converse(transport, address)
            with self._lock:
                self._running[thread] = conversation
                stopping = self._stopping
            if stopping:
                conversation.stop()
            conversation.run()
        finally:
            connection.close()
            self._forget(thread)

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._running.pop(thread, None)
            self._addresses.pop(thread, None)

    def _transport(self, connection: socket.socket, address: str) -> Transport | None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return PlainTransport(connection)
            connection.settimeout(self._handshake_timeout)
            secured = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        except OSError:
            return None  # the peer has gone
        try:
            secured.do_handshake()
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or type(error).__name__
            log.warning("dicom.tls.failed", address=address, reason=reason)
            secured.close()
            return None
        return TlsTransport(secured)


def _wake(listener: socket.socket) -> None:
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # not every system knows it for a listener; closing follows
