"""The HTTP server of the simulated vendor: the contract's binding, and ways to break it."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import structlog

from hub.errors import RejectedError
from hub.formats.contract.messages import MEDIA_TYPE, decode_request, encode_deferred
from hub.formats.contract.request import RequestMessage
from hub.simulator.behaviours import LATE, WITHOUT_READING, Behaviour
from hub.simulator.vendor import Job, Vendor

INFERENCE = "/inference"
"""Requests are posted here; jobs are below it."""
STATISTICS, RECEIVED = "/statistics", "/received"
ELSEWHERE = "/elsewhere"
"""Where the redirect leads to."""
_MOST_BYTES = 64 << 20
_IDLE_SECONDS = 120.0
_HUGE_PIECE, _HUGE_PIECES = b" " * (1 << 16), 4096
_DRIP_SECONDS = 0.2
_SOONEST_SECONDS = 0.2
_SECRET_HEADERS = ("authorization", "x-api-key")

log = structlog.get_logger(__name__)


class VendorServer(ThreadingHTTPServer):
    """Listens as soon as it is made; ``serve_forever`` answers.

    Args:
        address: host and port; port 0 takes one that is free.
        vendor: what stands behind it; it is not closed with it.
        tls: for https.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], vendor: Vendor, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(address, _Exchange)
        self.vendor = vendor
        self._scheme = "http"
        if tls is not None:
            # The handshake is the exchange's own: one that is slow holds nobody else.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"

    @property
    def url(self) -> str:
        """Where requests are posted to."""
        host, port = self.server_address[:2]
        return f"{self._scheme}://{host!s}:{port}{INFERENCE}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Who hangs up, or does not show the right certificate, is no news."""
        log.debug("vendor.hung-up", address=str(client_address[0]))


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server: VendorServer

    @property
    def _vendor(self) -> Vendor:
        return self.server.vendor

    # --- methods -------------------------------------------------------------------------------

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a body of a known length is needed")
        elif self.path == ELSEWHERE:
            self._vendor.count("redirected")
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is here")
        elif self.path != INFERENCE:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such path")
        elif self._is_let_in():
            self._vendor.count("asked")
            self._ask(body)

    def do_GET(self) -> None:
        if self.path == STATISTICS:
            self._send(HTTPStatus.OK, orjson.dumps(self._vendor.statistics()))
        elif not self._is_let_in():
            return
        elif self.path == RECEIVED:  # tokens for images stand in it
            self._send(HTTPStatus.OK, orjson.dumps(self._vendor.everything_received()))
        else:
            self._vendor.count("asked-after")
            self._with_job(self._ask_after)

    def do_DELETE(self) -> None:
        if self._is_let_in():
            self._vendor.count("cancelled")
            self._with_job(self._cancel)

    # --- a request -----------------------------------------------------------------------------

    def _ask(self, body: bytes) -> None:
        behaviour = self._vendor.behaviour_of_next()
        if behaviour in WITHOUT_READING:
            self._misbehave(behaviour)
            return
        try:
            message = self._read(body)
        except RejectedError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            return
        job = self._vendor.submit(message, behaviour)
        answering = self._vendor.options.answering
        if behaviour is not Behaviour.NEVER and (
            answering == "sync" or (answering == "webhook" and message.callback is None)
        ):
            self._answer_now(job, behaviour)
        else:
            self._defer(job)

    def _read(self, body: bytes) -> RequestMessage:
        if self.headers.get_content_type() != MEDIA_TYPE:
            raise RejectedError(f"Content-Type must be {MEDIA_TYPE}")
        message = decode_request(body)
        headers = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() not in _SECRET_HEADERS
        }
        self._vendor.received(headers, orjson.loads(body))
        if self.headers.get("idempotency-key") != message.request_id:
            raise RejectedError("Idempotency-Key must be the request_id")
        return message

    def _answer_now(self, job: Job, behaviour: Behaviour) -> None:
        answer = self._vendor.await_answer(job)
        if behaviour is Behaviour.LOST_REPLY and job.lose_reply():
            self._hang_up(job.message.request_id)
        elif behaviour is Behaviour.DRIP:
            self._drip(answer, job.message.request_id)
        elif self._vendor.stopping.is_set():
            self._hang_up(job.message.request_id)
        else:
            self._send(HTTPStatus.OK, answer, request_id=job.message.request_id)

    def _ask_after(self, job: Job) -> None:
        if job.behaviour is Behaviour.NEVER or not job.is_answered:
            self._defer(job)
        else:
            self._send(HTTPStatus.OK, job.given, request_id=job.message.request_id)

    def _cancel(self, job: Job) -> None:
        self._vendor.cancel(job)
        self._send(HTTPStatus.NO_CONTENT, b"", request_id=job.message.request_id)

    def _defer(self, job: Job) -> None:
        options = self._vendor.options
        wait = min(options.delay_seconds, 1.0) if options.behaviour in LATE else _SOONEST_SECONDS
        answer = encode_deferred(job.message.request_id, job.reference, max(wait, _SOONEST_SECONDS))
        self._send(HTTPStatus.ACCEPTED, answer, request_id=job.message.request_id)

    def _with_job(self, do: Callable[[Job], None]) -> None:
        reference = self.path.removeprefix(f"{INFERENCE}/")
        job = self._vendor.find(reference)
        if job is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such job")
        else:
            do(job)

    # --- who may -------------------------------------------------------------------------------

    def _is_let_in(self) -> bool:
        """Whether the key is right; otherwise the answer is given."""
        wanted = self._vendor.options.api_key.encode()
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        given = self.headers.get("x-api-key", bearer).encode("latin-1", "replace")
        if not wanted or hmac.compare_digest(wanted, given):
            return True
        self._vendor.count("unauthorized")
        self._refuse(HTTPStatus.UNAUTHORIZED, "the key is missing or wrong")
        return False

    # --- misbehaviour --------------------------------------------------------------------------

    def _misbehave(self, behaviour: Behaviour) -> None:
        if behaviour is Behaviour.HTTP_500:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the simulator broke, as it was told")
        elif behaviour is Behaviour.HTTP_429:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too many requests", {"Retry-After": "1"})
        elif behaviour is Behaviour.HTTP_401:
            self._refuse(HTTPStatus.UNAUTHORIZED, "nobody is let in")
        elif behaviour is Behaviour.REDIRECT:
            where = self.server.url.removesuffix(INFERENCE) + ELSEWHERE
            self._refuse(HTTPStatus.TEMPORARY_REDIRECT, "elsewhere", {"Location": where})
        elif behaviour is Behaviour.HUGE:
            self._flood()
        else:
            if behaviour is Behaviour.HANG:
                self._vendor.stopping.wait()
            self._hang_up("")

    def _flood(self) -> None:
        self.close_connection = True
        self._log(HTTPStatus.OK, "")
        with suppress(OSError):
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", MEDIA_TYPE)
            self.end_headers()
            for _ in range(_HUGE_PIECES):
                self.wfile.write(_HUGE_PIECE)

    def _drip(self, answer: bytes, request_id: str) -> None:
        self._log(HTTPStatus.OK, request_id)
        with suppress(OSError):
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", MEDIA_TYPE)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            for position in range(len(answer)):
                self.wfile.write(answer[position : position + 1])
                if self._vendor.stopping.wait(_DRIP_SECONDS):
                    break

    def _hang_up(self, request_id: str) -> None:
        self.close_connection = True
        self._log(0, request_id)

    # --- HTTP ----------------------------------------------------------------------------------

    def _body(self) -> bytes | None:
        """All of it; None where its length is not told, or beyond reason."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def _refuse(
        self, status: HTTPStatus, message: str, headers: dict[str, str] | None = None
    ) -> None:
        self._send(status, orjson.dumps({"error": message}), headers)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        request_id: str = "",
    ) -> None:
        self._log(status, request_id)
        with suppress(OSError):  # who asked has gone
            self.send_response(status)
            given = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))}
            for name, value in {**given, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def _log(self, status: int, request_id: str) -> None:
        if self.path in (STATISTICS, RECEIVED):
            return
        log.info(
            "vendor.exchange",
            action=self.command,
            request_id=request_id or None,
            status=int(status),
        )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of its base
        """Its lines repeat paths; ours say what is needed."""
