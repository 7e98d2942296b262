"""Images that come after the report."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.arrivals import KEEP, MAIN, SECTIONS, conclusions, images, send, study_uid
from tests.running_hub import RunningHub, launch_hub

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = launch_hub(tmp_path_factory.mktemp("late"), sections=SECTIONS)
    yield running
    running.close()


def test_the_new_result_amends_the_old_one(hub: RunningHub) -> None:
    every = images("rerun", MAIN)
    send(hub, every[:6])
    hub.wait_for_study(study_uid("rerun"))
    send(hub, every[6:])
    timeline = hub.wait_for_study(study_uid("rerun"), revision=2)
    assert [request.revision for request in timeline.requests] == [1, 2]
    first, second = conclusions(hub, "rerun")
    assert "AMENDED" not in first
    assert "AMENDED: revision 2" in second
    assert {delivery.state for delivery in timeline.deliveries} == {"delivered"}


def test_images_that_no_model_looks_at_change_no_result(hub: RunningHub) -> None:
    send(hub, images("same", MAIN))
    hub.wait_for_study(study_uid("same"))
    send(hub, images("same", "SCOUT", 1))
    timeline = hub.wait_for_study(study_uid("same"), revision=2)
    assert len(timeline.requests) == 1
    shown = hub.caidx("study", "show", study_uid("same")).stdout
    assert "same images as revision 1: its result stands" in " ".join(shown.split())


def test_a_route_may_keep_its_first_result(hub: RunningHub) -> None:
    every = images("kept", KEEP)
    send(hub, every[:6])
    hub.wait_for_study(study_uid("kept"))
    send(hub, every[6:])
    timeline = hub.wait_for_study(study_uid("kept"), revision=2)
    assert len(timeline.requests) == 1
    assert any("is kept" in reason for row in timeline.decisions for reason in row.reasons)
