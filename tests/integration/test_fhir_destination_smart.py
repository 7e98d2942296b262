"""Access to a FHIR server by SMART Backend Services, against a server that checks everything."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr, ValidationError

from connectors.fhir.config import FhirDestinationConfig, SmartConfig
from connectors.fhir.destination import FhirDestination
from hub.errors import ConfigError, TransientError
from hub.ports import DestinationContext
from tests.contracts.recording import WallClock
from tests.fakes import NoConfirmations
from tests.peers.oauth_server import Key, SmartServer, smart_server

RSA = RSAKey.generate_key(2048)
P384 = ECKey.generate_key("P-384")


def pem(key: Key) -> str:
    return key.as_pem(private=True).decode()


def ehr(server: SmartServer, private_key: str, **options: Any) -> FhirDestination:
    smart = SmartConfig(client_id="caidx", private_key=SecretStr(private_key), **options)
    config = FhirDestinationConfig(url=server.url, smart=smart)
    return FhirDestination(config, DestinationContext("ehr", WallClock(), NoConfirmations()))


@pytest.mark.parametrize("form", ["pem", "jwk"])
@pytest.mark.parametrize("key", [RSA, P384], ids=["RS384", "ES384"])
def test_a_token_is_fetched_once_and_carried(key: Key, form: str) -> None:
    private = pem(key) if form == "pem" else json.dumps(key.as_dict(private=True))
    with smart_server(key) as server:
        destination = ehr(server, private, key_id="k-1")
        for _ in range(3):
            assert destination.check().startswith("FHIR 4.0.1")
    assert (server.issued, server.refusals) == (["token-1"], [])
    assert server.requests == ["token-1"] * 3


def test_many_threads_share_one_token() -> None:
    with smart_server(P384) as server:
        destination = ehr(server, pem(P384))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: destination.check(), range(16)))
    assert server.issued == ["token-1"]


def test_a_token_is_replaced_before_it_expires_by_an_assertion_of_its_own() -> None:
    with smart_server(P384, lifetime=10) as server:  # less than what is left unused of it
        destination = ehr(server, pem(P384))
        destination.check()
        destination.check()
    assert server.issued == ["token-1", "token-2"]
    assert len(server.jtis) == 2, "a second assertion with the same jti would be refused"


def test_a_token_that_is_not_accepted_any_more_is_replaced_once() -> None:
    with smart_server(P384) as server:
        destination = ehr(server, pem(P384))
        destination.check()
        server.revoked.add("token-1")
        destination.check()
        server.revoked |= {f"token-{number}" for number in range(10)}
        with pytest.raises(TransientError, match="HTTP 401"):
            destination.check()
    assert server.requests == ["token-1", "token-1", "token-2", "token-2", "token-3"]


def test_the_server_refuses_another_key_another_client_and_another_audience() -> None:
    """What the test's own server checks is checked: each of these would pass otherwise."""
    stranger = ECKey.generate_key("P-384")
    with smart_server(P384) as server:
        with pytest.raises(TransientError, match=r"HTTP 400 \(invalid_client\)") as caught:
            ehr(server, pem(stranger)).check()
        server.client_id = "somebody"
        with pytest.raises(TransientError, match="invalid_client"):
            ehr(server, pem(P384)).check()
        server.client_id = "caidx"
        elsewhere = server.endpoint + "?tenant=2"
        with pytest.raises(TransientError, match="invalid_client"):
            ehr(server, pem(P384), token_url=elsewhere).check()
    assert server.refusals == ["signature", "client", "audience"]
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ((503, {}), "HTTP 503"),
        ((200, {}), "gave no token"),
        ((200, {"access_token": 5}), "gave no token"),
        ((200, {"access_token": "é"}), "gave no token"),
        ((200, {"access_token": "a\r\nX-Other: 1"}), "gave no token"),
        ((200, {"access_token": ""}), "gave no token"),
        ((200, {"access_token": "a", "expires_in": True}), "gave no token"),
        ((401, {"error": "Müller, Jörg"}), "HTTP 401"),
    ],
)
def test_a_server_without_a_token_is_no_way_in(failure: Any, said: str) -> None:
    failing = smart_server(P384, failure=failure)
    with failing as server, pytest.raises(TransientError, match=said) as caught:
        ehr(server, pem(P384)).check()
    assert "Müller" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("endpoint", ["http://ehr.example.org/token", "https://[ehr", "token"])
def test_an_assertion_is_never_sent_in_the_clear(endpoint: str) -> None:
    open_to_all = smart_server(P384, endpoint=endpoint)
    with open_to_all as server, pytest.raises(TransientError, match="neither https"):
        ehr(server, pem(P384)).check()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("no key", "cannot be read"),
        ("{}", "cannot be read"),
        (json.dumps({"kty": "oct", "k": "c2VjcmV0"}), "cannot be read"),
        (P384.as_pem(private=False).decode(), "public key"),
        (pem(ECKey.generate_key("P-256")), "P-384"),
        (pem(RSAKey.generate_key(1024)), "2048"),
    ],
    ids=["text", "empty", "symmetric", "public", "curve", "short"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_key_that_is_none_is_found_at_once(key: str, said: str) -> None:
    with smart_server(P384) as server, pytest.raises(ConfigError, match=said) as caught:
        ehr(server, key)
    assert "PRIVATE" not in str(caught.value)


def test_one_way_in_is_enough() -> None:
    smart = SmartConfig(client_id="caidx", private_key=SecretStr("k"))
    with pytest.raises(ValidationError, match="either smart"):
        FhirDestinationConfig(url="https://ehr", smart=smart, bearer_token=SecretStr("t"))
    assert "SecretStr('k')" not in repr(smart)
