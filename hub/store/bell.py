"""The bell: writers tell the indexer which segments have grown.

A FIFO, so that any number of processes ring and none of them waits. What is lost, because nobody
listened for long, is harmless: the indexer looks at every segment once in a while anyway.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from pathlib import Path

from hub.errors import TransientError
from hub.store.disk import make_folder
from hub.store.segment_names import is_segment

_MOST_AT_ONCE = 1 << 16
"""What a pipe holds."""


class Bell:
    """One process's end of the FIFO; opened at its first use. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = -1

    def ring(self, segment: str) -> None:
        """Say that a segment has grown, or ended; never blocks, never fails."""
        with suppress(OSError, TransientError):  # full, or not to be made now
            os.write(self._opened(), segment.encode("ascii") + b"\n")

    def wait(self, timeout: float) -> set[str]:
        """The segments that grew since the last call; waits for the first one, at most so many
        seconds. For one thread of one process.

        Raises:
            TransientError: the FIFO cannot be opened.
        """
        handle = self._opened()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(max(0.0, timeout) * 1000):
            return set()
        # Each name was written in one piece (PIPE_BUF), so no other end than that of the pipe's
        # content cuts one in two; a piece is no name, and is dropped.
        try:
            found = os.read(handle, _MOST_AT_ONCE)
        except BlockingIOError:
            return set()
        return {name for name in found.decode("ascii", "replace").split("\n") if is_segment(name)}

    def close(self) -> None:
        """Give the handle back; the next use opens it again."""
        with self._lock:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _opened(self) -> int:
        if self._handle < 0:
            with self._lock:
                if self._handle < 0:
                    self._handle = self._open()
        return self._handle

    def _open(self) -> int:
        """For reading and writing: so neither end has to wait for the other, and none sees an
        end of file or a broken pipe (fifo(7))."""
        try:
            make_folder(self._path.parent)
            with suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
            return os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TransientError(f"cannot open the bell: {error.strerror}") from error
