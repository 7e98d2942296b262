"""The files behind the pool of extents: how they are made, locked, emptied and moved.

Whoever works on one holds ``flock(LOCK_EX)`` on it, from before its name changes until the folders
are synced: so nobody claims an extent whose name a power cut could still take back.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hub.store.disk import Disk
from hub.store.segments.names import (
    EXTENT_CLASSES,
    FREE,
    MAKING,
    MEBIBYTE,
    USED,
    free_name,
    new_number,
    path_of,
    segment_name,
)

_ZEROS = bytes(MEBIBYTE)


@dataclass(frozen=True, slots=True)
class LockedFile:
    """An open file that nobody else may change."""

    path: Path
    handle: int
    number: str = ""
    """Of a file that is being made: what its name will hold."""

    def close(self) -> None:
        """Let others have it."""
        os.close(self.handle)


@dataclass(frozen=True, slots=True)
class ExtentFiles:
    """The folders ``free`` and ``used`` of an object store; methods raise `OSError`."""

    root: Path
    disk: Disk

    @property
    def free(self) -> Path:
        """Where free extents lie."""
        return self.root / FREE

    @property
    def used(self) -> Path:
        """Where the folders with the segments lie."""
        return self.root / USED

    def make_folders(self) -> None:
        """All that are ever needed, so that no sender waits for one."""
        for folder in (self.root, self.free, self.used):
            self.disk.make_folder(folder)
        numbers = [f"{number:02x}" for number in range(256)]
        missing = [name for name in numbers if not (self.used / name).is_dir()]
        for name in missing:
            (self.used / name).mkdir(mode=0o700, exist_ok=True)
        if missing:
            self.disk.sync_folder(self.used)

    def lock(self, path: Path) -> LockedFile | None:
        """Open and lock a file; None if it is gone, or somebody else's."""
        try:
            handle = self.disk.open(path)
        except FileNotFoundError:
            return None
        if _lock(handle, path):
            return LockedFile(path, handle)
        os.close(handle)
        return None

    def make(self, size: int, *, filled: bool) -> LockedFile:
        """A file full of zeros, durable but for its name.

        Args:
            size: in bytes.
            filled: written out, so that what overwrites it later changes no metadata; or only
                allocated, which is quick, and makes each later sync slower.
        """
        made = self.begin(str(size // MEBIBYTE))
        with ExitStack() as undo:
            undo.callback(self.discard, made)
            if filled:
                self._fill(made.handle, size)
            else:
                self.disk.allocate(made.handle, size)
            self.disk.sync(made.handle)
            undo.pop_all()
        return made

    def begin(self, kind: str) -> LockedFile:
        """An empty file that is being made; after a crash it is no longer there."""
        for folder in (self.root, self.free):
            self.disk.make_folder(folder)
        while True:
            number = new_number()
            path = self.free / f"{kind}-{number}{MAKING}"
            handle = self.disk.create(path)
            if _lock(handle, path):
                return LockedFile(path, handle, number)
            os.close(handle)  # another process just took it for the remains of a dead one

    def discard(self, made: LockedFile) -> None:
        """Remove a file that was being made."""
        try:
            self.disk.unlink(made.path)
        finally:
            made.close()

    def offer(self, made: LockedFile, size: int) -> str:
        """Put a filled file among the free extents; returns its name there."""
        name = free_name(size, made.number or new_number())
        self._move(made.path, self.free / name)
        return name

    def use(self, file: LockedFile, number: str, *, synced: bool) -> str:
        """Turn a file into a segment, and return its name.

        Args:
            file: a free extent, or one that was made for this.
            number: that in its name.
            synced: its new name must be durable at once. A free extent's need not: its content
                tells after a power cut, and its number stays the same.
        """
        segment = segment_name(number)
        path = path_of(self.root, segment)
        if not path.parent.is_dir():
            for folder in (self.used, path.parent):
                self.disk.make_folder(folder)
        if synced:
            self._move(file.path, path)
        else:
            self.disk.rename(file.path, path)
        return segment

    def recycle(self, file: LockedFile, *, keep: bool) -> None:
        """Overwrite a file with zeros, durably; then it is a free extent under a new number, or
        gone where it is not to be kept or is no extent by its size. The caller closes it."""
        size = os.fstat(file.handle).st_size
        self._fill(file.handle, size)
        self.disk.sync_data(file.handle)
        if keep and size in EXTENT_CLASSES:
            self._move(file.path, self.free / free_name(size, new_number()))
        else:
            self.disk.unlink(file.path)
            self.disk.sync_folder(file.path.parent)

    def _fill(self, handle: int, size: int) -> None:
        for offset in range(0, size, len(_ZEROS)):
            self.disk.write(handle, [_ZEROS[: size - offset]], offset)

    def _move(self, old: Path, new: Path) -> None:
        self.disk.rename(old, new)
        self.disk.sync_folder(new.parent)
        if old.parent != new.parent:
            self.disk.sync_folder(old.parent)


def is_all_zero(handle: int) -> bool:
    """Whether a file holds nothing but zeros."""
    block, offset = bytearray(len(_ZEROS)), 0
    while count := os.preadv(handle, [block], offset):
        whole = count == len(_ZEROS)
        if (block if whole else block[:count]) != (_ZEROS if whole else _ZEROS[:count]):
            return False
        offset += count
    return True


def _lock(handle: int, path: Path) -> bool:
    """Whether the file is locked now, and still has that name."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, ours = path.stat(), os.fstat(handle)
    except (BlockingIOError, FileNotFoundError):
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
