"""Memory for data sets on their way in: one growing buffer to an association, used again and
again, within a budget that all associations share."""

from __future__ import annotations

import threading
from mmap import mmap

SMALLEST = 64 * 1024
"""What every association gets, budget or not: less would mean a write for each fragment."""


class MemoryBudget:
    """How much memory the buffers of all associations may take together; thread-safe."""

    __slots__ = ("_left", "_lock")

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether so many bytes may be taken; they are taken then."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


class DataBuffer:
    """The bytes of one data set, in one piece, as long as they fit.

    It grows by doubling, up to ``limit`` bytes, if the budget has them. ``space`` says where the
    next bytes go; when it is ``full``, somebody has to take ``filled`` away and ``clear`` it.
    """

    __slots__ = ("_budget", "_from_budget", "_limit", "_memory", "_view", "used")

    def __init__(self, limit: int, budget: MemoryBudget) -> None:
        self._limit = limit
        self._budget = budget
        self._memory: bytearray | mmap = bytearray()
        self._view = memoryview(self._memory)
        self._from_budget = 0
        self.used = 0

    def reserve(self, more: int) -> None:
        """Grow for so many further bytes, as far as that goes."""
        wanted, size = self.used + more, len(self._memory)
        if wanted <= size or size >= self._limit:
            return
        if not size:
            self._replace(min(SMALLEST, self._limit), 0)
        target = max(2 * size, SMALLEST)
        while target < wanted:
            target *= 2
        target = min(target, self._limit)
        if target > len(self._memory) and self._budget.take(target - self._from_budget):
            self._replace(target, target)

    def _replace(self, size: int, from_budget: int) -> None:
        # Not of the heap: what threads take and give back by turns would stay there, and the
        # process would come to hold twice the budget.
        memory = mmap(-1, size)
        memory[: self.used] = self._view[: self.used]
        self._memory, self._view, self._from_budget = memory, memoryview(memory), from_budget

    def space(self, wanted: int) -> memoryview:
        """Where up to so many next bytes go; empty when it is full."""
        return self._view[self.used : self.used + wanted]

    @property
    def full(self) -> bool:
        return self.used == len(self._memory)

    @property
    def filled(self) -> memoryview:
        """What is in it, until the next byte comes."""
        return self._view[: self.used]

    def clear(self) -> None:
        self.used = 0

    def close(self) -> None:
        """Give the memory back."""
        self._memory, self._view, self.used = bytearray(), memoryview(b""), 0
        self._budget.give_back(self._from_budget)
        self._from_budget = 0
