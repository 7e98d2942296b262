"""``caidx demo`` on a machine with nothing else: the whole path, against known answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A user's own configuration must not change the demonstration.
    environment = {**os.environ, "CAIDX_CONFIG": ""}
    return subprocess.run(
        [sys.executable, "-m", "hub", "demo", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demonstration_is_as_expected_and_a_second_run_adds_nothing(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "as expected" in first.stdout
    assert "FAIL" not in first.stdout
    second = demo(tmp_path, "--json")
    assert second.returncode == 0, second.stdout + second.stderr
    answer: dict[str, Any] = json.loads(second.stdout)
    assert {verdict["what"] for verdict in answer["verdicts"]} == {
        "audit log",
        "sent again, nothing added",
    }
    for study in answer["studies"]:
        report = pydicom.dcmread(tmp_path / study["documents"]["sr"])
        assert report.StudyInstanceUID == study["case"]["study_instance_uid"]
        assert json.loads((tmp_path / study["documents"]["fhir"]).read_text())["type"] == (
            "transaction"
        )
        assert (tmp_path / study["documents"]["pdf"]).read_bytes().startswith(b"%PDF")
    log = (tmp_path / "var" / "demo" / "hub.log").read_text()
    assert "PHANTOM" not in log
    assert all(json.loads(line)["event"] for line in log.splitlines())
