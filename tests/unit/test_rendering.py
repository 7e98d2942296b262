from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from hub.domain.study import Instance, Location
from hub.errors import RejectedError, TransientError
from hub.supervisor.rendering import ProcessRenderer
from tests import builders
from tests.unit import rendering_faults
from tests.unit.imaging import ct_slice

IMAGE = ct_slice(0, np.array([[0, 1024], [1424, 3000]], np.int16), WindowCenter=40, WindowWidth=400)
STORE = rendering_faults.Files(
    {
        "image": IMAGE,
        "crash": rendering_faults.CRASHES,
        "hang": rendering_faults.HANGS,
        "greedy": rendering_faults.GREEDY,
        "bug": rendering_faults.BUGGY,
        "text": b"not DICOM",
    }
)


def instance(name: str) -> Instance:
    return replace(builders.chest_ct_study(1).instances[0], location=Location(name, 0, 1))


@pytest.fixture(scope="module")
def renderer() -> Iterator[ProcessRenderer]:
    made = ProcessRenderer(STORE, timeout=1.0, memory_bytes=2 << 30, serve=rendering_faults.serve)
    yield made
    made.close()


def test_no_process_runs_before_the_first_picture() -> None:
    made = ProcessRenderer(STORE)
    assert made.pid is None
    made.close()


def test_an_image_comes_back_as_it_is_shown(renderer: ProcessRenderer) -> None:
    found = renderer.render(instance("image"))
    assert (found.rows, found.columns, found.samples) == (2, 2, 1)
    black, middle, white, whiter = found.pixels
    assert (black, white, whiter) == (0, 255, 255)
    assert 100 < middle < 110  # 0 HU in a window from -160 to 240


@pytest.mark.parametrize(("name", "message"), [("crash", "died"), ("hang", "more than 1 s")])
def test_what_kills_the_process_costs_one_picture(
    name: str, message: str, renderer: ProcessRenderer
) -> None:
    renderer.render(instance("image"))
    before = renderer.pid
    with pytest.raises(TransientError, match=message):
        renderer.render(instance(name))
    assert renderer.render(instance("image")).rows == 2
    assert renderer.pid != before


def test_a_process_that_died_in_between_costs_nothing(renderer: ProcessRenderer) -> None:
    renderer.render(instance("image"))
    before = renderer.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until_gone(before)
    assert renderer.render(instance("image")).rows == 2
    assert renderer.pid != before


def wait_until_gone(pid: int) -> None:
    """Wait for it as its parent, which a process that nobody waits for needs to end."""
    deadline = time.monotonic() + 10
    while any(child.pid == pid for child in multiprocessing.active_children()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_image_that_takes_all_memory_is_one_picture_less(renderer: ProcessRenderer) -> None:
    with pytest.raises(TransientError, match="memory"):
        renderer.render(instance("greedy"))
    assert renderer.render(instance("image")).rows == 2


def test_what_is_no_image_is_refused(renderer: ProcessRenderer) -> None:
    with pytest.raises(RejectedError):
        renderer.render(instance("text"))
    with pytest.raises(RejectedError, match="1 frames"):
        renderer.render(instance("image"), 2)


def test_a_bug_is_named_without_its_message(renderer: ProcessRenderer) -> None:
    with pytest.raises(RejectedError, match="KeyError") as caught:
        renderer.render(instance("bug"))
    assert "ller" not in str(caught.value)


def test_a_closed_renderer_leaves_no_process() -> None:
    made = ProcessRenderer(STORE)
    made.render(instance("image"))
    pid = made.pid
    assert pid is not None
    made.close()
    assert not any(child.pid == pid for child in multiprocessing.active_children())
    assert made.pid is None
    with pytest.raises(TransientError, match="closed"):
        made.render(instance("image"))
