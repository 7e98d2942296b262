"""Servers that are slow in every way they can be, and what our requests carry."""

from __future__ import annotations

import gzip
import resource
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from pydantic import SecretStr, ValidationError

from connectors.dicomweb.archive import DicomWebArchive
from connectors.dicomweb.archive_config import DicomWebArchiveConfig
from hub.errors import ConfigError, TransientError
from hub.ports import ArchiveContext
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import HttpPeer, tls_context
from tests.contracts.recording import RecordingIntake
from tests.fakes import FrozenClock
from tests.peers.http_script import HttpScript, scripted

__all__ = ["scripted"]

Script = Callable[..., HttpScript]
Serve = Callable[[Callable[[socket.socket], None]], str]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
TIMEOUT = 0.5
"""Seconds that an exchange may take here; a drop comes in each tenth of that."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that does what it is given with each connection; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(answer: Callable[[socket.socket], None]) -> str:
        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        answer(client)

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(5)


def peer(url: str, **options: object) -> HttpPeer:
    config = HttpPeerConfig.model_validate({"url": url, **options})
    return HttpPeer("peer", config, FrozenClock(), timeout=TIMEOUT)


def _drop(client: socket.socket, piece: bytes) -> None:
    for _ in range(60):  # six times as long as it may take
        client.sendall(piece)
        time.sleep(TIMEOUT / 10)


def _drips_the_head(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(OK)
    _drop(client, b"X-More: 1\r\n")


def _drips_the_body(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    _drop(client, b"x")


def _sips_the_request(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(60):
        client.recv(200_000)
        time.sleep(TIMEOUT / 10)


@pytest.mark.parametrize(
    ("answer", "length"),
    [(_drips_the_head, 10), (_drips_the_body, 10), (_sips_the_request, 100 << 20)],
)
def test_the_timeout_is_that_of_the_whole_exchange(
    serve: Serve, answer: Callable[[socket.socket], None], length: int
) -> None:
    url = serve(answer)
    caller, began = peer(url), time.monotonic()
    with pytest.raises(TransientError, match=r"peer: (Read|Write)Timeout"):
        caller.exchange("POST", url, content=bytes(length))
    assert time.monotonic() - began < 3 * TIMEOUT
    caller.close()


@pytest.mark.parametrize("answer", [_drips_the_head, _drips_the_body])
def test_an_archive_keeps_to_its_time_too(
    serve: Serve, answer: Callable[[socket.socket], None]
) -> None:
    config = DicomWebArchiveConfig(url=serve(answer), query_timeout=TIMEOUT)
    archive = DicomWebArchive(config, ArchiveContext("pacs", RecordingIntake(), FrozenClock()))
    began = time.monotonic()
    with pytest.raises(TransientError):
        archive.find_series("1.2.3")
    assert time.monotonic() - began < 3 * TIMEOUT
    archive.close()


def test_a_connection_is_used_again_with_a_time_of_its_own(scripted: Script) -> None:
    server = scripted((200, b"{}", {}))
    caller = peer(server.url)
    caller.exchange("GET", server.url)
    time.sleep(TIMEOUT)
    assert caller.exchange("GET", server.url).status == 200
    caller.close()


def test_many_threads_have_a_time_each(serve: Serve, scripted: Script) -> None:
    slow, quick = serve(_drips_the_head), scripted((200, b"{}", {})).url
    caller = peer(slow)
    with ThreadPoolExecutor(5) as threads:
        lost = threads.submit(caller.exchange, "GET", slow)
        time.sleep(TIMEOUT / 2)
        answers = list(threads.map(lambda _: caller.exchange("GET", quick).status, range(20)))
    assert answers == [200] * 20
    assert isinstance(lost.exception(), TransientError)
    caller.close()


# --- what is configured ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"X-Key:": "a"}},
        {"headers": {"X Key": "a"}},
        {"headers": {"X-Key\r\nX-Other": "a"}},
        {"headers": {"": "a"}},
        {"username": "a:b", "password": "c"},
    ],
)
def test_what_cannot_be_a_header_is_found_with_its_line(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HttpPeerConfig.model_validate({"url": "https://a.example", **options})


@pytest.mark.parametrize("value", ["s3cret\r\nX-Other: 1", "s3cret\n", "s3crét", "s3cret\0"])
@pytest.mark.parametrize("field", ["bearer_token", "headers"])
def test_a_secret_that_cannot_be_sent_is_found_before_it_is(field: str, value: str) -> None:
    """It may come from the environment or a file, after the configuration was checked."""
    given = SecretStr(value) if field == "bearer_token" else {"X-Key": SecretStr(value)}
    with pytest.raises(ConfigError, match=field) as caught:
        peer("https://a.example", **{field: given})
    assert "s3cr" not in str(caught.value)


def test_names_and_passwords_may_be_of_any_letters(scripted: Script) -> None:
    server = scripted((200, b"{}", {}))
    peer(server.url, username="é", password=SecretStr("ü")).exchange("GET", server.url)
    assert server.requests[0]["authorization"] == f"Basic {b64encode('é:ü'.encode()).decode()}"


def test_an_address_that_is_none_is_no_answer(scripted: Script) -> None:
    caller = peer("https://a.example")
    for url in ("http://a.example:x/", "http://a.example/\0", "ftp://a.example"):
        with pytest.raises(TransientError, match="peer: "):
            caller.exchange("GET", url)


def test_no_proxy_of_the_environment_sees_a_document(
    scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, server = scripted((200, b"{}", {})), scripted((204, b"", {}))
    monkeypatch.setenv("HTTP_PROXY", stranger.url.removesuffix("/base"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert peer(server.url).exchange("POST", server.url, content=b"x").status == 204
    assert not stranger.requests


def test_the_systems_authorities_are_trusted() -> None:
    ours = tls_context(HttpPeerConfig(url="https://a.example"))
    assert ours.verify_mode is ssl.CERT_REQUIRED
    assert ours.check_hostname
    assert ours.cert_store_stats() == ssl.create_default_context().cert_store_stats()


# --- packed answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_packed_answer_is_unpacked(
    scripted: Script, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    text = bytes(range(256)) * 4000
    server = scripted((200, pack(text), {"Content-Encoding": encoding}))
    assert peer(server.url).exchange("GET", server.url).body == text


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,gzip", "br", "zstd"])
def test_an_answer_that_is_packed_otherwise_is_refused(scripted: Script, encoding: str) -> None:
    """Packed twice, 1 KB unpacks to 100 MB before anybody can count."""
    bomb = gzip.compress(gzip.compress(bytes(100 << 20), 1))
    assert len(bomb) < 10_000
    server = scripted((200, bomb, {"Content-Encoding": encoding}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TransientError, match="packed"):
        peer(server.url).exchange("GET", server.url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.parametrize(
    "body", [gzip.compress(b"x" * 999)[:-9], b"no gzip", gzip.compress(b"x") + b"more"]
)
def test_a_packed_answer_that_is_not_whole_is_none(scripted: Script, body: bytes) -> None:
    server = scripted((200, body, {"Content-Encoding": "gzip"}))
    with pytest.raises(TransientError, match="cannot be unpacked"):
        peer(server.url).exchange("GET", server.url)


def test_a_small_answer_that_unpacks_to_very_much_is_too_long(scripted: Script) -> None:
    server = scripted((200, gzip.compress(bytes(64 << 20), 1), {"Content-Encoding": "gzip"}))
    with pytest.raises(TransientError, match="too long"):
        peer(server.url).exchange("GET", server.url)
