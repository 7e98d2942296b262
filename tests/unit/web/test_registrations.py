"""Models are registered and stopped by API: by whom, with which answers."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from hub.bootstrap.hub import Hub, open_hub
from hub.config import load_settings
from hub.domain.access import Scope
from hub.ports import Jobs
from hub.registry import discover
from hub.store import audit
from hub.web.api import registrations
from hub.web.app import create_app_of
from hub.web.refusals import Refusals
from hub.web.uploads import MOST_UPLOADS
from tests.unit.adapters.toy_models import graph, write_package
from tests.unit.web.keys import KnownKeys, api_key, behind_the_door

SETTINGS = """\
data: {data}
models: [{{package: "builtin:lung-density"}}]
routes: []
adapters: {{onnx_local: {{processes: 1}}}}
registration: {{maximum_package_mib: 1}}
"""
PROBLEM = "application/problem+json"


@dataclass
class Site:
    hub: Hub
    folder: Path
    client: TestClient

    def ask(self, method: str, path: str, who: str = "operator", **more: Any) -> Response:
        headers = {"Authorization": f"Bearer {who}", **more.pop("headers", {})}
        return self.client.request(method, f"/api/v1/models{path}", headers=headers, **more)

    def archive(self, **changes: str) -> bytes:
        """The toy model of the vendor Test."""
        folder = self.folder / "package"
        write_package(folder, graph())
        text = (folder / "model.yaml").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("model.yaml", text)
            made.write(folder / "toy.onnx", "toy.onnx")
        return file.getvalue()

    def register(self, who: str = "operator", **changes: str) -> Response:
        return self.ask("POST", "", who, content=self.archive(**changes))

    def actions(self) -> list[tuple[str, str]]:
        return [(event.action, event.actor) for event in audit.events(self.hub.database)]


def no_jobs() -> Jobs:
    raise AssertionError("no job is put into a queue here")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    components = discover()
    settings = load_settings(SETTINGS.format(data=tmp_path / "var"), "caidx.yaml", components)
    hub = open_hub(settings, components)
    hub.migrate()
    keys = KnownKeys(
        [
            ("operator", api_key(Scope.OPERATOR)),
            ("auditor", api_key(Scope.AUDITOR)),
            ("maker", api_key(Scope.VENDOR, "Test", name="maker")),
            ("stranger", api_key(Scope.VENDOR, "Umbrella", name="stranger")),
        ]
    )
    door = behind_the_door(create_app_of(hub, (), no_jobs, Refusals()), keys=keys)
    yield Site(hub, tmp_path, TestClient(door, raise_server_exceptions=False))
    hub.close()
    for path in tmp_path.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def test_a_vendor_registers_an_operator_activates_the_vendor_suspends(site: Site) -> None:
    answer = site.register("maker")
    assert (answer.status_code, answer.headers["Location"]) == (201, "/api/v1/models/toy")
    assert answer.json()["state"] == "registered"
    assert site.register("maker").status_code == 200
    assert site.ask("POST", "/toy/activate", "maker", json={"reason": "mine"}).status_code == 403
    answer = site.ask("POST", "/toy/activate", json={"reason": "the committee said so"})
    assert (answer.status_code, answer.json()["state"]) == (200, "active")
    answer = site.ask("POST", "/toy/suspend", "maker", json={"reason": "a fault in it"})
    assert (answer.status_code, answer.json()["state"]) == (200, "suspended")
    answer = site.ask("POST", "/toy/retire", "maker", json={"reason": "no cure"})
    assert (answer.status_code, answer.json()["state"]) == (200, "retired")
    assert site.actions() == [
        ("model.registered", "key:maker"),
        ("model.activated", "key:test-operator"),
        ("model.suspended", "key:maker"),
        ("model.retired", "key:maker"),
    ]
    answer = site.register("maker")
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert "retired is for good" in answer.json()["detail"]


def test_the_register_says_who_and_why_and_to_a_vendor_only_of_its_own(site: Site) -> None:
    site.register()
    site.ask("POST", "/toy/activate", json={"reason": "the committee said so"})
    found = {one["id"]: one for one in site.ask("GET", "", "auditor").json()}
    assert set(found) == {"lung-density", "toy"}
    toy = found["toy"]
    assert (toy["state"], toy["who"], toy["why"], toy["origin"]) == (
        "active",
        "key:test-operator",
        "the committee said so",
        "registered",
    )
    assert found["lung-density"]["origin"] == "configuration"
    assert site.ask("GET", "/toy", "auditor").json()["card"]["vendor"]["name"] == "Test"
    (own,) = site.ask("GET", "", "maker").json()
    assert (own["id"], own["who"]) == ("toy", "")
    assert site.ask("GET", "", "stranger").json() == []
    assert site.ask("GET", "/toy", "stranger").status_code == 404
    for action in ("suspend", "retire"):
        answer = site.ask("POST", f"/toy/{action}", "stranger", json={"reason": "spite"})
        assert answer.status_code == 404, "it is not even told that it is there"


def test_a_vendor_brings_no_model_in_the_name_of_another(site: Site) -> None:
    answer = site.register("stranger")
    assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM)
    assert site.actions() == []


def test_every_mistake_is_told_with_its_line(site: Site) -> None:
    answer = site.register(**{"name: Toy": "nmae: Toy", "decimals: 0": "decimals: none"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"] == [
        {"line": 1, "field": "name", "message": "is required"},
        {
            "line": 2,
            "field": "nmae",
            "message": "is not a known field; did you mean name?",
        },
        {"line": 33, "field": "output.findings.0.decimals", "message": "must be a whole number"},
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "id"),
        (b"id: x\nid: y\n", "appears twice"),
        (b"PK\x03\x04 and then nothing", "is not a ZIP file"),
        (b"\x80\x04pickle", "is not UTF-8 text"),
    ],
)
def test_what_is_no_package_is_refused(site: Site, body: bytes, said: str) -> None:
    answer = site.ask("POST", "", content=body)
    assert answer.status_code == 422
    assert said in answer.text
    assert site.actions() == []


def test_a_body_that_is_too_large_is_not_read_to_its_end(site: Site) -> None:
    read = []

    def body() -> Iterator[bytes]:
        for number in range(64):
            read.append(number)
            yield bytes(1 << 20)

    answer = site.ask("POST", "", content=body())
    assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
    assert list((site.hub.settings.data / "models").iterdir()) == []


def test_packages_leave_the_space_that_images_need(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 2 * site.hub.settings.storage.minimum_free_bytes
    usage = shutil.disk_usage(site.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room - 1))
    answer = site.register("maker")
    assert (answer.status_code, answer.json()["detail"]) == (503, "no space left for models")
    assert "retry-after" in answer.headers
    assert list((site.hub.settings.data / "models").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room))
    assert site.register("maker").status_code == 201


def test_a_disk_that_is_full_is_told_and_is_no_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registrations, "TemporaryFile", lambda **_: Full())
    answer = site.register("maker")
    assert (answer.status_code, answer.json()["detail"]) == (503, "no space left for models")


def test_one_package_of_a_key_and_few_of_all_come_at_once(site: Site) -> None:
    door: Any = site.client.app
    uploads = door._application.state.context.uploads
    with uploads.one("key:maker"):
        answer = site.register("maker")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "another package of yours" in answer.text
        assert site.register().status_code == 201
    assert site.register("maker").status_code == 200
    with contextlib.ExitStack() as others:
        for number in range(MOST_UPLOADS):
            others.enter_context(uploads.one(f"key:other-{number}"))
        assert "too many packages" in site.register("maker").text
        reason = {"reason": "a fault in it"}
        assert site.ask("POST", "/toy/activate", json=reason).status_code == 200
        assert site.ask("POST", "/toy/suspend", "maker", json=reason).status_code == 200
    assert site.register("maker", **{"version: 1.0.0": "version: 1.1.0"}).status_code == 201


def test_conflicts_are_told(site: Site) -> None:
    site.register()
    answer = site.register(**{"name: Toy": "name: Doll"})
    assert answer.status_code == 409
    assert "give it a new version number" in answer.json()["detail"]
    answer = site.register(**{"id: toy": "id: lung-density"})
    assert "stands in the configuration" in answer.json()["detail"]
    answer = site.ask("POST", "/toy/suspend", json={"reason": "it is not even active"})
    assert (answer.status_code, "is registered" in answer.text) == (409, True)
    assert site.ask("POST", "/doll/activate", json={"reason": "x"}).status_code == 404
    assert site.ask("POST", "/toy/activate", json={"reason": ""}).status_code == 422
    site.register(**{"version: 1.0.0": "version: 1.1.0"})
    answer = site.ask("POST", "/toy/activate", json={"reason": "which?"})
    assert answer.status_code == 409
    assert "1.1.0 (registered), 1.0.0 (registered)" in answer.json()["detail"]
    chosen = {"reason": "this one", "version": "1.1.0"}
    assert site.ask("POST", "/toy/activate", json=chosen).json()["version"] == "1.1.0"


def test_a_model_of_the_configuration_is_suspended_and_activated(site: Site) -> None:
    answer = site.ask("POST", "/lung-density/suspend", json={"reason": "a doubt"})
    assert (answer.status_code, answer.json()["state"]) == (200, "suspended")
    found = site.ask("GET", "/lung-density").json()
    assert (found["state"], found["why"], found["origin"]) == (
        "suspended",
        "a doubt",
        "configuration",
    )
    answer = site.ask("POST", "/lung-density/activate", json={"reason": "no doubt"})
    assert (answer.status_code, answer.json()["state"]) == (200, "active")
