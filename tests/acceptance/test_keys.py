"""Keys of a whole hub: real clients come in with one, and it is over for all processes when it was
taken back; it stands in no log, and not in the database."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from hub.bootstrap.clock import SystemClock
from hub.domain.access import Scope
from hub.store.api_keys import KeyRing
from hub.store.journal import Journal
from tests.contracts.recording import STUDY, dicom_file
from tests.peers.orthanc import Orthanc
from tests.running_hub import RunningHub, launch_hub, wait_for
from tests.unit.connectors.dicomweb.bodies import multipart, stow

pytestmark = pytest.mark.peers

SOURCES = {"sources": [{"name": "stow", "kind": "dicomweb"}]}
REVOKED_WITHIN = 5.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = launch_hub(
        tmp_path_factory.mktemp("keys"),
        sections=SOURCES,
        supervised=False,
        roles=("indexer", "web"),
    )
    yield running
    running.close()


def _made(hub: RunningHub, name: str, scope: Scope) -> str:
    return hub.caidx("key", "create", "--name", name, "--scope", scope).stdout.strip()


def _status(hub: RunningHub, key: str, path: str = "/dicom-web/studies") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(hub.http_url + path, headers=headers, timeout=30).status_code


def test_a_revoked_key_is_over_in_another_process_within_five_seconds(hub: RunningHub) -> None:
    key = _made(hub, "archive", Scope.SYSTEM)
    ring = KeyRing(hub.database, Journal(SystemClock(), "user:test"))  # as the command, at once
    assert _status(hub, key) == 204, "the web role has just seen it"
    begun = time.monotonic()
    ring.revoke(key.split("_")[1], "stolen")
    wait_for(lambda: _status(hub, key) == 401, "the key to be over", REVOKED_WITHIN)
    assert time.monotonic() - begun < REVOKED_WITHIN
    (event,) = [e for e in _audit(hub) if e["action"] == "key.refused"]
    assert (event["actor"], event["detail"]["reason"]) == ("key:archive", "revoked-key")
    assert event["detail"]["place"] == "GET /dicom-web/{path:path}"
    (row,) = [
        k for k in json.loads(hub.caidx("key", "list", "--json").stdout) if "archive" in str(k)
    ]
    assert row["last_used_at"] is not None
    assert hub.caidx("audit", "verify").returncode == 0


def _audit(hub: RunningHub) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []

    def is_there() -> bool:
        answer = hub.get("/api/v1/audit?limit=500", Scope.AUDITOR)
        found[:] = answer.json()["items"]
        return any(event["action"] == "key.refused" for event in found)

    wait_for(is_there, "the refusal in the audit log", 10)
    return found


def test_a_key_is_in_no_log_and_not_in_the_database(hub: RunningHub) -> None:
    key = _made(hub, "canary", Scope.SYSTEM)
    basic = base64.b64encode(f"canary:{key}".encode()).decode()
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"Basic {basic}"}):
        for path in ("/dicom-web/studies", "/dicom-web/x", "/api/v1/studies", "/metrics", "/no"):
            httpx.get(hub.http_url + path, headers=headers, timeout=60)
        httpx.post(
            f"{hub.http_url}/dicom-web/studies", headers=headers, content=b"nonsense", timeout=60
        )
        httpx.get(f"{hub.http_url}/dicom-web/studies?key={key}", headers=headers, timeout=60)
    assert _status(hub, key[:-2] + "xx") == 401
    secret = key.split("_", 2)[2]
    raw = base64.urlsafe_b64decode(secret + "=")
    wanted = [secret.encode(), secret.encode()[:-2], raw, raw.hex().encode(), basic.encode()]
    log = hub.log_text().encode()
    assert b"request refused" in log
    kept = {"the log": log}
    for file in [*hub.data.rglob("*"), *hub.temporary.rglob("*")]:
        if file.is_file():
            kept[str(file)] = file.read_bytes()
    assert any(key.split("_")[1].encode() in content for content in kept.values())
    assert [n for n, content in kept.items() if any(form in content for form in wanted)] == []


def test_curl_dicomweb_client_and_orthanc_come_in_by_basic(
    hub: RunningHub, orthanc: Orthanc, tmp_path: Path
) -> None:
    key = _made(hub, "clients", Scope.SYSTEM)
    url = f"{hub.http_url}/dicom-web"
    file = tmp_path / "one.dcm"
    file.write_bytes(dicom_file("1.2.31"))
    assert shutil.which("curl") is not None
    command = ["curl", "-sS", "-u", f"any:{key}", "-H", "Content-Type: application/dicom"]
    command += ["--data-binary", f"@{file}", "-w", "%{http_code}", f"{url}/studies"]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert sent.stdout.endswith("200"), sent.stdout
    client = DICOMwebClient(url, session=create_session_from_user_pass("any", key))
    wait_for(lambda: bool(client.search_for_studies()), "the study to be found", 30)
    peer = {"Url": f"{url}/", "Username": "any", "Password": key, "ChunkedTransfers": True}
    httpx.post(
        f"{orthanc.http_url}/instances", content=dicom_file("1.2.32"), timeout=60
    ).raise_for_status()
    for password, expected in ((key, 200), (key[:-2] + "xx", 401)):
        server = peer | {"Password": password}
        httpx.put(
            f"{orthanc.http_url}/dicom-web/servers/hub", json=server, timeout=60
        ).raise_for_status()
        answer = httpx.post(
            f"{orthanc.http_url}/dicom-web/servers/hub/stow",
            json={"Resources": orthanc.instances(), "Synchronous": True},
            timeout=60,
        )
        assert (answer.status_code == 200) is (expected == 200), answer.text


def test_by_tls_with_a_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    served = authority.issue_cert("127.0.0.1")
    served.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(served.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=number > 0)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = {"certificate": str(tmp_path / "cert.pem"), "private_key": str(tmp_path / "key.pem")}
    hub = launch_hub(
        tmp_path / "hub",
        sections=SOURCES | {"web": {"tls": tls}},
        supervised=False,
        roles=("indexer", "web"),
    )
    try:
        url = hub.http_url.replace("http", "https") + "/dicom-web"
        trusted = httpx.create_ssl_context(verify=str(tmp_path / "ca.pem"))
        with httpx.Client(verify=trusted, headers=hub.headers(Scope.SYSTEM), timeout=60) as client:
            body, kind = multipart([dicom_file("1.2.1")]), {"Content-Type": _TYPE}
            assert client.post(f"{url}/studies", content=body, headers=kind).status_code == 200
            answer = client.get(f"{url}/studies", headers={"Authorization": ""})
            assert answer.status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(hub.http_url + "/health/live")
    finally:
        hub.close()


_TYPE = 'multipart/related; type="application/dicom"; boundary=a-boundary'


@pytest.mark.parametrize(("proxies", "scheme"), [([], "http"), (["127.0.0.0/8"], "https")])
def test_what_a_proxy_says_counts_only_where_it_is_trusted(
    tmp_path: Path, proxies: list[str], scheme: str
) -> None:
    hub = launch_hub(
        tmp_path / "hub",
        sections=SOURCES | {"web": {"trusted_proxies": proxies}},
        supervised=False,
        roles=("indexer", "web"),
    )
    try:
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        answer = httpx.get(
            f"{hub.http_url}/api/v1/audit?limit=1",
            headers=forwarded | hub.headers(Scope.AUDITOR),
            timeout=60,
        )
        assert answer.status_code == 200
        stored = stow(
            f"{hub.http_url}/dicom-web",
            multipart([dicom_file("1.2.1")]),
            study=STUDY,
            **forwarded,
            **hub.headers(Scope.SYSTEM),
        )
        assert stored.json()["00081190"]["Value"][0].startswith(f"{scheme}://")
        httpx.get(f"{hub.http_url}/metrics", headers=forwarded, timeout=60)
        address = "192.0.2.7" if proxies else "127.0.0.1"
        refused = [line for line in hub.log_text().splitlines() if "request refused" in line]
        assert [json.loads(line)["address"] for line in refused] == [address]
    finally:
        hub.close()
