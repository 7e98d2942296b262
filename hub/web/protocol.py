"""HTTP/1.1 as uvicorn speaks it, with the limits that it lacks: slow clients cost nothing.

The parser is httptools: with h11, which is written in Python, reading a request of images took
longer than storing them.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class _RefusedError(Exception):
    """Raised in a callback of the parser, which stops at it: the answer is 400."""


class PatientProtocol(HttpToolsProtocol):
    """One connection. Patience ends: with headers that do not come, with a client that does not
    take its answer, and with a body that goes on after its answer was given."""

    header_seconds = 10.0
    """From the connection, or the first byte of a request, to the end of its headers."""
    write_seconds = 60.0
    """How long a client may take nothing of an answer."""
    drain_seconds = 5.0
    """How long the rest of a body is read away: closing at once would lose the answer."""
    most_header_bytes = 64 << 10
    """Request line and headers, and the trailers of a chunked body."""
    most_waiting = 16
    """Requests that may be sent before the first one of them is answered."""

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _drain_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    """Of this request, as far as they are read."""
    _unread_bytes = 0
    """Of a header that has no end yet: what came since the last byte of a body."""
    _is_within_request = False
    """Between the end of a request's headers and its own end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer, self._drain_timer):
            _cancel(timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread_bytes > self.most_header_bytes:
            self.send_400_response("The headers are too long.")
        elif self._header_timer is None and self._is_without_deadline():
            self._await_headers()

    # --- what the parser finds ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self.most_waiting:
            raise _RefusedError
        super().on_message_begin()
        self._header_bytes = 0
        if self._header_timer is None:
            self._await_headers()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)  # with a colon, a space and the end of the line
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        _cancel(self._header_timer)
        self._header_timer = None
        self._unread_bytes = 0
        self._is_within_request = True
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and self.parser.get_http_version() != "1.0":  # RFC 9112 3.2
            raise _RefusedError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        cycle = self.cycle
        if cycle.body or cycle.response_complete:
            waiting: bytes | bytearray = cycle.body
            if isinstance(waiting, bytes):  # many small pieces: each one would copy them all
                cycle.body = bytearray(waiting)
            super().on_body(body)
            return
        cycle.body = body  # type: ignore[assignment]  # nothing else waits: it is not copied
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        self._is_within_request = False
        _cancel(self._drain_timer)
        self._drain_timer = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_answered() or not self.cycle.response_started:
            if not self.transport.is_closing():
                super().send_400_response(msg)
        else:  # nothing may stand within an answer
            self.transport.close()

    # --- what the answer meets ----------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        _cancel(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_within_request and self._is_answered():
            self._drain_timer = self.loop.call_later(self.drain_seconds, self._drained)

    # --- deadlines ----------------------------------------------------------------------------

    def _is_answered(self) -> bool:
        """Whether no request waits for an answer, or for the rest of one."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn hides that there may be none
        return cycle is None or cycle.response_complete

    def _is_without_deadline(self) -> bool:
        """uvicorn does not wait for another request once more of the last one has come."""
        return (
            self.timeout_keep_alive_task is None
            and not self._is_within_request
            and self._is_answered()
        )

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self._is_answered():
            self._refuse(_LATE)
        else:  # nothing may stand within the answer to the request before
            self._await_headers()

    def _refuse(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _drained(self) -> None:
        self._drain_timer = None
        if self._is_within_request and self._is_answered():
            self.transport.close()

    def _count(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > self.most_header_bytes:
            if self._is_answered():
                self._refuse(_LARGE)
            raise _RefusedError


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
