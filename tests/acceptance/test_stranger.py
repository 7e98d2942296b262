"""Somebody else's way to run models, in a distribution of its own: its entry point is all that the
hub needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance import tally
from tests.acceptance.models import densities
from tests.acceptance.studies import CT_SMALL, sample
from tests.acceptance.tally import Tally
from tests.running_hub import StartHub

pytestmark = [pytest.mark.peers, pytest.mark.timeout(240)]

MODEL = "densities"
REASON = ("--reason", "the committee said so")


def test_an_adapter_of_another_distribution_is_found_by_its_entry_point_and_used(
    start_hub: StartHub, tmp_path: Path
) -> None:
    sections = {
        "models": [],
        "routes": [{"name": "ct", "when": "true", "model": MODEL}],
        "adapters": {"tally": {"folder": str(tmp_path / "tally")}},
        "registration": {"adapters": {"onnx": "tally"}},
    }
    environment = tally.install(tmp_path / "installed")
    hub = start_hub(environment=environment, sections=sections)
    package = densities(tmp_path / "package", model_id=MODEL)
    hub.caidx("model", "register", str(package), "--activate", *REASON)
    study = sample(CT_SMALL, tmp_path / "study", name="study")
    hub.send(study.files)
    timeline = hub.wait_for_study(study.study_instance_uid)

    assert Tally(tmp_path / "tally").started(study.study_instance_uid) == ["1.0.0"]
    assert [(one.state, one.outcome) for one in timeline.requests] == [("done", "not-assessable")]
    (finished,) = [one for one in timeline.events if one.action == "inference.finished"]
    assert finished.detail["ran_on"] == "tally"
    (listed,) = json.loads(hub.caidx("model", "list", "--json").stdout)
    assert (listed["id"], listed["state"], listed["problem"]) == (MODEL, "active", "")


def test_without_that_distribution_the_configuration_says_what_is_missing(
    start_hub: StartHub, tmp_path: Path
) -> None:
    hub = start_hub(supervised=False, roles=("indexer",), sections={"models": [], "routes": []})
    text = hub.config_file.read_text()
    folder = tmp_path / "tally"
    hub.config_file.write_text(f"{text}\nadapters: {{tally: {{folder: {folder}}}}}\n")
    done = hub.caidx("config", "check", check=False)
    assert done.returncode != 0
    assert "tally" in done.stdout + done.stderr
