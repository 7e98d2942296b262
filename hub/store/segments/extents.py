"""The pool of extents: files full of zeros that wait to become segments.

Overwriting a file that was written before is the cheapest durable write there is: the sync moves
the bytes and no metadata. So a thread keeps a few extents of each size ready, segments that are
released come back (overwritten with zeros), and only a burst that outruns it has extents made on
the spot. Several processes use the same folders at once.

A claim is a rename that is not synced: after a power cut the extent may lie among the free ones
again. Its header, which is synced with the first object, tells; so no extent that is found is used
before all of it was seen to be zero.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog

from hub.errors import TransientError
from hub.store.disk import Disk
from hub.store.segments.extent_files import ExtentFiles, LockedFile, is_all_zero
from hub.store.segments.format import HEADER_SIZE, read_segment_header, whole_records
from hub.store.segments.names import (
    EXTENT_CLASSES,
    MAKING,
    is_segment,
    parse_free,
    path_of,
)

_LOOK_AT_DISK_SECONDS = 0.25
_TURN_SECONDS = 1.0
_BUSY_SECONDS = 10.0
"""So long after a claim the disk belongs to the writers, as long as enough is ready for them."""
_ENOUGH = 0.25
"""Part of what is to be ready that is enough while writers are busy."""
_SHARES = dict(zip(EXTENT_CLASSES, (0.125, 0.125, 0.25, 0.5), strict=True))
"""How the bytes that are kept ready are split: a long transfer uses the largest ones most."""
_MAKER = ".maker"
_STOP_SECONDS = 10.0
_SECTOR = 512
"""The least that a disk writes whole, in bytes."""
_HEADER_LENGTH, _HEADER_TEXT_AT = slice(8, 12), 20
"""Where a header has the length of its text, and the text (`hub.store.segments.format`)."""


@dataclass(frozen=True, slots=True)
class ClaimedExtent:
    """A file full of zeros that belongs to the caller until it closes the handle."""

    segment: str
    handle: int
    """Open for reading and writing, with ``flock(LOCK_EX)``."""
    size: int
    """In bytes."""


class ExtentPool:
    """Extents for segments. Thread-safe."""

    def __init__(
        self, root: Path, ready_bytes: int, minimum_free_bytes: int, disk: Disk | None = None
    ) -> None:
        """
        Args:
            root: ``<data>/objects``.
            ready_bytes: how much is kept ready; 0: nothing, each extent is made when needed.
            minimum_free_bytes: below this much free disk space nothing is claimed.
            disk: another one in tests.
        """
        self.disk = disk or Disk()
        self._files = ExtentFiles(root, self.disk)
        self._minimum_free_bytes = minimum_free_bytes
        self._targets = {
            size: max(int(ready_bytes * share) // size, 1 if 4 * size <= ready_bytes else 0)
            for size, share in _SHARES.items()
        }
        self._lock = threading.Lock()
        self._ready: dict[int, deque[str]] = {size: deque() for size in EXTENT_CLASSES}
        """Names in ``free`` whose files were seen to be zero, by this process."""
        self._has_room = True
        self._look_again_at = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- its thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Put right what a crash left behind, and keep extents ready, on a thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="extents", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; claims still work."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            self._thread = None

    def _run(self) -> None:
        reconciled = False
        while not self._stopping.is_set():
            try:
                self.keep_ready(patiently=True)
                if not reconciled:
                    self.reconcile()
                    reconciled = True
            except (OSError, TransientError) as error:
                structlog.get_logger().warning("extents cannot be kept ready", error=error)
            self._wake.wait(_TURN_SECONDS)
            self._wake.clear()

    # --- what writers need -------------------------------------------------------------------

    def claim(self, at_least: int, after: int = 0) -> ClaimedExtent:
        """An extent of zeros, now a segment.

        Args:
            at_least: bytes that must fit; more than the largest class makes a file of that size.
            after: size of the extent that the same transfer and study had before; the next one is
                larger, as long as there is a larger class.

        Raises:
            TransientError: out of disk space or file handles.
        """
        self.must_have_room()
        try:
            wanted = _class_for(at_least, after)
            if wanted is None:
                return self._made_on_the_spot(at_least)
            return self._ready_one(wanted, at_least) or self._made_on_the_spot(wanted)
        except OSError as error:
            raise TransientError(f"cannot claim an extent: {error.strerror}") from error
        finally:
            with suppress(OSError):
                os.utime(self._files.free / _MAKER)

    def must_have_room(self) -> None:
        """Look at the free disk space, four times a second at most.

        Raises:
            TransientError: there is too little of it.
        """
        now = time.monotonic()
        if now >= self._look_again_at:
            self._has_room = self._is_room_for(0)
            self._look_again_at = now + _LOOK_AT_DISK_SECONDS
        if not self._has_room:
            raise TransientError(
                f"out of disk space: less than {self._minimum_free_bytes} bytes would stay free"
            )

    def begin_outsize(self) -> LockedFile:
        """A file for one large object, which grows as it is written.

        Raises:
            TransientError: out of disk space or file handles.
        """
        self.must_have_room()
        try:
            return self._files.begin("outsize")
        except OSError as error:
            raise TransientError(f"cannot make a file: {error.strerror}") from error

    def finish_outsize(self, made: LockedFile) -> ClaimedExtent:
        """Make a large object durable, as a segment of its own.

        Raises:
            TransientError: the disk cannot do it; the caller discards the file.
        """
        try:
            self.disk.sync(made.handle)
            segment = self._files.use(made, made.number, synced=True)
            return ClaimedExtent(segment, made.handle, os.fstat(made.handle).st_size)
        except OSError as error:
            raise TransientError(f"cannot store a large object: {error.strerror}") from error

    def discard_outsize(self, made: LockedFile) -> None:
        """Remove a large object that did not arrive whole; what remains, goes at the next start."""
        with suppress(OSError):
            self._files.discard(made)

    def release(self, segment: str) -> None:
        """Overwrite a segment with zeros, durably, and have its extent back; one that is already
        gone is fine.

        Raises:
            TransientError: somebody writes to it, or the disk cannot do it now.
            IntegrityError: not the name of a segment.
        """
        path = path_of(self._files.root, segment)
        try:
            file = self._files.lock(path)
            if file is None:
                if path.exists():
                    raise TransientError(f"segment {segment} is in use")
                return
            try:
                self._recycle(file)
            finally:
                file.close()
        except OSError as error:
            raise TransientError(f"cannot release a segment: {error.strerror}") from error

    def _ready_one(self, wanted: int, at_least: int) -> ClaimedExtent | None:
        """One of the class that is wanted, of a smaller one, or of the next larger one."""
        fitting = [size for size in EXTENT_CLASSES if size >= at_least]
        smaller = [size for size in reversed(fitting) if size <= wanted]
        larger = [size for size in fitting if size > wanted]
        for size in (*smaller, *larger[:1]):
            while (name := self._next_ready(size)) is not None:
                file = self._files.lock(self._files.free / name)
                if file is None:  # another process has it
                    continue
                return self._claimed(file, name.partition("-")[2], size, synced=False)
        return None

    def _next_ready(self, size: int) -> str | None:
        with self._lock:
            return self._ready[size].popleft() if self._ready[size] else None

    def _made_on_the_spot(self, size: int) -> ClaimedExtent:
        self._wake.set()
        made = self._files.make(size, filled=False)
        return self._claimed(made, made.number, size, synced=True)

    def _claimed(self, file: LockedFile, number: str, size: int, *, synced: bool) -> ClaimedExtent:
        with ExitStack() as undo:
            undo.callback(file.close)
            segment = self._files.use(file, number, synced=synced)
            undo.pop_all()
        return ClaimedExtent(segment, file.handle, size)

    def _is_room_for(self, size: int) -> bool:
        self.disk.make_folder(self._files.root)
        disk = os.statvfs(self._files.root)
        return disk.f_bavail * disk.f_frsize >= self._minimum_free_bytes + size

    # --- what is done beside -----------------------------------------------------------------

    def keep_ready(self, *, patiently: bool = False) -> None:
        """One turn: look through the free extents, and make those that are missing.

        Args:
            patiently: leave the disk to whoever writes now, in whatever process, unless little
                is ready; making extents costs each image its bytes a second time.

        Raises:
            OSError: the disk failed.
        """
        self._files.make_folders()
        self._look_through_free()
        with self._as_maker() as maker:
            while maker and not self._stopping.is_set():
                size = self._scarcest()
                if size is None or not self._is_room_for(size):
                    return
                if patiently and self._can_wait():
                    return
                self._make_ready(size)

    def reconcile(self) -> None:
        """Take back the segments that were claimed and never written to.

        Raises:
            OSError: the disk failed.
        """
        with self._as_maker() as maker:
            for path in self._files.used.glob("??/*") if maker else ():
                if self._stopping.is_set():
                    return
                file = self._files.lock(path) if is_segment(path.name) else None
                if file is None:
                    continue
                try:
                    if _holds_nothing(file):
                        self._recycle(file)
                finally:
                    file.close()

    @contextmanager
    def _as_maker(self) -> Iterator[bool]:
        """One process at a time makes extents; whether it is this one."""
        self.disk.make_folder(self._files.free)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        handle = os.open(self._files.free / _MAKER, flags, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    def _look_through_free(self) -> None:
        """Check what is new among the free extents, and forget what is gone."""
        found = {entry.name for entry in os.scandir(self._files.free)}
        with self._lock:
            for size, ready in self._ready.items():
                self._ready[size] = deque(name for name in ready if name in found)
            known = {name for ready in self._ready.values() for name in ready}
        for name in sorted(found - known):
            if self._stopping.is_set():
                return
            file = None
            if parse_free(name) or name.endswith(MAKING):
                file = self._files.lock(self._files.free / name)
            if file is not None:
                try:
                    self._look_at(file)
                finally:
                    file.close()

    def _look_at(self, file: LockedFile) -> None:
        parsed = parse_free(file.path.name)
        if parsed is None:  # whoever made it is dead
            self.disk.unlink(file.path)
            return
        size, number = parsed
        if os.fstat(file.handle).st_size != size:
            self.disk.unlink(file.path)
        elif is_all_zero(file.handle):
            self._add_ready(size, file.path.name)
        elif _holds_nothing(file):
            self._files.recycle(file, keep=True)
        else:  # a power cut undid the claim, and not what was written after it
            self._files.use(file, number, synced=True)

    def _scarcest(self) -> int | None:
        """The class of which the smallest part is there; None if all are."""
        there = self._free_extents()
        missing = {s: there[s] / goal for s, goal in self._targets.items() if there[s] < goal}
        return min(missing, key=missing.__getitem__, default=None)

    def _can_wait(self) -> bool:
        """Whether somebody claims extents now, and finds enough: one class stands in for another
        (`_ready_one`)."""
        busy = time.time() - (self._files.free / _MAKER).stat().st_mtime < _BUSY_SECONDS
        ready = sum(size * count for size, count in self._free_extents().items())
        goal = sum(size * count for size, count in self._targets.items())
        return busy and ready >= _ENOUGH * goal

    def _free_extents(self) -> Counter[int]:
        names = [parse_free(entry.name) for entry in os.scandir(self._files.free)]
        return Counter(parsed[0] for parsed in names if parsed)

    def _make_ready(self, size: int) -> None:
        made = self._files.make(size, filled=True)
        try:
            name = self._files.offer(made, size)
        finally:
            made.close()
        self._add_ready(size, name)

    def _add_ready(self, size: int, name: str) -> None:
        with self._lock:
            self._ready[size].append(name)

    def _recycle(self, file: LockedFile) -> None:
        """Twice as many as are kept ready come back; the disk has the rest."""
        self.disk.make_folder(self._files.free)
        size = os.fstat(file.handle).st_size
        keep = self._free_extents()[size] < 2 * self._targets.get(size, 0)
        self._files.recycle(file, keep=keep)
        self._wake.set()


def restore_claims(files: ExtentFiles) -> None:
    """Make those free extents segments again whose claim a power cut undid, by their headers
    alone; the rest is what ``ExtentPool.keep_ready`` looks for. Raises `OSError`."""
    names = [entry.name for entry in os.scandir(files.free)] if files.free.is_dir() else []
    for name in names:
        parsed = parse_free(name)
        file = files.lock(files.free / name) if parsed else None
        if parsed is None or file is None:
            continue
        try:
            if read_segment_header(os.pread(file.handle, HEADER_SIZE, 0)) is not None:
                files.use(file, parsed[1], synced=True)
        finally:
            file.close()


def _class_for(at_least: int, after: int) -> int | None:
    """The class to claim; None if all are too small."""
    fitting = [size for size in EXTENT_CLASSES if size >= at_least]
    larger = [size for size in fitting if size > after]
    return next(iter(larger or fitting[-1:]), None)


def _holds_nothing(file: LockedFile) -> bool:
    """Whether nothing in a file was ever acknowledged.

    The header is synced with the first object. So without a header there is none, unless what is
    there was damaged later: that is left alone, for the indexer to raise the alarm.
    """
    header = os.pread(file.handle, HEADER_SIZE, 0)
    if read_segment_header(header) is not None:
        return False
    if os.fstat(file.handle).st_size <= HEADER_SIZE:
        return True
    with (
        mmap.mmap(file.handle, 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as log,
    ):
        records = len(list(islice(whole_records(log), 2)))
    return records == 0 or (records == 1 and _was_torn(header))


def _was_torn(header: bytes) -> bool:
    """Whether a sector of the header was never written, rather than changed afterwards."""
    end = _HEADER_TEXT_AT + int.from_bytes(header[_HEADER_LENGTH], "little")
    sectors = range(0, min(end, len(header)), _SECTOR)
    return any(not any(header[start : start + _SECTOR]) for start in sectors)
