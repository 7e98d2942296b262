"""The calls by which received bytes become durable, in one place.

A test puts another `Disk` here: one that remembers which writes no sync has covered yet, and so
can show every state that a power cut might leave behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Buffer = bytes | bytearray | memoryview

_MODE = 0o600


class Disk:
    """Files that only their owner can read; every method raises `OSError`. Thread-safe."""

    __slots__ = ()

    def create(self, path: Path) -> int:
        """A new, empty file; its name is durable after ``sync_folder``."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)

    def open(self, path: Path) -> int:
        """An existing file, to be read and written."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, handle: int, size: int) -> None:
        """Have room for so many bytes, all zero; durable after ``sync``."""
        os.posix_fallocate(handle, 0, size)

    def write(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of it at an offset; durable after ``sync_data``, as far as the file had that
        length before, or else after ``sync``."""
        written = os.pwritev(handle, buffers, offset)
        if written != sum(map(len, buffers)):
            self._write_rest(handle, buffers, offset, written)

    def sync_data(self, handle: int) -> None:
        """Make the bytes durable, and what of the metadata is needed to read them."""
        os.fdatasync(handle)

    def sync(self, handle: int) -> None:
        """Make the bytes and all metadata durable, but not the file's name."""
        os.fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Atomic; durable after ``sync_folder`` of both folders."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Remove a name; durable after ``sync_folder``."""
        path.unlink()

    def make_folder(self, folder: Path) -> None:
        """See `make_folder`."""
        make_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        """See `sync_folder`."""
        sync_folder(folder)

    @staticmethod
    def _write_rest(handle: int, buffers: Sequence[Buffer], offset: int, written: int) -> None:
        """One call moves at most 2 GiB, and a nearly full disk may take a part."""
        for buffer in buffers:
            view = memoryview(buffer)
            skipped = min(written, len(view))
            written -= skipped
            offset += skipped
            view = view[skipped:]
            while view:
                moved = os.pwrite(handle, view, offset)
                offset += moved
                view = view[moved:]


def make_folder(folder: Path) -> None:
    """A folder that only its owner can enter, and whose name survives a power cut."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder, and what is gone from it, survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
