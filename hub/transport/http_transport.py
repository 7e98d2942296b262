"""HTTP/1.1 whose timeout bounds a whole exchange.

httpx limits the wait for each piece, and so a server that sends a byte now and then holds its
caller for as long as it likes: in the head of an answer as in its body.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from hub.transport.address_guard import AddressGuard

_PIECE_BYTES = 64 << 10
"""Of a request that is sent; the time that is left is looked at between two of them."""


class BoundedTransport(httpx.HTTPTransport):
    """A transport to which a request's read timeout is that of the whole exchange, from the
    connection to the last byte of the answer. Thread-safe; the thread that sends a request reads
    its answer. It uses no proxy that the environment names: documents go where they are sent.

    Args:
        tls: for ``https`` URLs.
        guard: looks at every address that is connected to; None: the operator named the server.
    """

    def __init__(self, tls: ssl.SSLContext, guard: AddressGuard | None = None) -> None:
        super().__init__(verify=tls)
        self._due = _Due()
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls, max_connections=100, network_backend=_Backend(self._due, guard)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As `httpx.HTTPTransport`."""
        seconds = request.extensions.get("timeout", {}).get("read")
        self._due.at = math.inf if seconds is None else time.monotonic() + seconds
        return super().handle_request(request)


class _Due(threading.local):
    """When the exchange that this thread is in has to be over."""

    at: float = math.inf

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        """Seconds for one step."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise late
        return timeout if left == math.inf else min(left, left if timeout is None else timeout)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, due: _Due) -> None:
        self._inner = inner
        self._due = due

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._due.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with memoryview(buffer) as view:
            for start in range(0, len(view), _PIECE_BYTES):
                piece = bytes(view[start : start + _PIECE_BYTES])
                self._inner.write(piece, self._due.left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._due.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._due)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, due: _Due, guard: AddressGuard | None) -> None:
        self._inner = httpcore.SyncBackend()
        self._due = due
        self._guard = guard

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        for left_over, address in self._addresses(host, port):
            left = self._due.left(timeout, httpcore.ConnectTimeout)
            try:
                opened = self._inner.connect_tcp(address, port, left, local_address, socket_options)
            except httpcore.ConnectError:
                if not left_over:
                    raise
            else:
                return _Stream(opened, self._due)
        raise httpcore.ConnectError

    def _addresses(self, host: str, port: int) -> list[tuple[int, str]]:
        """Each address to try, and how many come after it. A name whose server the operator gave
        is left to the system."""
        found = (host,) if self._guard is None else self._guard.addresses(host, port)
        return [(len(found) - number, one) for number, one in enumerate(found, start=1)]
