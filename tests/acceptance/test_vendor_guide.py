"""The vendor guide's two stories, run as they are written: its files, its commands, its services,
against a whole hub. Ports, the folder of results and the Study Instance UID are the test's own."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pydicom
import pytest
from ruamel.yaml import YAML

from tests.acceptance.studies import PhantomFiles, phantom
from tests.peers import free_port
from tests.running_hub import RunningHub, StartHub, start_hub, wait_for
from tests.unit.documents import section, text_of

__all__ = ["start_hub"]

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

GUIDE = text_of("vendor-guide.md")
PREPARE = section(GUIDE, "Prepare")
ONNX, HTTPS = section(GUIDE, "From an ONNX file"), section(GUIDE, "From an HTTPS endpoint")
BLOCK = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SERVER, HUB = "uvicorn ", "caidx serve"
REPOSITORY = Path(__file__).resolve().parents[2]
OVER = ("done", "failed", "quarantined", "rejected")
STORY_SECONDS = 120


@dataclass(frozen=True)
class Block:
    """One fenced block, and what the guide says that it prints."""

    language: str
    text: str
    printed: str = ""

    @property
    def file(self) -> str:
        """The name in its first line, where it is a file."""
        return self.text.partition("\n")[0].removeprefix("# ")


def blocks_of(text: str) -> Iterator[Block]:
    """Files and commands in their order; a plain block belongs to the command just before it."""
    found = list(BLOCK.finditer(text))
    for number, one in enumerate(found):
        if not one["language"]:
            continue
        after = found[number + 1] if number + 1 < len(found) else None
        is_output = after is not None and not after["language"]
        is_output = is_output and not text[one.end() : after.start()].strip()  # type: ignore[union-attr]
        printed = after["text"] if is_output else ""  # type: ignore[index]
        yield Block(one["language"], one["text"], printed)


@dataclass
class Story:
    """A vendor's terminal, in a folder of its own."""

    folder: Path
    start_hub: StartHub
    study: PhantomFiles
    environment: dict[str, str] = field(default_factory=dict)
    server_port: int = field(default_factory=free_port)
    ports: dict[str, str] = field(default_factory=dict)
    hub: RunningHub | None = None
    server: subprocess.Popen[bytes] | None = None

    def tell(self, text: str) -> None:
        """Do everything that a part of the guide says, in its order."""
        for block in blocks_of(text):
            self._do(block)

    def _do(self, block: Block) -> None:
        if block.language != "sh":
            (self.folder / block.file).write_text(self._own(block.text), encoding="utf-8")
        elif block.text.startswith(HUB):
            self._start_hub()
        elif block.text.startswith(SERVER):
            self._serve(self._own(block.text))
        else:
            printed = self._run(self._own(block.text))
            assert is_like(printed, block.printed), f"{block.text}printed\n{printed}"
            if "caidx send" in block.text or "study route" in block.text:
                self._wait()

    def _own(self, text: str) -> str:
        """With the addresses and the study of this test."""
        replaced = {"1.2.3.4": self.study.study_instance_uid, "9000": str(self.server_port)}
        for old, new in (replaced | self.ports).items():
            text = text.replace(old, new)
        return text

    def _start_hub(self) -> None:
        sections: dict[str, Any] = YAML(typ="safe").load((self.folder / "caidx.yaml").read_text())
        (destination,) = sections["destinations"]
        destination["folder"] = str(self.folder / destination["folder"])
        self.hub = self.start_hub(sections=sections, environment=self.environment)
        self.ports = {"8080": str(self.hub.http_port), "11112": str(self.hub.dicom_port)}
        command = [sys.executable, "-m", "hub", "--config", str(self.hub.config_file)]
        script = self.folder / "bin" / "caidx"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)

    def _run(self, text: str) -> str:
        """In a shell whose exported variables are there in the next one, too."""
        kept = self.folder / "variables"
        whole = f"set -eu\n{text}\nenv -0 > {kept}\n"
        done = subprocess.run(
            ["bash", "-c", whole],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self._variables(),
            timeout=STORY_SECONDS,
        )
        assert done.returncode == 0, f"{text}failed:\n{done.stdout}{done.stderr}"
        pairs = (one.split("=", 1) for one in kept.read_text().split("\0") if "=" in one)
        inherited = self._variables()
        self.environment |= {k: v for k, v in pairs if k not in inherited and k != "_"}
        return done.stdout

    def _variables(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        return {**os.environ, **self.environment, **own}

    def _serve(self, text: str) -> None:
        self.close()
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", *shlex.split(text)],
                cwd=self.folder,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._listens, "the service to listen", STORY_SECONDS, self.server_log)

    def _listens(self) -> bool:
        assert self.server is not None
        assert self.server.poll() is None, self.server_log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.server_port)) == 0

    def server_log(self) -> str:
        return (self.folder / "server.log").read_text()

    def _wait(self) -> None:
        """Until the model in the folder has been asked, and everything is delivered."""
        assert self.hub is not None
        wait_for(lambda: self.request()["state"] in OVER, "the answer", STORY_SECONDS, self.explain)
        assert self.request()["state"] == "done", self.explain()
        self.hub.wait_for_study(self.study.study_instance_uid, timeout=STORY_SECONDS)

    def request(self) -> dict[str, Any]:
        """The request to the version of ``model.yaml``."""
        assert self.hub is not None
        card = YAML(typ="safe").load((self.folder / "model.yaml").read_text())
        rows = self.hub.rows(
            "SELECT * FROM requests WHERE model_id = :m AND model_version = :v",
            m=card["id"],
            v=card["version"],
        )
        return rows[0] if rows else {"state": ""}

    def explain(self) -> str:
        assert self.hub is not None
        log = self.server_log() if self.server is not None else ""
        return f"{self.request()}\n{log}\n{self.hub.log_text()[-5000:]}"

    def findings(self) -> dict[str, Any]:
        """Of that request: the number or the presence, by code."""
        assert self.hub is not None
        statement = "SELECT findings AS f FROM results WHERE request_id = :r"
        (row,) = self.hub.rows(statement, r=self.request()["request_id"])
        return {
            one["code"]["code_value"]: one["value"] if one["value"] is not None else one["presence"]
            for one in orjson.loads(row["f"])
        }

    def close(self) -> None:
        """End the service."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None


def is_like(printed: str, expected: str) -> bool:
    """As the guide shows it: ``...`` stands for anything, runs of spaces and bars for one."""
    words = " ".join(expected.split())
    pattern = ".*".join(re.escape(part.strip()) for part in words.split("..."))
    shown = " ".join(printed.split())
    return not words or re.fullmatch(pattern.replace(r"\ ", r"\s*"), shown, re.DOTALL) is not None


@pytest.fixture
def story(tmp_path: Path, start_hub: StartHub) -> Iterator[Story]:
    folder = tmp_path / "vendor"
    (folder / "bin").mkdir(parents=True)
    study = phantom(folder / "ct", slices=4)
    with closing(Story(folder, start_hub, study)) as told:
        told.tell(PREPARE)
        yield told


def truth(study: PhantomFiles) -> dict[str, Any]:
    """What the toy must say, computed apart from the guide."""
    images = [pydicom.dcmread(file) for file in study.files]
    hu = np.stack(
        [i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in images]
    )
    is_present = min(1.0, 5 * (hu < -950).mean()) >= 0.5
    return {"112181": round(hu.mean()), "87433001": "present" if is_present else "absent"}


def test_from_an_onnx_file_to_findings_in_the_report(story: Story) -> None:
    story.tell(ONNX)
    assert story.findings() == truth(story.study)
    assert story.hub is not None
    actors = story.hub.rows("SELECT actor FROM audit_log WHERE action = 'model.registered'")
    assert [row["actor"] for row in actors] == ["key:example-medical"]


def test_from_an_https_endpoint_to_findings_in_the_report(story: Story) -> None:
    """At once, by polling, by webhook: three versions of one model, three answers."""
    story.tell(HTTPS)
    hub = story.hub
    assert hub is not None
    rows = hub.rows(
        "SELECT model_version AS v, state, attempts FROM requests ORDER BY model_version"
    )
    assert [(row["v"], row["state"]) for row in rows] == [
        ("1.0.0", "done"),
        ("1.1.0", "done"),
        ("1.2.0", "done"),
    ]
    assert story.findings() == truth(story.study)
    (counted,) = hub.rows("SELECT count(*) AS n FROM results")
    assert counted["n"] == 3
    counted = {
        action: hub.rows("SELECT count(*) AS n FROM audit_log WHERE action = :a", a=action)[0]["n"]
        for action in ("images.retrieved", "inference.deferred", "callback.taken")
    }
    assert counted == {"images.retrieved": 3, "inference.deferred": 2, "callback.taken": 1}
    wait_for(lambda: "callback: 200" in story.server_log(), "the callback", 60, story.server_log)
    uid = story.study.study_instance_uid
    tried = hub.caidx("model", "preview", "chest-air-remote", uid, "--as", "sr", check=False)
    assert (tried.returncode, "who is asked real requests only" in tried.stderr) == (1, True)
    assert story.environment["HUB_KEY"] not in hub.log_text()
    assert story.environment["WEBHOOK_SECRET"] not in hub.log_text()


def test_every_block_of_the_stories_is_a_file_or_run() -> None:
    """None is skipped because it is written in another language."""
    told = [*blocks_of(ONNX), *blocks_of(HTTPS)]
    assert {block.language for block in told} == {"sh", "python", "yaml"}
    for block in told:
        if block.language != "sh":
            assert re.fullmatch(r"[a-z]+\.(py|yaml)", block.file), block.text
    assert sum(bool(block.printed) for block in told) >= 8


def test_what_a_command_prints_is_compared() -> None:
    assert is_like("a  b\n c", "a b c")
    assert is_like("x 12 y", "x ... y")
    assert not is_like("x 12 z", "x ... y")


def test_the_cards_of_both_stories_declare_the_same_findings() -> None:
    cards = [
        YAML(typ="safe").load(io.StringIO(block.text))
        for block in (*blocks_of(ONNX), *blocks_of(HTTPS))
        if block.language == "yaml" and block.file == "model.yaml"
    ]
    codes = [[one["code"] for one in card["output"]["findings"]] for card in cards]
    assert len(codes) == 2
    assert codes[0] == codes[1]
