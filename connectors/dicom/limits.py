"""How many associations there may be at a time."""

from __future__ import annotations

import threading
from collections import Counter

Caller = tuple[str, str]
"""Calling AE title and address. The title is free text: those that nobody listed are one caller,
with an empty title, or a new one for each association would make the limit none."""


class AssociationLimits:
    """Counts associations, in all and per caller; thread-safe."""

    __slots__ = ("_callers", "_lock", "_per_caller", "_total")

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._callers: Counter[Caller] = Counter()
        self._lock = threading.Lock()

    def take(self, caller: Caller) -> bool:
        """Whether this caller may have one more association; it is counted then."""
        with self._lock:
            free = self._callers.total() < self._total
            if not free or self._callers[caller] >= self._per_caller:
                return False
            self._callers[caller] += 1
            return True

    def give_back(self, caller: Caller) -> None:
        with self._lock:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

    @property
    def taken(self) -> int:
        """How many there are."""
        with self._lock:
            return self._callers.total()
