"""Limits, priorities and crashes of models, with the adapter of a stranger's package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.acceptance import stranger
from tests.acceptance.models import densities, slow
from tests.acceptance.studies import CT_SMALL, StudyFiles, phantom, sample
from tests.running_hub import RESULTS, RunningHub, launch_hub, wait_for

pytestmark = pytest.mark.peers

PAIR, SINGLE, SLOW, LUNG = "pair", "single", "slow", "lung-density"
LIMITS = {PAIR: 2, SINGLE: 1}
POSTBOX = "postbox"


def _route(model: str, part: str, **more: object) -> dict[str, object]:
    series = f'series.body_part_examined == "{part}"'
    return {"name": f"to-{part.lower()}", "when": "true", "series": series, "model": model, **more}


ROUTES = [
    _route(PAIR, "HAND"),
    _route(SINGLE, "FOOT", deliver_to=[POSTBOX]),
    {
        **_route(SINGLE, "FOOT", priority="stat", deliver_to=[POSTBOX]),
        "name": "stat",
        "series": 'series.series_description == "STAT"',
    },
    _route(SLOW, "KNEE"),
    _route(LUNG, "CHEST"),
]


@dataclass(frozen=True)
class Site:
    hub: RunningHub
    folder: Path
    pair: stranger.Gate
    single: stranger.Gate

    def send(self, name: str, part: str, description: str = "") -> StudyFiles:
        """Send one image of a body part, as a study of its own."""
        study = sample(
            CT_SMALL,
            self.folder / name,
            name=name,
            BodyPartExamined=part,
            SeriesDescription=description,
        )
        self.hub.send(study.files)
        return study

    def waits(self, study: StudyFiles) -> None:
        """Return when the study's request exists."""
        uid = study.study_instance_uid
        statement = "SELECT 1 FROM requests WHERE study_instance_uid = :uid"
        wait_for(lambda: bool(self.hub.rows(statement, uid=uid)), "a request")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("limits")
    gates = folder / "gates"
    models = [
        {
            "package": str(densities(folder / name, model_id=name, concurrency=most)),
            "adapter": "gate",
        }
        for name, most in LIMITS.items()
    ]
    models += [{"package": str(slow(folder / SLOW))}, {"package": f"builtin:{LUNG}"}]
    hub = launch_hub(
        folder,
        workers=2,
        environment=stranger.install(folder / "site"),
        sections={
            "models": models,
            "routes": ROUTES,
            "adapters": {"gate": {"folder": str(gates)}, "onnx_local": {"processes": 1}},
            "destinations": [
                {"name": RESULTS, "kind": "folder", "folder": str(folder / RESULTS)},
                {"name": POSTBOX, "kind": POSTBOX, "box": str(folder / POSTBOX)},
            ],
        },
    )
    yield Site(hub, folder, stranger.Gate(gates, PAIR), stranger.Gate(gates, SINGLE))
    hub.close()


def test_a_model_never_gets_more_requests_at_once_than_its_limit(site: Site) -> None:
    studies = [site.send(f"hand-{number}", "HAND") for number in range(5)]
    for study in studies:
        site.waits(study)
    wait_for(lambda: len(site.pair.started) == LIMITS[PAIR], "two requests at the gate")
    # Another model's study goes the whole way: whoever waits is waiting for the limit.
    other = phantom(site.folder / "other", seed=1, slices=2)
    site.hub.send(other.files)
    timeline = site.hub.wait_for_study(other.study_instance_uid)
    assert timeline.results[0].outcome == "assessed"
    assert len(site.pair.started) == LIMITS[PAIR]

    site.pair.open()
    for study in studies:
        site.hub.wait_for_study(study.study_instance_uid)
    assert sorted(site.pair.started) == sorted(study.study_instance_uid for study in studies)
    assert site.pair.most_at_once == LIMITS[PAIR]


def test_stat_overtakes_routine_and_a_strangers_parts_do_all_of_it(site: Site) -> None:
    routine = [site.send(f"foot-{number}", "FOOT") for number in range(3)]
    for study in routine:
        site.waits(study)
    wait_for(lambda: len(site.single.started) == 1, "one request at the gate")
    stat = site.send("stat", "SKULL", "STAT")
    site.waits(stat)
    assert len(site.single.started) == 1

    site.single.open()
    for study in (*routine, stat):
        timeline = site.hub.wait_for_study(study.study_instance_uid)
        (delivery,) = timeline.deliveries
        assert (delivery.destination, delivery.state) == (POSTBOX, "delivered")
        assert (site.folder / POSTBOX / delivery.document_id).read_bytes()
    assert site.single.started[1] == stat.study_instance_uid
    assert site.single.most_at_once == 1


def test_a_model_process_that_is_killed_costs_one_attempt_and_nothing_else(site: Site) -> None:
    roles = {role: site.hub.pid(role) for role in ("receiver", "worker-1", "worker-2", "web")}
    study = site.send("knee", "KNEE")
    uid = study.study_instance_uid
    victims: list[psutil.Process] = []

    def at_work() -> bool:
        victims[:] = [process for process in _model_processes(site) if _is_busy(process)]
        rows = site.hub.rows("SELECT state FROM requests WHERE study_instance_uid = :u", u=uid)
        return [row["state"] for row in rows] == ["running"] and len(victims) == 1

    wait_for(at_work, "a model process at work", 60)
    victims[0].kill()
    other = phantom(site.folder / "beside", seed=2, slices=2)
    site.hub.send(other.files)

    timeline = site.hub.wait_for_study(uid)
    (request,) = timeline.requests
    assert (request.state, request.attempts) == ("done", 2)
    retried = [event for event in timeline.events if event.action == "inference.retrying"]
    assert len(retried) == 1
    assert "signal 9" in str(retried[0].detail["reason"])
    assert {delivery.attempts for delivery in timeline.deliveries} == {1}
    beside = site.hub.wait_for_study(other.study_instance_uid)
    assert [request.attempts for request in beside.requests] == [1]
    assert {role: site.hub.pid(role) for role in roles} == roles


def _model_processes(site: Site) -> list[psutil.Process]:
    return [p for role in ("worker-1", "worker-2") for p in site.hub.model_processes(role)]


def _is_busy(process: psutil.Process) -> bool:
    return process.is_running() and process.cpu_percent(interval=0.1) > 20
