"""``caidx key``, and what is said of a server that listens to the network without TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trustme

from hub.config import WebSettings, load_settings
from hub.errors import ConfigError
from hub.registry import discover
from hub.store.api_keys import KeyRing
from hub.store.database import open_database, sqlite_url
from hub.store.journal import Journal
from tests.fakes import FrozenClock
from tests.unit.cli.test_app import Caidx, caidx, seeded, wait_for

__all__ = ["caidx", "seeded"]

EXPOSED = "127.1"
"""An address of this host that does not look so."""
TEXT = (
    f"the HTTP server listens on {EXPOSED}:8080 without TLS: whoever can read the network can read "
    "keys and patient data. Set web.tls, or web.trusted_proxies where a proxy ends TLS"
)


def test_a_key_is_made_printed_once_listed_and_revoked(seeded: Caidx) -> None:
    key = seeded(
        "key", "create", "--name", "orthanc", "--scope", "system", "--expires", "30"
    ).strip()
    assert key.startswith("caidx_"), "nothing else is on standard output"
    assert key not in seeded.err
    key_id = key.split("_")[1]
    (listed,) = seeded.json("key", "list")
    assert (listed["key_id"], listed["name"], listed["state"]) == (key_id, "orthanc", "active")
    assert listed["expires_at"] > listed["created_at"]
    assert listed["created_by"].startswith("user:")
    for shown in (seeded("key", "list"), seeded("key", "list", "--json"), seeded.err):
        assert key.split("_", 2)[2] not in shown
    assert key_id in seeded("key", "revoke", key_id, "--reason", "the disk was sold")
    assert seeded.json("key", "list")[0]["state"] == "revoked"
    seeded("key", "revoke", key_id, "--reason", "again", status=1)
    assert "revoked already" in seeded.err
    ring = KeyRing(
        open_database(sqlite_url(seeded.folder / "var" / "caidx.sqlite")),
        Journal(FrozenClock(), "user:test"),
    )
    known = ring.key_of(key)
    assert known is not None
    assert known.key_id == key_id


def test_a_key_for_programs(seeded: Caidx) -> None:
    made = seeded.json("key", "create", "--name", "acme", "--scope", "vendor", "--vendor", "ACME")
    assert made["key"].startswith(f"caidx_{made['known']['key_id']}_")
    assert (made["known"]["scope"], made["known"]["vendor"]) == ("vendor", "ACME")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--name", "acme", "--scope", "vendor"), 1),
        (("--name", "acme", "--scope", "system", "--vendor", "ACME"), 1),
        (("--name", "A B", "--scope", "system"), 1),
        (("--name", "acme", "--scope", "root"), 2),
        (("--name", "acme", "--scope", "system", "--expires", "0"), 2),
        (("--name", "acme"), 2),
    ],
)
def test_a_key_that_cannot_be(seeded: Caidx, arguments: tuple[str, ...], status: int) -> None:
    assert seeded("key", "create", *arguments, status=status) == ""
    assert seeded.json("key", "list") == []


# --- where the server listens ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_exposed"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.1.2.3", True),
        ("hub.hospital.example", True),
    ],
)
def test_beyond_this_host_it_takes_tls_or_a_proxy(host: str, is_exposed: bool) -> None:
    assert bool(_web(f"host: '{host}'").exposure) is is_exposed
    assert _web(f"host: '{host}', trusted_proxies: [10.0.0.0/8]").exposure == ""


def test_the_address_that_others_reach() -> None:
    assert _web("").url == "http://127.0.0.1:8080"
    assert _web('host: "::1", port: 1').url == "http://[::1]:1"
    assert _web("public_url: https://hub.example/caidx/").url == "https://hub.example/caidx"


def _web(text: str) -> WebSettings:
    return load_settings(f"web: {{{text}}}", "caidx.yaml", discover()).web


@pytest.mark.parametrize(
    "text",
    [
        "trusted_proxies: [proxy.example]",
        "trusted_proxies: [10.0.0.1/8]",
        'trusted_proxies: ["*"]',
        "public_url: hub.example",
        "public_url: ftp://hub.example",
        "public_url: https://a:b@hub.example",
        "public_url: https://hub.example?x=1",
        "assessment_key: abc",
        "open: true",
    ],
)
def test_settings_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_settings(f"web: {{{text}}}", "caidx.yaml", discover())
    assert found.value.problems[0].field.startswith(f"web.{text.partition(':')[0]}")


def test_config_check_and_doctor_say_that_it_is_exposed(seeded: Caidx) -> None:
    assert seeded.json("config", "check")["warnings"] == []
    _listen_on(seeded, f"host: '{EXPOSED}', port: 8080")
    assert seeded.json("config", "check")["warnings"] == [TEXT]
    seeded("config", "check")
    assert TEXT in seeded.err.replace("\n", " ")
    found = {(row["what"], row["state"]): row["detail"] for row in _doctor(seeded)}
    assert found["web", "warning"] == TEXT


def test_doctor_counts_the_keys(seeded: Caidx) -> None:
    def keys() -> str:
        return next(row["detail"] for row in _doctor(seeded) if row["what"] == "keys")

    assert keys() == "none: the HTTP server is closed; `caidx key create`"
    seeded("key", "create", "--name", "orthanc", "--scope", "system")
    assert keys() == "1 open the HTTP server"


def test_the_server_says_at_its_start_that_it_is_exposed_and_serves(caidx: Caidx) -> None:
    _listen_on(caidx, f"host: '{EXPOSED}', port: {caidx.web_port}")
    lines = _served(caidx, f"http://127.0.0.1:{caidx.web_port}/health/live")
    assert [line["event"] for line in lines] == ["role.started", "web.exposed"]
    assert lines[1]["level"] == "warning"
    assert lines[1]["reason"] == TEXT.replace("8080", str(caidx.web_port))


def test_by_tls_it_is_not_exposed_and_doctor_knows_it_again(
    caidx: Caidx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    served = authority.issue_cert("127.0.0.1")
    served.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(served.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=number > 0)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = f"{{certificate: {tmp_path}/cert.pem, private_key: {tmp_path}/key.pem}}"
    _listen_on(caidx, f"host: '{EXPOSED}', port: {caidx.web_port}, tls: {tls}")
    assert caidx.json("config", "check")["warnings"] == []
    lines = _served(caidx, f"https://127.0.0.1:{caidx.web_port}/health/live", doctor=True)
    assert [line["event"] for line in lines] == ["role.started"]


def test_a_certificate_that_cannot_be_used_is_found_before_the_start(
    caidx: Caidx, tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_text("none")
    tls = f"{{certificate: {tmp_path}/cert.pem, private_key: {tmp_path}/cert.pem}}"
    _listen_on(caidx, f"tls: {tls}")
    (problem,) = caidx.json("config", "check", status=2)["problems"]
    assert (problem["file"], problem["field"]) == (str(caidx.file), "web.tls.certificate")


def _doctor(caidx: Caidx) -> list[dict[str, str]]:
    found: list[dict[str, str]] = caidx.json("doctor")
    return found


def _listen_on(caidx: Caidx, web: str) -> None:
    lines = caidx.file.read_text().splitlines()
    rest = [line for line in lines if not line.startswith("web:")]
    caidx.file.write_text("\n".join([*rest, f"web: {{{web}}}", ""]))


def _served(caidx: Caidx, address: str, *, doctor: bool = False) -> list[dict[str, str]]:
    """Start the web role, ask it, and return what it logged."""
    command = [sys.executable, "-m", "hub", "-c", str(caidx.file), "serve", "--role", "web"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert wait_for(address) == {"status": "live"}
            if doctor:
                found = {row["what"]: row["detail"] for row in _doctor(caidx)}
                assert found["web"] == f"{EXPOSED}:{caidx.web_port} is this hub"
                with pytest.raises(httpx.TransportError):
                    httpx.get(address.replace("https", "http"))
        finally:
            process.terminate()
        _, err = process.communicate(timeout=30)
    return [json.loads(line) for line in err.splitlines()]
