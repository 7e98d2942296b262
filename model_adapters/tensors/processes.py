"""The parent's side of the worker processes: start, call, kill, replace."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from threading import Event, Lock
from typing import Generic, TypeVar

from hub.domain.inference import ModelKey
from hub.errors import TransientError
from hub.ports import ModelPackage, ObjectStore
from model_adapters.tensors.messages import (
    Answered,
    Done,
    EngineKind,
    Failed,
    Limits,
    Load,
    Run,
    Unload,
)

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it; only its room is asked for
_STOP_SECONDS = 2.0
_KEPT_VOXEL_BYTES = 256 << 20
"""More shared memory than this goes back as soon as a request needs less."""

Thing = TypeVar("Thing")


class WorkerLostError(TransientError):
    """The worker process is gone or was killed; another one takes its place."""


def _serve(connection: Connection, store: ObjectStore, kind: EngineKind, limits: Limits) -> None:
    """What the child runs; what it needs is loaded there and not here."""
    import_module("model_adapters.tensors.worker").main(connection, store, kind, limits)


class WorkerProcess:
    """One child process. Used by one thread at a time."""

    def __init__(
        self, store: ObjectStore, kind: EngineKind, limits: Limits, start_timeout: float
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, store, kind, limits),  # by a pipe: no secret shows in a list of processes
            name=f"caidx-{kind.name}",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._start_timeout = start_timeout
        self._is_ready = False
        self._models: dict[ModelKey, str] = {}
        self._voxels: SharedMemory | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid or 0

    @property
    def is_alive(self) -> bool:
        """Is the process still there?"""
        return self._process.is_alive()

    def run(self, package: ModelPackage, task: Run, timeout: float) -> Answered:
        """One request; loads the model first where this process has not got it yet.

        Raises:
            WorkerLostError: the process died or was killed because it took too long.
            CaidxError: what the worker itself answered.
        """
        self.load(package)
        reply = self._call(task, timeout, "the model")
        if not isinstance(reply, Answered):
            raise WorkerLostError("the worker answered out of turn")
        return reply

    def load(self, package: ModelPackage) -> str:
        """The version of the engine; see `model_adapters.tensors.engine.Engine`.

        Raises:
            ConfigError: the package is not what its manifest says.
            WorkerLostError: the process died or took too long.
            TransientError: its engine cannot be opened now.
        """
        if package.key not in self._models:
            reply = self._call(Load(package), self._start_timeout, "loading the model")
            self._models[package.key] = reply.version
        return self._models[package.key]

    def forget(self, keep: frozenset[ModelKey]) -> None:
        """Unload every model but these."""
        gone = frozenset(self._models) - keep
        if gone:
            self._call(Unload(gone), self._start_timeout, "unloading a model")
            for key in gone:
                del self._models[key]

    def voxels(self, size: int) -> SharedMemory:
        """Memory for ``size`` bytes of voxels, kept for the next request.

        Raises:
            TransientError: the machine has not got that much shared memory.
        """
        held = 0 if self._voxels is None else self._voxels.size
        if self._voxels is None or held < size or held > max(size, _KEPT_VOXEL_BYTES):
            self._release_voxels()
            self._voxels = _shared_memory(size)
        return self._voxels

    def stop(self) -> None:
        """End the process: politely, then by force."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._release_voxels()

    def _release_voxels(self) -> None:
        if self._voxels is not None:
            self._voxels.close()
            self._voxels.unlink()
            self._voxels = None

    def _call(self, message: Load | Unload | Run, timeout: float, what: str) -> Done | Answered:
        if not self._is_ready:
            self._receive(self._start_timeout, "the start of the worker")
            self._is_ready = True
        try:
            self._connection.send(message)
        except OSError:
            raise self._lost() from None
        return self._receive(timeout, what)

    def _receive(self, timeout: float, what: str) -> Done | Answered:
        try:
            if not self._connection.poll(timeout):
                self.kill()
                raise WorkerLostError(f"{what} took more than {timeout:g} s and was stopped")
            reply = self._connection.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(reply, Failed):
            reply.raise_again()
        if not isinstance(reply, Done | Answered):
            raise self._lost()
        return reply

    def _lost(self) -> WorkerLostError:
        self.kill()
        return WorkerLostError(f"the worker process died ({_cause(self._process.exitcode)})")


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {-exit_code}"
    return f"exit status {exit_code}"


