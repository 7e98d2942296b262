"""Webhooks as their receivers get them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from connectors.webhook import CONNECTOR
from connectors.webhook.config import WebhookDestinationConfig
from connectors.webhook.destination import WebhookDestination
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.ports import DestinationContext
from hub.transport.webhook_signature import key_of, signed_headers
from tests.fakes import FrozenClock, NoConfirmations
from tests.peers.certificates import Authority
from tests.peers.faults import Answer, FaultProxy, Hang
from tests.peers.http_script import HttpScript, scripted

__all__ = ["scripted"]

Start = Callable[..., HttpScript]
SECRETS = [f"whsec_{b64encode(bytes([n]) * 32).decode()}" for n in (1, 2)]
NOTICE = Document(
    "d-1",
    DocumentKind.NOTICE,
    "request",
    StudyIdentity("1.2.3", PatientIdentity("CANARY-7", patient_name="Canary^Yellow")),
    b'{"event": "report.made"}',
)


def webhook(url: str, **options: Any) -> WebhookDestination:
    options.setdefault("secrets", tuple(SecretStr(one) for one in SECRETS))
    config = WebhookDestinationConfig(url=url, **options)
    return WebhookDestination(config, DestinationContext("hook", FrozenClock(), NoConfirmations()))


def test_a_receiver_can_check_who_sent_what_and_when(scripted: Start) -> None:
    server = scripted((204, b"", {}))
    assert webhook(server.url).deliver(NOTICE, "delivery-1").detail == "HTTP 204"
    (sent,), (body,) = server.requests, server.bodies
    assert body == NOTICE.content
    keys = [key_of(one) for one in SECRETS]
    expected = signed_headers("delivery-1", FrozenClock().now(), body, keys)
    assert {name: sent[name] for name in expected} == expected
    assert sent["content-type"] == "application/json"
    assert (sent[":method"], sent[":path"]) == ("POST", "/base")


def test_every_attempt_has_the_same_id(scripted: Start) -> None:
    server = scripted((503, b"", {}), (200, b"", {}))
    hook = webhook(server.url)
    with pytest.raises(TransientError):
        hook.deliver(NOTICE, "delivery-1")
    hook.deliver(NOTICE, "delivery-1")
    assert [one["webhook-id"] for one in server.requests] == ["delivery-1"] * 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, RejectedError),
        (307, RejectedError),
        (400, RejectedError),
        (401, RejectedError),
        (404, RejectedError),
        (410, RejectedError),
        (408, TransientError),
        (429, TransientError),
        (500, TransientError),
        (503, TransientError),
    ],
)
def test_each_status_means_what_happens_next(
    scripted: Start, status: int, error: type[CaidxError]
) -> None:
    elsewhere = scripted((200, b"", {}))
    server = scripted((status, b"CANARY", {"Location": elsewhere.url}))
    with pytest.raises(error, match=f"HTTP {status}") as caught:
        webhook(server.url).deliver(NOTICE, "delivery-1")
    assert "CANARY" not in str(caught.value)
    assert elsewhere.requests == [], "no document follows a redirect"


@pytest.mark.parametrize("status", [429, 503])
def test_the_receiver_says_when_to_come_back(scripted: Start, status: int) -> None:
    busy = scripted((status, b"", {"Retry-After": "90"}))
    with pytest.raises(TransientError) as caught:
        webhook(busy.url).deliver(NOTICE, "delivery-1")
    assert caught.value.retry_after == 90.0


def test_a_receiver_that_never_answers_is_given_up(scripted: Start) -> None:
    with FaultProxy(1) as proxy:
        proxy.fault = Hang()
        with pytest.raises(TransientError, match="hook: ReadTimeout"):
            webhook(f"http://127.0.0.1:{proxy.port}", timeout=0.3).deliver(NOTICE, "delivery-1")


def test_check_posts_nothing(scripted: Start) -> None:
    server = scripted((200, b"", {}))  # which knows no OPTIONS
    assert webhook(server.url).check() == "answers (HTTP 501)"
    assert server.bodies == []
    with FaultProxy(1) as proxy:
        proxy.fault = Answer(404)
        with pytest.raises(TransientError, match="HTTP 404"):
            webhook(f"http://127.0.0.1:{proxy.port}").check()


def test_only_what_is_configured_is_posted(scripted: Start) -> None:
    server = scripted((200, b"", {}))
    page = Document("d-2", DocumentKind.PDF, "request", NOTICE.identity, b"%PDF")
    with pytest.raises(RejectedError, match="not configured"):
        webhook(server.url).deliver(page, "delivery-2")
    webhook(server.url, documents=(DocumentKind.PDF,)).deliver(page, "delivery-2")
    assert [one["content-type"] for one in server.requests] == ["application/pdf"]
    assert CONNECTOR.sends == (DocumentKind.NOTICE,)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://hooks.example.org/x"},
        {"url": "https://hooks.example.org/x?patient=4711"},
        {"url": "https://a:b@hooks.example.org/x"},
        {"documents": ("seg",)},
        {"documents": ("record",)},
        {"documents": ()},
        {"secrets": ()},
        {"retries": 3},
    ],
)
def test_mistakes_of_the_configuration_are_found(options: dict[str, Any]) -> None:
    usual = {"url": "https://hooks.example.org/x", "secrets": tuple(SECRETS)}
    assert WebhookDestinationConfig(**usual)
    with pytest.raises(ValidationError):
        WebhookDestinationConfig(**usual | options)


def test_http_goes_to_this_machine_or_on_purpose() -> None:
    for url, allowed in (("http://127.0.0.1:80", False), ("http://hooks.example.org", True)):
        assert WebhookDestinationConfig(url=url, secrets=tuple(SECRETS), allow_http=allowed)


def test_a_secret_that_is_none_is_found_at_once() -> None:
    with pytest.raises(ConfigError, match=r"destinations\.hook\.secrets\.0") as caught:
        webhook("https://hooks.example.org", secrets=(SecretStr("s3cret"),))
    assert "s3cret" not in str(caught.value)


def test_a_server_of_another_authority_gets_nothing(scripted: Start, tmp_path: Path) -> None:
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    identity = theirs.issue("hooks")
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}/hook"
    try:
        with pytest.raises(TransientError, match="ConnectError"):
            webhook(url, ca_file=ours.certificate).deliver(NOTICE, "delivery-1")
        assert seen == []
        webhook(url, ca_file=theirs.certificate).deliver(NOTICE, "delivery-1")
        assert seen == ["/hook"]
    finally:
        server.shutdown()
        server.server_close()
