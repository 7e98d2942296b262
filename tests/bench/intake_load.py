"""Several senders at once, each a process of its own: how long all of them took."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.bench.intake_sender import TIMEOUT, Span

Item = TypeVar("Item")

_FORK = multiprocessing.get_context("fork")
"""The prepared bytes are shared with the parent: nothing is copied before the clock starts."""


def shares(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Deal the items out, as even as can be."""
    return [list(items[number::count]) for number in range(count)]


def at_once(senders: Sequence[Callable[[], Span]]) -> float:
    """Run each in a process of its own, all let go at the same moment; seconds from the first
    beginning to the last end.

    Raises:
        AssertionError: one of them failed; its own message is on standard error.
    """
    barrier = _FORK.Barrier(len(senders))
    running = []
    for sender in senders:
        here, there = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_run, args=(sender, barrier, there), daemon=True)
        process.start()
        there.close()
        running.append((process, here))
    spans: list[Span] = []
    for process, here in running:
        try:
            spans.append(here.recv())
        except EOFError:
            raise AssertionError("a sender failed") from None
        process.join()
    return max(span.end for span in spans) - min(span.begin for span in spans)


def _run(sender: Callable[[], Span], barrier: Any, results: Any) -> None:
    barrier.wait(TIMEOUT)
    results.send(sender())
