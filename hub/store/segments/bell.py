"""The bell: writers tell the indexer which segments have grown.

A FIFO, so that any number of processes ring and none of them waits. What is lost, because nobody
listened for long, is harmless: the indexer looks at every segment once in a while anyway.

A ring is one line: the segment's name, a space, and up to which offset its records are durable;
or the name alone, when the transfer adds nothing more to it.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hub.errors import TransientError
from hub.store.disk import make_folder
from hub.store.segments.names import is_segment

_MOST_AT_ONCE = 1 << 16
"""What a pipe holds."""


@dataclass(slots=True)
class Rings:
    """What was heard."""

    durable_to: dict[str, int] = field(default_factory=dict)
    """Segment -> up to which offset its writer says that its records are durable; 0: it did not
    say."""
    ended: bool = False
    """A transfer adds nothing more to one of them."""

    def __bool__(self) -> bool:
        return bool(self.durable_to)

    @property
    def segments(self) -> set[str]:
        """The names of those that rang."""
        return set(self.durable_to)

    def add(self, line: str) -> None:
        """One ring; what is none is dropped."""
        segment, _, offset = line.partition(" ")
        if not is_segment(segment):
            return
        durable_to = int(offset) if offset.isdecimal() else 0
        self.durable_to[segment] = max(self.durable_to.get(segment, 0), durable_to)
        self.ended |= not offset


class Bell:
    """One process's end of the FIFO; opened at its first use. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = -1

    def ring(self, segment: str, durable_to: int | None = None) -> None:
        """Say that a segment has grown; never blocks, never fails.

        Args:
            segment: its name.
            durable_to: all records before this offset were synced; None: it ended.
        """
        line = segment if durable_to is None else f"{segment} {durable_to}"
        with suppress(OSError, TransientError):  # full, or not to be made now
            os.write(self._opened(), line.encode("ascii") + b"\n")

    def wait(self, timeout: float, also: Rings | None = None) -> Rings:
        """The segments that grew since the last call; waits for the first one, at most so many
        seconds. For one thread of one process.

        Args:
            timeout: in seconds.
            also: what was heard before, to which this is added.

        Raises:
            TransientError: the FIFO cannot be opened.
        """
        rings = Rings() if also is None else also
        handle = self._opened()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(max(0.0, timeout) * 1000):
            return rings
        # Each line was written in one piece (PIPE_BUF), so no other end than that of what is read
        # at once cuts one in two.
        try:
            found = os.read(handle, _MOST_AT_ONCE)
        except BlockingIOError:
            return rings
        for line in found.decode("ascii", "replace").split("\n"):
            rings.add(line)
        return rings

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
