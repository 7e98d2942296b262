from __future__ import annotations

import queue
import threading
import time

import pytest

from model_adapters.tensors.processes import Turns


def _wait_for(turns: Turns[int], waiting: int) -> None:
    deadline = time.monotonic() + 30
    while len(turns._waiting) < waiting:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_waits_longest_is_next() -> None:
    turns: Turns[int] = Turns()
    served: list[str] = []

    def wait(name: str) -> None:
        turns.get()
        served.append(name)

    threads = []
    for number, name in enumerate(("first", "second", "third"), start=1):
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
        _wait_for(turns, number)
    for thread in threads:
        turns.put(1)
        thread.join(30)
    assert served == ["first", "second", "third"]


def test_who_gives_one_back_and_wants_another_stands_at_the_end() -> None:
    """Nobody waits while another thread is served again and again."""
    turns: Turns[int] = Turns()
    turns.put(1)
    mine = turns.get()
    got: list[int] = []
    other = threading.Thread(target=lambda: got.append(turns.get()))
    other.start()
    _wait_for(turns, 1)
    turns.put(mine)
    with pytest.raises(queue.Empty):
        turns.get_nowait()
    other.join(30)
    assert got == [1]


def test_the_one_that_was_given_back_last_comes_first() -> None:
    turns: Turns[int] = Turns()
    turns.put(1)
    turns.put(2)
    assert turns.get() == 2
    assert turns.get_nowait() == 1
    with pytest.raises(queue.Empty):
        turns.get_nowait()
