"""Models come, are replaced and are stopped while the hub runs, with two workers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance import tally
from tests.acceptance.models import densities
from tests.acceptance.studies import CT_SMALL, StudyFiles, sample
from tests.acceptance.tally import Tally
from tests.running_hub import RunningHub, StartHub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(240)]

MODEL = "densities"
ROUTES = [{"name": "ct", "when": "true", "series": "true", "model": MODEL}]
REASON = ("--reason", "the committee said so")


@dataclass
class Site:
    """A hub whose route names a model that is not configured."""

    hub: RunningHub
    folder: Path
    tally: Tally
    sent: int = 0

    def package(self, version: str) -> Path:
        """A package; each version answers alike and has another digest."""
        folder = densities(self.folder / f"package-{version}", model_id=MODEL, concurrency=1)
        manifest = folder / "model.yaml"
        text = manifest.read_text().replace("version: 1.0.0", f"version: {version}")
        manifest.write_text(text)
        return folder

    def send(self) -> StudyFiles:
        """One image, as a study of its own."""
        self.sent += 1
        name = f"study-{self.sent}"
        study = sample(CT_SMALL, self.folder / name, name=name, StudyDescription=name)
        self.hub.send(study.files)
        return study

    def state(self, study: StudyFiles) -> str:
        """Of the study's only request."""
        timeline = self.hub.timeline(study.study_instance_uid)
        return "" if timeline is None or not timeline.requests else timeline.requests[0].state

    def wait_for(self, study: StudyFiles, state: str) -> None:
        wait_for(lambda: self.state(study) == state, f"a request to be {state}", 60, self.explain)

    def explain(self) -> str:
        return f"{self.tally.notes}\n{self.hub.log_text()}"

    def decision(self, study: StudyFiles) -> str:
        """The route's, once there is one."""
        timeline = self.hub.wait_for_study(study.study_instance_uid, "routed")
        return timeline.decisions[-1].decision

    def actions(self) -> list[str]:
        rows = self.hub.rows("SELECT action FROM audit_log ORDER BY sequence")
        return [row["action"] for row in rows if row["action"].startswith("model.")]


def sections(runtime: Tally | None) -> dict[str, object]:
    found: dict[str, object] = {"models": [], "routes": ROUTES}
    if runtime is not None:
        found["adapters"] = {"tally": {"folder": str(runtime.folder)}}
        found["registration"] = {"adapters": {"onnx": "tally"}}
    return found


def _site(start_hub: StartHub, folder: Path, database_url: str | None) -> Site:
    """Two workers; models run in the adapter of a stranger's distribution."""
    runtime = Tally(folder / "tally")
    environment = tally.install(folder / "installed")
    hub = start_hub(
        workers=2,
        database_url=database_url,
        environment=environment,
        sections=sections(runtime),
    )
    return Site(hub, folder, runtime)


def test_a_model_is_registered_while_the_hub_runs_and_asked_about_the_next_study(
    start_hub: StartHub, tmp_path: Path
) -> None:
    hub = start_hub(workers=2, sections=sections(None))
    site = Site(hub, tmp_path, Tally(tmp_path / "none"))
    alerts = partial(hub.rows, "SELECT message FROM alerts")
    wait_for(lambda: alerts() != [], "an alert", explain=hub.log_text)
    told = [row["message"] for row in alerts()]
    assert told == [f"its model {MODEL} is neither configured nor registered"]
    before = site.send()
    assert site.decision(before) == "rule-error"

    package = site.package("1.0.0")
    assert "is registered" in hub.caidx("model", "register", str(package)).stdout
    hub.caidx("config", "check")
    still = site.send()
    assert site.decision(still) == "rule-error", "a person has to activate it"

    assert "is active" in hub.caidx("model", "activate", MODEL, *REASON).stdout
    shutil.rmtree(package)  # the hub has its own copy
    study = site.send()
    timeline = hub.wait_for_study(study.study_instance_uid)
    assert [request.outcome for request in timeline.requests] == ["assessed"]
    hub.caidx("study", "route", before.study_instance_uid)
    site.wait_for(before, "done")
    assert site.actions() == ["model.registered", "model.activated"]


