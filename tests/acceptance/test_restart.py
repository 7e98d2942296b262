"""Whatever is killed comes back by itself, and every study that was complete gets its report."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.acceptance import studies
from tests.acceptance.studies import PhantomFiles
from tests.peers import dcmtk
from tests.running_hub import RunningHub, StartHub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

ROUNDS, STUDIES = 2, 2


def _send(hub: RunningHub, folder: Path, seed: int) -> PhantomFiles:
    study = studies.phantom(folder / f"study-{seed}", seed=seed, slices=4)
    hub.send(study.files)
    return study


def _must_be_reported_once(hub: RunningHub, study: PhantomFiles) -> None:
    timeline = hub.wait_for_study(study.study_instance_uid)
    assert [request.state for request in timeline.requests] == ["done"]
    assert {delivery.state for delivery in timeline.deliveries} == {"delivered"}
    assert timeline.revisions[0].received_instances == len(study.files)


@pytest.mark.parametrize("supervised", [True, False], ids=["supervised", "roles"])
def test_kill_of_everything_after_the_last_image_costs_no_report(
    start_hub: StartHub, tmp_path: Path, *, supervised: bool
) -> None:
    hub, chance, sent = start_hub(supervised=supervised), random.Random(1), []
    for number in range(ROUNDS):
        sent += [_send(hub, tmp_path, number * STUDIES + one) for one in range(1, STUDIES + 1)]
        time.sleep(chance.uniform(0.0, 1.5))  # before, in and after its completion
        hub.kill()
        hub.restart()
    for study in sent:
        _must_be_reported_once(hub, study)


def test_every_role_that_is_killed_works_again(start_hub: StartHub, tmp_path: Path) -> None:
    hub = start_hub()
    for number, role in enumerate(("receiver", "indexer", "worker-1", "web"), 1):
        killed = hub.pid(role)
        hub.kill(role)
        wait_for(partial(_is_back, hub, role, killed), f"{role} to work", explain=hub.log_text)
        _must_be_reported_once(hub, _send(hub, tmp_path, number))


def _is_back(hub: RunningHub, role: str, killed: int) -> bool:
    with suppress(AssertionError, httpx.TransportError):
        answers = hub.get("/health/ready").is_success
        echoed = dcmtk.echoscu(hub.dicom_port, check=False).returncode == 0
        return answers and echoed and hub.pid(role) != killed
    return False


def test_images_are_taken_while_every_other_role_is_dead(
    start_hub: StartHub, tmp_path: Path
) -> None:
    hub = start_hub(supervised=False)
    for role in ("indexer", "worker-1", "web"):
        hub.kill(role)
    study = _send(hub, tmp_path, 1)
    assert hub.timeline(study.study_instance_uid) is None, "nobody has indexed it"
    for role in ("indexer", "worker-1", "web"):
        hub.restart(role)
    _must_be_reported_once(hub, study)
