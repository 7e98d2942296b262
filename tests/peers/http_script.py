"""An HTTP server that answers as a test wrote down, for what real servers do too rarely."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""


@dataclass
class HttpScript:
    """What the server answers, in turn; the last answer is repeated."""

    answers: list[Reply]
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each request, in lower case; ``:path`` and ``:method`` beside them."""
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""
    search: Reply | None = None
    """Answer to requests with a query, which are then not recorded and use up no answer."""

    def next(self) -> Reply:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def scripted() -> Iterator[Callable[..., HttpScript]]:
    """Starts a server: ``scripted((503, b"", {"Retry-After": "7"}), (200, b"{}", {}))``."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(*answers: Reply) -> HttpScript:
        script = HttpScript(list(answers))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        script.url = f"http://127.0.0.1:{server.server_address[1]}/base"
        return script

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(script: HttpScript) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            script.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.do_GET()

        def do_GET(self) -> None:
            if script.search is not None and "?" in self.path:
                self._send(script.search)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append({**headers, ":path": self.path, ":method": self.command})
            self._send(script.next())

        do_DELETE = do_GET  # noqa: N815 - as http.server has it

        def _send(self, reply: Reply) -> None:
            status, body, given = reply
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **given}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # a client may have read enough
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
