"""``caidx model preview``: one document of a model's answer about a stored study, unsent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.acceptance.arrivals import MAIN, SECTIONS, images, send, study_uid
from tests.running_hub import RunningHub, launch_hub

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = launch_hub(tmp_path_factory.mktemp("preview"), sections=SECTIONS)
    send(running, images("rerun", MAIN))
    running.wait_for_study(study_uid("rerun"))
    yield running
    running.close()


def preview(hub: RunningHub, kind: str, *options: str) -> str:
    arguments = ("model", "preview", "lung-density", study_uid("rerun"), "--as", kind, *options)
    return hub.caidx(*arguments).stdout


def test_text_is_printed(hub: RunningHub) -> None:
    bundle = json.loads(preview(hub, "fhir"))
    kinds = {entry["resource"]["resourceType"] for entry in bundle["entry"]}
    assert {"DiagnosticReport", "Observation", "Device"} <= kinds
    message = preview(hub, "oru")
    assert message.startswith("MSH|")
    assert "\nOBX|" in message
    assert "AI result" in preview(hub, "sr")


@pytest.mark.parametrize(("kind", "begins"), [("pdf", b"%PDF"), ("sr", b""), ("key_image", b"")])
def test_files_are_written(hub: RunningHub, tmp_path: Path, kind: str, begins: bytes) -> None:
    file = tmp_path / "document"
    preview(hub, kind, "--output", str(file))
    assert file.read_bytes().startswith(begins)
    if not begins:
        found = pydicom.dcmread(file)
        assert found.StudyInstanceUID == study_uid("rerun")
        assert found.SeriesDescription.startswith("AI ")


def test_nothing_is_kept_or_sent_and_it_is_audited(hub: RunningHub) -> None:
    tables = ("requests", "results", "documents", "deliveries", "report_versions")
    before = {name: hub.rows(f"SELECT count(*) AS n FROM {name}") for name in tables}
    preview(hub, "fhir")
    after = {name: hub.rows(f"SELECT count(*) AS n FROM {name}") for name in tables}
    assert before == after
    seen = hub.rows("SELECT actor FROM audit_log WHERE action = 'model.previewed'")
    assert seen
    assert all(row["actor"].startswith("user:") for row in seen)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("lung-density", study_uid("rerun"), "--as", "parametric_map"),
            "has no parametric_map document",
        ),
        (("lung-density", study_uid("rerun"), "--as", "pdf"), "--output"),
        (("lung-density", "1.2.3", "--as", "sr"), "no such study"),
        (("other", study_uid("rerun"), "--as", "sr"), "no model other is configured"),
        (("lung-density", study_uid("rerun"), "--as", "sr", "--series", "1.2"), "no such series"),
        (("lung-density", study_uid("rerun"), "--as", "record"), "the hub's own"),
    ],
)
def test_what_cannot_be_shown_is_said(
    hub: RunningHub, arguments: tuple[str, ...], says: str
) -> None:
    done = hub.caidx("model", "preview", *arguments, check=False)
    assert done.returncode != 0
    assert says in " ".join(done.stderr.split())
