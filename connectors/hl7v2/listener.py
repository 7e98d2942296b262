"""Listens, and gives every connection a thread: the only part of the source with a socket that
others connect to."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

import structlog

from connectors.hl7v2.conversation import Conversation

if TYPE_CHECKING:
    import ssl  # loaded only where TLS is configured

log = structlog.get_logger(__name__)

_BACKLOG = 64
_PAUSE = 0.1
"""Seconds after which accepting is tried again where the system has no resources."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may connect, and how often."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    """Empty: whoever can."""
    rejects_all: bool
    connections: int
    connections_per_address: int

    def refusal(self, address: str, open_connections: Counter[str]) -> str:
        """Why one more connection from an address is not taken; empty: it is."""
        if self.rejects_all or not self._is_known(address):
            return "unknown sender"
        if open_connections.total() >= self.connections:
            return "too many connections"
        if open_connections[address] >= self.connections_per_address:
            return "too many connections from one address"
        return ""

    def _is_known(self, address: str) -> bool:
        if not self.networks:
            return True
        found = ip_address(address.partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self.networks)


class Listener:
    """A listening socket and the threads of its connections.

    Args:
        name: of the source, for the threads.
        admission: see there.
        handshake_timeout: seconds for TLS to begin.
        converse: builds what runs on a connection, from its socket and the sender's address.
        tls: for TLS connections.
    """

    def __init__(
        self,
        name: str,
        admission: Admission,
        handshake_timeout: float,
        converse: Callable[[socket.socket, str], Conversation],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._name = name
        self._admission = admission
        self._handshake_timeout = handshake_timeout
        self._converse = converse
        self._tls = tls
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._addresses: dict[threading.Thread, str] = {}
        self._conversations: dict[threading.Thread, Conversation] = {}
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
        """Stop listening; what has arrived is answered within ``grace`` seconds."""
        listener, self._listener = self._listener, None
        if listener is None or self._accepting is None:
            return
        self._stopping = True
        _wake(listener)
        self._accepting.join()
        listener.close()
        with self._lock:
            conversations, threads = list(self._conversations.values()), list(self._addresses)
        for conversation in conversations:
            conversation.stop()
        deadline = time.monotonic() + grace
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
                    log.warning("patient.accept.failed", reason=error.strerror)
                    time.sleep(_PAUSE)
                continue
            self._begin(connection, address[0])

    def _begin(self, connection: socket.socket, address: str) -> None:
        thread = threading.Thread(
            target=self._run, args=(connection, address), name=self._name, daemon=True
        )
        with self._lock:
            refusal = self._admission.refusal(address, Counter(self._addresses.values()))
            if not refusal:
                self._addresses[thread] = address
        if refusal:
            log.warning("patient.connection.refused", address=address, reason=refusal)
            connection.close()
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads
            log.warning("patient.connection.refused", address=address, reason="no more threads")
            self._forget(thread)
            connection.close()

    def _run(self, connection: socket.socket, address: str) -> None:
        thread = threading.current_thread()
        try:
            secured = self._secured(connection, address)
            if secured is None:
                return
            with secured:
                conversation = self._converse(secured, address)
                with self._lock:
                    self._conversations[thread] = conversation
                    stopping = self._stopping
                if stopping:
                    conversation.stop()
                conversation.run()
        finally:
            connection.close()
            self._forget(thread)

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._addresses.pop(thread, None)
            self._conversations.pop(thread, None)

    def _secured(self, connection: socket.socket, address: str) -> socket.socket | None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is None:
                return connection
            connection.settimeout(self._handshake_timeout)
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or type(error).__name__
            log.warning("patient.connection.failed", address=address, reason=reason)
            return None


def _wake(listener: socket.socket) -> None:
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # not every system knows it for a listener; closing follows
