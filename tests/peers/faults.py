"""A TCP proxy on loopback that stands between us and a real peer, and breaks what it is told to.

    with FaultProxy(orthanc.dicom_port) as proxy:
        proxy.fault = Refuse()              # connection refused
        proxy.fault = Hang()                # accepts, and never says a word
        proxy.fault = Slow(200)             # bytes a second, towards the client
        proxy.fault = Cut(20)               # so many bytes of the reply, then nothing more
        proxy.fault = Stall(20)             # the same, but the connection stays
        proxy.fault = Garbage()             # bytes that are no answer
        proxy.fault = Answer(503, retry_after="7")      # HTTP only
        proxy.fault = LoseReply()           # the peer does it, and we never hear of it
        proxy.fault = None                  # passes everything through again

A new fault ends the connections that are open, so that none that is kept alive escapes it.
``times`` counts connections: after so many the fault is over.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.peers import free_port

_CHUNK = 65536
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong; ``times``: with so many connections (0: with all)."""

    times: int = 0


@dataclass(frozen=True)
class Refuse(Fault):
    """Connection refused."""


@dataclass(frozen=True)
class Hang(Fault):
    """Takes what it is sent, and never answers."""


@dataclass(frozen=True)
class Slow(Fault):
    """Answers with so many bytes a second."""

    bytes_per_second: int


@dataclass(frozen=True)
class Cut(Fault):
    """Breaks off (RST) after so many bytes of the reply; the peer has got everything."""

    after: int


@dataclass(frozen=True)
class Stall(Fault):
    """Stops after so many bytes of the reply, and keeps the connection."""

    after: int


@dataclass(frozen=True)
class Garbage(Fault):
    """Answers with these bytes, whatever it is asked."""

    content: bytes = bytes(range(256)) * 4


@dataclass(frozen=True)
class Answer(Fault):
    """Answers an HTTP request itself; the peer does not get it."""

    status: int
    retry_after: str = ""
    body: bytes = b""


@dataclass(frozen=True)
class LoseReply(Fault):
    """Passes on what it is sent; the first reply after ``after_sent`` bytes gets lost (RST)."""

    after_sent: int = 1


class FaultProxy:
    """Listens on ``port`` and passes on to ``target`` on loopback."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.connections = 0
        """How many there were, but for refused ones."""
        self.faulty = 0
        """How many of them met a fault."""
        self.lost = 0
        """How many replies `LoseReply` has lost."""
        self._fault: Fault | None = None
        self._left = 0
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deafen()
        self._end_all()

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        with self._lock:
            self._fault, self._left = fault, fault.times if fault else 0
        self._end_all()
        if isinstance(fault, Refuse):
            self._deafen()
        elif self._listener is None:
            self._listen()

    # --- connections -------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener = listener
        self._accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._accepting.start()

    def _deafen(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None and self._accepting is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            fault = self._fault_of_next()
            self._keep(client)
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _fault_of_next(self) -> Fault | None:
        with self._lock:
            self.connections += 1
            fault = self._fault
            if fault is None:
                return None
            self.faulty += 1
            if fault.times:
                self._left -= 1
                self._fault = fault if self._left else None
            return fault

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def _end_all(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self._end(connection)

    def _end(self, connection: socket.socket, *, reset: bool = False) -> None:
        with self._lock:
            self._open.discard(connection)
        with suppress(OSError):
            if reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # wakes the thread that reads from it, without which nothing is closed
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    # --- what happens on one -----------------------------------------------------------------

    def _serve(self, client: socket.socket, fault: Fault | None) -> None:
        try:
            if isinstance(fault, Hang):
                _drain(client)
            elif isinstance(fault, Garbage):
                client.recv(_CHUNK)
                client.sendall(fault.content)
                time.sleep(_LOOK_SECONDS)
            elif isinstance(fault, Answer):
                _read_http(client)
                client.sendall(_http(fault))
            else:
                self._pass(client, fault)
        except OSError:
            pass
        finally:
            self._end(client)

    def _pass(self, client: socket.socket, fault: Fault | None) -> None:
        peer = socket.create_connection(("127.0.0.1", self.target))
        for connection in (client, peer):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._keep(peer)
        sent = _Counter()
        up = threading.Thread(target=_pump, args=(client, peer, sent), daemon=True)
        up.start()
        try:
            self._reply(client, peer, fault, sent)
        finally:
            self._end(peer)

    def _reply(
        self, client: socket.socket, peer: socket.socket, fault: Fault | None, sent: _Counter
    ) -> None:
        replied = 0
        while piece := peer.recv(_CHUNK):
            if isinstance(fault, LoseReply) and sent.value >= fault.after_sent:
                self._end(client, reset=True)
                with self._lock:
                    self.lost += 1
                return
            if isinstance(fault, Stall) and replied + len(piece) >= fault.after:
                client.sendall(piece[: fault.after - replied])
                _drain(peer)  # until somebody gives up
                return
            if isinstance(fault, Cut) and replied + len(piece) >= fault.after:
                client.sendall(piece[: fault.after - replied])
                time.sleep(_LOOK_SECONDS)  # what a reset overtakes is lost
                self._end(client, reset=True)
                return
            replied += len(piece)
            if isinstance(fault, Slow):
                _drip(client, piece, fault.bytes_per_second)
            else:
                client.sendall(piece)


@dataclass
class _Counter:
    value: int = 0


def _pump(source: socket.socket, sink: socket.socket, sent: _Counter) -> None:
    with suppress(OSError):
        while piece := source.recv(_CHUNK):
            sent.value += len(piece)
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


def _drain(client: socket.socket) -> None:
    while client.recv(_CHUNK):
        pass


def _drip(client: socket.socket, piece: bytes, bytes_per_second: int) -> None:
    step = max(1, bytes_per_second // 20)
    for start in range(0, len(piece), step):
        client.sendall(piece[start : start + step])
        time.sleep(step / bytes_per_second)


def _read_http(client: socket.socket) -> None:
    """One request with Content-Length, to its end."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = client.recv(_CHUNK)
        if not piece:
            return
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
    left = length - len(body)
    while left > 0 and (piece := client.recv(_CHUNK)):
        left -= len(piece)


def _http(fault: Answer) -> bytes:
    lines = [f"HTTP/1.1 {fault.status} Fault", f"Content-Length: {len(fault.body)}"]
    lines.append("Connection: close")
    if fault.retry_after:
        lines.append(f"Retry-After: {fault.retry_after}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + fault.body
