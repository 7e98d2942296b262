"""We show a certificate to servers that want one, over real TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import ValidationError

from hub.errors import ConfigError, TransientError
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import HttpPeer
from tests.fakes import FrozenClock
from tests.peers.certificates import Authority, Identity


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        certificate = self.connection.getpeercert()  # type: ignore[attr-defined]
        subject = dict(part[0] for part in certificate["subject"])
        body = subject["commonName"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def server(authority: Authority) -> Iterator[str]:
    """It wants a certificate of our authority, and says whose it got."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = authority.issue("server")
    context.load_cert_chain(own.certificate, own.private_key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    listener.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://127.0.0.1:{listener.server_address[1]}"
    listener.shutdown()
    listener.server_close()


def peer(url: str, authority: Authority, **options: object) -> HttpPeer:
    config = HttpPeerConfig.model_validate(
        {"url": url, "ca_file": authority.certificate, **options}
    )
    return HttpPeer("peer", config, FrozenClock(), timeout=5)


def test_our_certificate_is_shown(server: str, authority: Authority) -> None:
    ours = authority.issue("caidx")
    caller = peer(
        server, authority, client_certificate=ours.certificate, client_key=ours.private_key
    )
    assert caller.exchange("GET", server).body == b"caidx"
    caller.close()


def test_key_and_certificate_may_stand_in_one_file(
    server: str, authority: Authority, tmp_path: Path
) -> None:
    ours = authority.issue("caidx")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.private_key.read_bytes() + ours.certificate.read_bytes())
    caller = peer(server, authority, client_certificate=both)
    assert caller.exchange("GET", server).body == b"caidx"
    caller.close()


def test_the_key_may_be_encrypted(server: str, authority: Authority, tmp_path: Path) -> None:
    ours = authority.issue("caidx")
    key = load_pem_private_key(ours.private_key.read_bytes(), None)
    closed = tmp_path / "closed.key"
    locked = BestAvailableEncryption(b"open sesame")
    closed.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    given = {"client_certificate": ours.certificate, "client_key": closed}
    caller = peer(server, authority, **given, client_key_password="open sesame")
    assert caller.exchange("GET", server).body == b"caidx"
    caller.close()
    for wrong in ({}, {"client_key_password": "CANARY"}):
        with pytest.raises(ConfigError, match="client_certificate: cannot be used") as caught:
            peer(server, authority, **given, **wrong)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("issuer", ["nobody", "stranger"])
def test_without_one_that_is_trusted_there_is_no_answer(
    server: str, authority: Authority, tmp_path: Path, issuer: str
) -> None:
    options: dict[str, object] = {}
    if issuer == "stranger":
        theirs: Identity = Authority(tmp_path / "theirs").issue("caidx")
        options = {"client_certificate": theirs.certificate, "client_key": theirs.private_key}
    caller = peer(server, authority, **options)
    with pytest.raises(TransientError):
        caller.exchange("GET", server)
    caller.close()


def test_a_key_without_a_certificate_is_a_mistake(authority: Authority) -> None:
    ours = authority.issue("caidx")
    with pytest.raises(ValidationError, match="belong to a client_certificate"):
        HttpPeerConfig(url="https://peer", client_key=ours.private_key)
