from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from typing import Any

import httpx
import pytest

from hub.errors import ConfigError, RejectedError, TransientError
from hub.transport.address_guard import AddressGuard
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import HttpPeer, client
from tests.fakes import FrozenClock

HOSTILE = [
    "http://127.0.0.1/",
    "http://127.8.9.10:8080/",
    "http://localhost/",
    "http://localhost.localdomain/",
    "http://[::1]/",
    "http://[::]/",
    "http://0.0.0.0/",
    "http://0/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://0x7f.0.0.1/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::f5ff:fffe]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[::ffff:0:7f00:1]/",
    "http://[fec0::1]/",
    "http://[5f00::1]/",
    "http://[3fff::1]/",
    "http://[4000::1]/",
    "http://[2606:4700::5efe:a9fe:a9fe]/",
    "http://[2606:4700::200:5efe:7f00:1]/",
    "http://192.0.0.8/",
    "http://192.88.99.1/",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://10.0.0.8/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fc00::1]/",
    "http://224.0.0.1/",
    "http://[ff02::1]/",
    "http://255.255.255.255/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://240.0.0.1/",
    "http://user:secret@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http:///etc/passwd",
    "file:///etc/passwd",
    "ftp://example.com/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/",
    "jar:http://example.com!/",
    "//example.com/",
    "example.com/v2",
    "http://exa mple.com/",
    "http://example.com/\r\nHost: other",
    "http://[::1",
    "http://rebinding.example/",
    "http://mixed.example/",
    "http://metadata.google.internal/",
]
"""None of them may be connected to."""

NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.localdomain": ["127.0.0.1"],
    "rebinding.example": ["192.168.0.10"],
    "mixed.example": ["93.184.216.34", "10.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "example.com": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"],
}
NUMBERS = {"0", "127.1", "2130706433", "0x7f000001", "017700000001", "0x7f.0.0.1"}
"""Old notations of an address, which the system's resolver understands."""


def names(host: str, port: int) -> Sequence[str]:
    if host in NUMBERS:
        return ["0.0.0.0" if host == "0" else "127.0.0.1"]
    try:
        return [str(ip_address(host))]
    except ValueError:
        return NAMES[host]


def _look_at(guard: AddressGuard, url: str) -> None:
    """As a caller does: at the text, then at the addresses."""
    guard.check_url(url)
    parts = httpx.URL(url)
    guard.addresses(parts.host, parts.port or 80)


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(RejectedError) as refused:
        _look_at(AddressGuard(resolve=names), url)
    assert "secret" not in str(refused.value)
    assert "169.254" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/v2", "http://93.184.216.34/", "https://[2606:4700::1111]:8443/x?y=1"],
)
def test_a_public_url_is_let_through(url: str) -> None:
    guard = AddressGuard(resolve=names)
    guard.check_url(url)
    parts = httpx.URL(url)
    assert guard.addresses(parts.host, parts.port or 443)


def test_what_the_operator_named_is_let_through_and_its_neighbours_are_not() -> None:
    guard = AddressGuard(["192.168.0.0/24", "fd00::/8", "127.0.0.1"], resolve=names)
    assert guard.addresses("rebinding.example", 80) == ["192.168.0.10"]
    guard.check_url("http://[fd00:ec2::254]/")
    guard.check_url("http://[::ffff:127.0.0.1]/")
    for url in ("http://192.168.1.1/", "http://127.0.0.2/", "http://[fc00::1]/"):
        with pytest.raises(RejectedError):
            guard.check_url(url)


def test_one_private_address_among_several_closes_the_host() -> None:
    with pytest.raises(RejectedError, match="not public"):
        AddressGuard(resolve=names).addresses("mixed.example", 443)


def test_a_name_that_does_not_resolve_may_do_so_later() -> None:
    with pytest.raises(TransientError):
        AddressGuard(resolve=lambda host, port: []).addresses("new.example", 443)
    with pytest.raises(TransientError):
        AddressGuard().addresses("no-such-host.invalid", 443)


def test_networks_are_checked_when_they_are_read() -> None:
    with pytest.raises(ConfigError, match="private_networks"):
        AddressGuard(["10.0.0.1/8"])


# --- at the connection -----------------------------------------------------------------------


class _Redirecting(BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        port = self.server.server_address[1]
        self.send_response(302 if self.path == "/first" else 200)
        self.send_header("Location", f"http://127.0.0.2:{port}/second")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    _Redirecting.seen = []
    made = HTTPServer(("0.0.0.0", 0), _Redirecting)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    server: HTTPServer,
) -> None:
    """A name that leads elsewhere the second time gains nothing."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    guard = AddressGuard(["127.0.0.1"], resolve=lambda host, port: next(answers))
    port = server.server_address[1]
    url = f"http://vendor.example:{port}"
    peer = HttpPeer("vendor", HttpPeerConfig(url=url), FrozenClock(), timeout=5, guard=guard)
    assert peer.exchange("GET", f"{url}/plain").status == 200
    peer.close()
    other = HttpPeer("vendor", HttpPeerConfig(url=url), FrozenClock(), timeout=5, guard=guard)
    with pytest.raises(RejectedError, match="not public"):
        other.exchange("GET", f"{url}/plain")
    other.close()
    assert _Redirecting.seen == ["/plain"]


def test_a_redirect_is_not_followed_and_where_it_is_it_passes_the_guard(
    server: HTTPServer,
) -> None:
    guard = AddressGuard(["127.0.0.1"])
    url = f"http://127.0.0.1:{server.server_address[1]}"
    peer = HttpPeer("vendor", HttpPeerConfig(url=url), FrozenClock(), timeout=5, guard=guard)
    assert peer.exchange("GET", f"{url}/first").status == 302
    peer.close()
    following = client(HttpPeerConfig(url=url), timeout=5, guard=guard)
    with following, pytest.raises(RejectedError, match="not public"):
        following.get(f"{url}/first", follow_redirects=True)
    assert _Redirecting.seen == ["/first", "/first"]
