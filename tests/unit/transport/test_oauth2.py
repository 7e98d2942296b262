"""Tokens by client credentials, against a server that answers as a test wrote down."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr, ValidationError

from hub.errors import RejectedError, TransientError
from hub.transport.http_config import HttpPeerConfig
from hub.transport.http_peer import HttpPeer
from hub.transport.oauth2 import AccessTokens, OAuth2Config, client_credentials
from tests.fakes import FrozenClock
from tests.peers.http_script import HttpScript, Reply, scripted

__all__ = ["scripted"]

Script = Callable[..., HttpScript]
SECRET = "CANARY:s&cret/ü"


def given(token: str, **more: Any) -> Reply:
    told = {"access_token": token, "token_type": "Bearer", "expires_in": 300} | more
    return 200, json.dumps(told).encode(), {}


def tokens_of(script: HttpScript, **options: Any) -> AccessTokens:
    config = OAuth2Config(
        token_url=script.url, client_id="caidx:hub", client_secret=SecretStr(SECRET), **options
    )
    peer = HttpPeer("auth", HttpPeerConfig(url=script.url), FrozenClock(), timeout=5)
    return client_credentials(config, peer)


def form_of(script: HttpScript) -> dict[str, list[str]]:
    return parse_qs(script.bodies[-1].decode())


def test_the_secret_stands_in_the_header(scripted: Script) -> None:
    server = scripted(given("t-1"))
    tokens = tokens_of(server, scope="infer read", audience="https://vendor.example")
    assert tokens.token() == "t-1"
    pair = b64encode(b"caidx%3Ahub:CANARY%3As%26cret%2F%C3%BC").decode()  # RFC 6749 2.3.1
    assert server.requests[0]["authorization"] == f"Basic {pair}"
    assert server.requests[0]["content-type"] == "application/x-www-form-urlencoded"
    assert form_of(server) == {
        "grant_type": ["client_credentials"],
        "scope": ["infer read"],
        "audience": ["https://vendor.example"],
    }


def test_or_in_the_form(scripted: Script) -> None:
    server = scripted(given("t-1"))
    tokens_of(server, authentication="client_secret_post").token()
    assert "authorization" not in server.requests[0]
    assert form_of(server) == {
        "grant_type": ["client_credentials"],
        "client_id": ["caidx:hub"],
        "client_secret": [SECRET],
    }


def test_a_token_is_fetched_once_however_many_ask(scripted: Script) -> None:
    server = scripted(given("t-1"), given("t-2"))
    tokens = tokens_of(server)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: tokens.token(), range(16))) == {"t-1"}
    assert len(server.requests) == 1


def test_one_that_is_about_to_end_is_not_used(scripted: Script) -> None:
    server = scripted(given("t-1", expires_in=20), given("t-2"))
    tokens = tokens_of(server)
    assert [tokens.token() for _ in range(3)] == ["t-1", "t-2", "t-2"]


def test_one_that_the_server_does_not_take_is_forgotten(scripted: Script) -> None:
    server = scripted(given("t-1"), given("t-2"))
    tokens = tokens_of(server)
    tokens.forget(tokens.token())
    assert tokens.token() == "t-2"
    tokens.forget("t-1")  # what another thread had
    assert tokens.token() == "t-2"


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        ((400, b'{"error": "invalid_client"}', {}), RejectedError, "400 .invalid_client"),
        ((401, b"", {}), RejectedError, "HTTP 401"),
        ((400, b'{"error": "CANARY of a person"}', {}), RejectedError, "HTTP 400$"),
        ((503, b"", {"Retry-After": "7"}), TransientError, "HTTP 503"),
        ((429, b"", {}), TransientError, "HTTP 429"),
        ((200, b"<html>", {}), TransientError, "no token"),
        (given("t 1"), TransientError, "no token"),
        (given("t-1", expires_in="soon"), TransientError, "no token"),
    ],
)
def test_what_is_no_token_says_why_and_nothing_more(
    scripted: Script, reply: Reply, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        tokens_of(scripted(reply)).token()
    assert "CANARY" not in str(caught.value)
    if isinstance(caught.value, TransientError) and reply[2]:
        assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example/token",
        "https://user:CANARY@auth.example/token",
        "https:///token",
        "ftp://auth.example/token",
        "https://auth.example/token#part",
    ],
)
def test_the_secret_goes_nowhere_in_clear(url: str) -> None:
    with pytest.raises(ValidationError):
        OAuth2Config(token_url=url, client_id="c", client_secret=SecretStr("s"))
