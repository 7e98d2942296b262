"""The pause of pynetdicom's reactor holds."""

from __future__ import annotations

import threading
import time

from pynetdicom.association import Association

from connectors.dicom.reactor_pause import ReactorCheckpoint


def test_a_reactor_that_is_paused_again_at_once_does_not_run() -> None:
    rounds, ends = [0], threading.Event()

    def reactor() -> None:
        while not ends.is_set():
            checkpoint.wait()
            rounds[0] += 1

    thread = threading.Thread(target=reactor)
    checkpoint = ReactorCheckpoint(thread)
    thread.start()
    for _ in range(300):
        checkpoint.clear()
        before = rounds[0]
        time.sleep(0.0002)
        assert rounds[0] == before
        checkpoint.set()
    ends.set()
    thread.join(5)
    assert not thread.is_alive()


def test_nobody_waits_for_a_reactor_that_is_dead() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    ReactorCheckpoint(thread).clear()


def test_pynetdicom_still_has_the_place_that_is_mended() -> None:
    assert "_reactor_checkpoint" in Association._run_reactor.__code__.co_names
