"""A layer under the hub's files that shows what a power cut may leave behind.

`CutDisk` passes every call on to real files and remembers which bytes and names no sync has covered
yet. At a chosen call the power goes: that call and all later ones raise `PowerCutError`, and
``image`` writes one of the states in which the disk may be then:

- of the bytes that were written since the last sync, each sector of 512 bytes holds any of the
  versions that it had since;
- a file has any of the names that it had since the folders of its name were synced last, or is
  gone where it had none;
- everything that a sync covered is there.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from hub.store.disk import Buffer, Disk

SECTOR = 512
_ZERO = bytes(SECTOR)


class PowerCutError(BaseException):
    """No power; nothing in the hub may catch it."""


@dataclass
class _File:
    sectors: dict[int, bytes] = field(default_factory=dict)
    """As last written; one that is not here is zero."""
    durable: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """Versions since the last sync, the oldest first."""
    size: int = 0
    durable_size: int = 0
    name: Path | None = None
    """The durable one."""
    renames: list[_Rename] = field(default_factory=list)
    """Not durable yet, the oldest first."""

    def note(self, data: bytes, offset: int) -> None:
        """These bytes were written."""
        self.size = max(self.size, offset + len(data))
        for number in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            start = number * SECTOR - offset
            old = self.sectors.get(number, _ZERO)
            before = old[: max(0, -start)]
            new = before + data[max(0, start) : start + SECTOR]
            new += old[len(new) :]
            if new != old:
                self.sectors[number] = new
                self.pending[number].append(new)

    def sync(self) -> None:
        """All bytes are durable, and the length."""
        self.durable.update((number, versions[-1]) for number, versions in self.pending.items())
        self.pending.clear()
        self.durable_size = self.size

    def sync_folder(self, folder: Path) -> None:
        """The names in that folder are durable, and what is gone from it."""
        for rename in self.renames:
            rename.unsynced.discard(folder)
        done = [at for at, rename in enumerate(self.renames) if not rename.unsynced]
        if done:
            self.name = self.renames[done[-1]].name
            del self.renames[: done[-1] + 1]

    def write_to(self, path: Path, random: Random) -> None:
        """One of the states that its bytes may be in."""
        path.parent.mkdir(parents=True, exist_ok=True)
        sectors = dict(self.durable)
        for number, versions in self.pending.items():
            sectors[number] = random.choice([self.durable.get(number, _ZERO), *versions])
        with path.open("xb") as image:
            for number, sector in sectors.items():
                image.seek(number * SECTOR)
                image.write(sector)
            image.truncate(random.choice([self.durable_size, self.size]))


@dataclass
class _Rename:
    name: Path | None
    unsynced: set[Path]
    """Folders that must be synced before it is durable."""


class CutDisk(Disk):
    """Counts calls, and has the power cut at one of them; for one thread."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.calls = 0
        self._cut_at = cut_at
        self._files: dict[int, _File] = {}
        """By inode, as long as it has a name."""
        self._gone: list[_File] = []

    # --- the calls -----------------------------------------------------------------------------

    def create(self, path: Path) -> int:
        self._tick()
        handle = super().create(path)
        file = _File(renames=[_Rename(path, {path.parent})])
        self._files[os.fstat(handle).st_ino] = file
        return handle

    def allocate(self, handle: int, size: int) -> None:
        self._tick()
        os.truncate(handle, size)
        self._of(handle).size = size

    def write(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        self._of(handle).note(data, offset)  # when the power goes within it, any part is there
        self._tick()
        super().write(handle, [data], offset)

    def sync_data(self, handle: int) -> None:
        self._tick()
        self._of(handle).sync()

    def sync(self, handle: int) -> None:
        self.sync_data(handle)

    def rename(self, old: Path, new: Path) -> None:
        file = self._files[old.stat().st_ino]
        file.renames.append(_Rename(new, {old.parent, new.parent}))
        self._tick()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        number = path.stat().st_ino
        file = self._files[number]
        file.renames.append(_Rename(None, {path.parent}))
        self._tick()
        self._gone.append(self._files.pop(number))
        super().unlink(path)

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        self._tick()
        for file in (*self._files.values(), *self._gone):
            file.sync_folder(folder)

    # --- what is left --------------------------------------------------------------------------

    def image(self, root: Path, target: Path, random: Random) -> None:
        """Write one of the possible states of everything below ``root`` to another folder."""
        for file in (*self._files.values(), *self._gone):
            names = [file.name, *(rename.name for rename in file.renames)]
            name = random.choice(names)
            if name is not None:
                file.write_to(target / name.relative_to(root), random)

    def _of(self, handle: int) -> _File:
        return self._files[os.fstat(handle).st_ino]

    def _tick(self) -> None:
        self.calls += 1
        if self._cut_at is not None and self.calls >= self._cut_at:
            raise PowerCutError
