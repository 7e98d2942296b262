"""The FHIR page, done as it is written: its configuration, its messages, its command lines, against
a whole hub. The address of the hub and the route's model are the test's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hub.domain.access import Scope
from tests.acceptance.laboratory import OVER
from tests.running_hub import RunningHub, StartHub, start_hub, wait_for
from tests.unit.documents import section, text_of

__all__ = ["start_hub"]

pytestmark = pytest.mark.timeout(300)

PAGE = section(text_of("fhir-conformance.md"), "The hub as a server")
BLOCK = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "https://caidx.hospital.example"
SENT = re.compile(r"--data-binary @(\S+)")
SECONDS = 120
LOUD = 'curl() { command curl --silent --show-error --fail-with-body "$@" && echo; }'
"""One answer to a line, and an end at the first that is an error."""
LABORATORY = {
    "models": [{"package": "builtin:liver-kidney-scores"}],
    "routes": [
        {
            "name": "liver-kidney",
            "when": "study.is_case",
            "model": "liver-kidney-scores",
            "trigger": "order",
        }
    ],
}


def commands(folder: Path) -> list[str]:
    """Each command line of the page; what it sends is the message that stands before it."""
    message, found = "", []
    for block in BLOCK.finditer(PAGE):
        if block["language"] == "json":
            message = block["text"]
        elif "curl" in block["text"]:
            for name in SENT.findall(block["text"]):
                (folder / name).write_text(message, encoding="utf-8")
            found += [f"curl {one}" for one in block["text"].split("curl ")[1:]]
    return found


def answer(hub: RunningHub, folder: Path, command: str) -> dict[str, Any]:
    """What a command line prints: a resource."""
    key = {"KEY": hub.key(Scope.SYSTEM)}
    done = subprocess.run(
        ["bash", "-c", f"{LOUD}\nset -eu\n{command.replace(ADDRESS, hub.http_url)}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **key},
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_every_command_line_of_the_page_does_what_it_says(
    start_hub: StartHub, tmp_path: Path
) -> None:
    (text,) = (b["text"] for b in BLOCK.finditer(PAGE) if b["language"] == "yaml")
    written = YAML(typ="safe").load(text)
    sections = LABORATORY | {"site": written["site"]}
    hub = start_hub(sections=sections, further_sources=written["sources"])
    on_study, on_values, tasks, reports = commands(tmp_path)

    placed = answer(hub, tmp_path, on_study)
    assert (placed["resourceType"], placed["status"]) == ("Task", "accepted")
    assert answer(hub, tmp_path, on_study)["id"] == placed["id"], "the same order again"

    taken = answer(hub, tmp_path, on_values)
    states = [entry["response"]["status"] for entry in taken["entry"]]
    assert (taken["type"], states) == ("transaction-response", ["200 OK", *["201 Created"] * 2])

    (found,) = matches(answer(hub, tmp_path, tasks))
    assert found["id"] == placed["id"]

    location = taken["entry"][2]["response"]["location"].split("/_history")[0]

    def order() -> dict[str, Any]:
        told: dict[str, Any] = hub.get(f"/fhir/{location}", Scope.SYSTEM).json()
        return told

    # Nobody has the other values.
    wait_for(lambda: order()["status"] in OVER, "the order", SECONDS, lambda: str(order()))
    shown = matches(answer(hub, tmp_path, reports))
    outputs = [one["valueReference"]["reference"] for one in order()["output"]]
    assert (order()["status"], outputs) == ("rejected", [f"DiagnosticReport/{shown[0]['id']}"])
    for told in (order()["statusReason"]["text"], shown[0]["conclusion"]):
        unnamed = {name for name in ("AST", "ALT", "platelets") if name not in told}
        assert not unnamed, told


def matches(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """The resources that a search found."""
    assert bundle["type"] == "searchset"
    entries = bundle.get("entry", [])
    return [one["resource"] for one in entries if one["search"]["mode"] == "match"]
