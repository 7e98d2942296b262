"""Which segments there are, and which of them have changed, asked again every second.

Both answers come from modification times, so that a store of many segments costs next to nothing
while nothing happens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hub.store.segments.names import USED, is_segment, path_of

_SETTLED_NS = 200_000_000
"""Two changes within one tick of the kernel's clock have the same time: one that is younger than
this may hide another."""


class SegmentWatch:
    """Remembers what was seen; for one thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, int] = {}
        """Folder -> its modification time when its names were read."""
        self._names: dict[str, frozenset[str]] = {}
        self._changed: dict[str, int] = {}
        """Segment -> modification time when it was read to its end."""

    def new_segments(self) -> set[str]:
        """The segments that were not there at the last call."""
        new: set[str] = set()
        for folder in self._listed():
            at = _modified_at(folder)
            if at is None or self._folders.get(folder) == at:
                continue
            looked_at = time.time_ns()
            with suppress(FileNotFoundError), os.scandir(folder) as files:
                names = frozenset(file.name for file in files if is_segment(file.name))
                new |= names - self._names.get(folder, frozenset())
                self._names[folder] = names
            self._folders[folder] = at if looked_at - at > _SETTLED_NS else 0
        return new

    def met(self, segments: Iterable[str]) -> set[str]:
        """Those that were not there at the last call; that they are there, somebody said."""
        new: set[str] = set()
        for segment in segments:
            folder = str(path_of(self._root, segment).parent)
            names = self._names.get(folder, frozenset())
            if segment not in names:
                self._names[folder] = names | {segment}
                new.add(segment)
        return new

    def changed(self, segments: Iterable[str]) -> list[str]:
        """Those that may hold more than when they were read to their end."""
        return [
            segment
            for segment in segments
            if self._changed.get(segment, 0) != (self._changed_at(segment) or -1)
        ]

    def about_to_read(self, segment: str) -> None:
        """What is written from now on is a change."""
        at = self._changed_at(segment)
        settled = at is not None and time.time_ns() - at > _SETTLED_NS
        self._changed[segment] = at if at is not None and settled else 0

    def forget(self, segment: str) -> None:
        """Nobody asks about it any more."""
        self._changed.pop(segment, None)

    def _changed_at(self, segment: str) -> int | None:
        """None too where the disk does not say it: then reading the segment fails as well."""
        try:
            return _modified_at(path_of(self._root, segment))
        except OSError:
            return None

    def _listed(self) -> list[str]:
        used = self._root / USED
        if not used.is_dir():
            return []
        with os.scandir(used) as folders:
            return [folder.path for folder in folders if folder.is_dir(follow_symlinks=False)]


def _modified_at(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - a Path costs more than the call
    except FileNotFoundError:
        return None