def test_a_new_version_takes_over_while_studies_stream_and_none_is_lost(
    start_hub: StartHub, tmp_path: Path
) -> None:
    site = _site(start_hub, tmp_path, None)
    site.hub.caidx("model", "register", str(site.package("1.0.0")), "--activate", *REASON)
    site.tally.hold()
    old = [site.send() for _ in range(3)]
    wait_for(lambda: all(map(site.state, old)), "three requests", 60, site.explain)
    # any of them: who comes first is not promised
    wait_for(lambda: bool(site.tally.versions("start")), "a question", 60, site.explain)

    site.hub.caidx("model", "register", str(site.package("2.0.0")), "--activate", *REASON)
    wait_for(lambda: _loaded_by(site, "2.0.0") >= 2, "both workers to load it", 20, site.explain)
    assert "1.0.0" not in site.tally.versions("unload"), "open requests are pinned to it"
    new = [site.send() for _ in range(2)]
    wait_for(lambda: all(map(site.state, new)), "two requests", 60, site.explain)
    site.hub.kill("worker-1")  # whoever starts in its place has never had the old version
    site.tally.go_on()
    for study in (*old, *new):
        site.wait_for(study, "done")
    for version, studies in (("1.0.0", old), ("2.0.0", new)):
        for study in studies:
            assert set(site.tally.started(study.study_instance_uid)) == {version}
    wait_for(lambda: "1.0.0" in site.tally.versions("unload"), "the old one to go", 20)


def _loaded_by(site: Site, version: str) -> int:
    workers = {site.hub.pid(name) for name in ("worker-1", "worker-2")}
    notes = [note for note in site.tally.notes if (note.what, note.version) == ("load", version)]
    return len({note.pid for note in notes} & workers)


def test_a_suspended_model_is_asked_nothing_from_that_moment_on(
    start_hub: StartHub, tmp_path: Path, postgres_database: str
) -> None:
    site = _site(start_hub, tmp_path, postgres_database)
    hub = site.hub
    hub.caidx("model", "register", str(site.package("1.0.0")), "--activate", *REASON)
    site.tally.hold()
    asked, waiting = site.send(), site.send()
    wait_for(lambda: all(map(site.state, (asked, waiting))), "two requests", 60, site.explain)
    wait_for(lambda: bool(site.tally.versions("start")), "a question", 60, site.explain)
    asked, waiting = sorted(
        (asked, waiting), key=lambda one: not site.tally.started(one.study_instance_uid)
    )

    hub.caidx("model", "suspend", MODEL, "--reason", "left and right are mixed up")
    wait_for(lambda: _unloaded_by_both(site), "both workers to forget it", 5, site.explain)
    started = len(site.tally.versions("start"))
    site.tally.go_on()
    site.wait_for(asked, "quarantined")
    site.wait_for(waiting, "failed")
    later = site.send()
    assert site.decision(later) == "suspended"
    timeline = hub.timeline(later.study_instance_uid)
    assert timeline is not None
    assert "left and right are mixed up" in " ".join(timeline.decisions[-1].reasons)
    assert not timeline.requests
    failed = hub.timeline(waiting.study_instance_uid)
    assert failed is not None
    assert "is suspended by user:" in failed.requests[0].detail
    assert len(site.tally.versions("start")) == started, "nothing was asked"
    kinds = [row["kind"] for row in hub.rows("SELECT kind FROM alerts")]
    assert kinds.count("model.suspended") == 1
    assert "route.error" not in kinds

    hub.caidx("model", "activate", MODEL, "--reason", "it was a test image")
    hub.caidx("request", "retry", failed.requests[0].request_id)
    site.wait_for(waiting, "done")
    hub.caidx("study", "route", later.study_instance_uid)
    site.wait_for(later, "done")


def _unloaded_by_both(site: Site) -> bool:
    workers = {site.hub.pid(name) for name in ("worker-1", "worker-2")}
    return workers <= {note.pid for note in site.tally.notes if note.what == "unload"}


def test_a_registration_that_is_killed_leaves_no_half_package(
    start_hub: StartHub, tmp_path: Path
) -> None:
    hub = start_hub(sections=sections(None), roles=("indexer",), supervised=False)
    site = Site(hub, tmp_path, Tally(tmp_path / "none"))
    package = site.package("1.0.0")
    command = [sys.executable, "-m", "hub", "--config", str(hub.config_file)]
    models = hub.data / "models"
    for moment in (0.5, 1.0, 1.5):
        with subprocess.Popen([*command, "model", "register", str(package)]) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        for kept in models.iterdir() if models.exists() else ():
            if not kept.name.startswith("incoming-"):
                assert sorted(path.name for path in kept.iterdir()) == ["model.onnx", "model.yaml"]
    hub.caidx("model", "register", str(package))
    (row,) = hub.rows("SELECT state FROM registrations")
    assert row["state"] == "registered"