def _shared_memory(size: int) -> SharedMemory:
    try:
        shared = SharedMemory(create=True, size=size)
    except OSError as error:
        raise TransientError(f"no shared memory for the voxels: {error.strerror}") from None
    try:
        _reserve(shared, size)
    except OSError as error:
        shared.close()
        shared.unlink()
        raise TransientError(
            f"{_SHARED_MEMORY} has no room for {size >> 20} MiB of voxels: {error.strerror}"
        ) from None
    return shared


def _reserve(shared: SharedMemory, size: int) -> None:
    """Take the pages now: a full /dev/shm would otherwise kill whoever writes to it."""
    path = _SHARED_MEMORY / shared.name.lstrip("/")
    if path.exists():
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


class Turns(Generic[Thing]):
    """Things that threads take and give back. Who waits longest gets the next one: it goes from
    hand to hand, so that a thread that gives one back and wants another stands at the end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._free: list[Thing] = []
        self._waiting: deque[queue.SimpleQueue[Thing]] = deque()

    def get(self) -> Thing:
        """The one that was given back last, which is warm; waits where there is none."""
        with self._lock:
            if self._free:
                return self._free.pop()
            mine: queue.SimpleQueue[Thing] = queue.SimpleQueue()
            self._waiting.append(mine)
        return mine.get()

    def get_nowait(self) -> Thing:
        """Raises:
        queue.Empty: there is none.
        """
        with self._lock:
            if not self._free:
                raise queue.Empty
            return self._free.pop()

    def put(self, thing: Thing) -> None:
        """Give one back."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(thing)
            else:
                self._free.append(thing)


class WorkerPool:
    """A fixed number of workers; threads wait for a free one."""

    def __init__(self, size: int, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self._free: Turns[WorkerProcess | None] = Turns()
        self._closed = Event()
        self._size = size
        for _ in range(size):
            self._free.put(None)  # started when first needed

    def start_one(self) -> None:
        """Have a worker start while the caller does something else."""
        self._free.get()
        self._free.put(self._start())

    @contextmanager
    def worker(self) -> Iterator[WorkerProcess]:
        """A worker for one request; it is replaced at once where the request cost its life.

        Raises:
            TransientError: the pool is closed.
        """
        slot = self._free.get()
        try:
            if self._closed.is_set():
                raise TransientError("the adapter is stopping")
            if slot is not None and not slot.is_alive:
                slot.kill()  # it died while it had nothing to do: no request pays for that
                slot = None
            if slot is None:
                slot = self._start()
            yield slot
        except WorkerLostError:
            slot = None if self._closed.is_set() else self._start()
            raise
        finally:
            self._free.put(slot)

    def each_idle(self, action: Callable[[WorkerProcess], None]) -> None:
        """Do something with each started worker that has nothing to do."""
        taken: list[WorkerProcess | None] = []
        with suppress(queue.Empty):
            while True:
                taken.append(self._free.get_nowait())
        try:
            for index, slot in enumerate(taken):
                if slot is not None:
                    taken[index] = _survivor(slot, action)
        finally:
            for slot in reversed(taken):
                self._free.put(slot)

    def close(self) -> None:
        """Wait for what runs, then stop every worker."""
        self._closed.set()
        for _ in range(self._size):
            slot = self._free.get()
            if slot is not None:
                slot.stop()
        for _ in range(self._size):
            self._free.put(None)  # whoever still waits learns that the pool is closed


def _survivor(
    worker: WorkerProcess, action: Callable[[WorkerProcess], None]
) -> WorkerProcess | None:
    try:
        action(worker)
    except WorkerLostError:
        return None  # another one starts when it is needed
    return worker
