"""A program that webhooks are posted to. It checks the signatures of Standard Webhooks 1.0.0 by
itself, and holds its answers back while a test says so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
_TOLERANCE_SECONDS = 300
_LONGEST_HOLD = 60.0


@dataclass(frozen=True)
class Post:
    """One that arrived."""

    path: str
    headers: Message
    body: bytes
    is_signed: bool
    """By our key, over this body, now."""

    @property
    def notice(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass
class WebhookReceiver:
    """What was posted, in the order in which it arrived."""

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    status: int = 204
    answer: bytes = b""
    """Body of every answer; ``%BODY%`` in it is what was posted."""
    _held: dict[str, threading.Event] = field(default_factory=dict)

    def to(self, path: str) -> list[Post]:
        """Those to one address."""
        return [post for post in list(self.posts) if post.path == path]

    def notices(self, path: str) -> list[dict[str, Any]]:
        return [post.notice for post in self.to(path)]

    def hold(self, path: str) -> None:
        """Give no answers at this address for now."""
        self._held[path] = threading.Event()

    def let_go(self) -> None:
        """Answer everybody."""
        for event in self._held.values():
            event.set()

    def wait(self, path: str) -> None:
        if path in self._held:
            self._held[path].wait(_LONGEST_HOLD)

    def settings(self, name: str, path: str, **options: Any) -> dict[str, Any]:
        """The configuration of a destination that posts here."""
        own = {"name": name, "kind": "webhook", "url": f"{self.url}{path}", "secrets": [SECRET]}
        return {**own, **options}


@contextmanager
def receiving() -> Iterator[WebhookReceiver]:
    """A receiver on a port of its own, until the block ends."""
    receiver = WebhookReceiver()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go()
        server.shutdown()
        server.server_close()
        thread.join()


def _is_signed(headers: Message, body: bytes) -> bool:
    name, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isdigit() or abs(time.time() - int(at)) > _TOLERANCE_SECONDS:
        return False
    digest = hmac.new(KEY, b"%s.%s.%s" % (name.encode(), at.encode(), body), hashlib.sha256)
    expected = f"v1,{base64.b64encode(digest.digest()).decode()}"
    return expected in headers.get("webhook-signature", "").split()


def _handler(receiver: WebhookReceiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            signed = _is_signed(self.headers, body)
            receiver.posts.append(Post(self.path, self.headers, body, signed))
            receiver.wait(self.path)
            self._answer(receiver.answer.replace(b"%BODY%", body))

        def do_GET(self) -> None:
            self._answer(receiver.answer)

        def _answer(self, body: bytes) -> None:
            with suppress(ConnectionError):
                self.send_response(receiver.status)
                if receiver.status != http.HTTPStatus.NO_CONTENT:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if receiver.status != http.HTTPStatus.NO_CONTENT:
                    self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
