"""`hub.ports.ImageRenderer` in a process of its own, which is started when it is first needed and
replaced when it dies."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection

from hub.domain.study import Instance
from hub.errors import CaidxError, TransientError
from hub.ports import ObjectStore, RenderedImage

MEMORY_BYTES = 4 << 30
"""What the process may take (RLIMIT_DATA): an object of many frames is read whole."""
RENDER_SECONDS = 20.0
START_SECONDS = 60.0
_STOP_SECONDS = 2.0

Serve = Callable[[Connection, ObjectStore, int | None], None]


def _serve(connection: Connection, store: ObjectStore, memory_bytes: int | None) -> None:
    """What the child runs; what it needs is loaded there and not here."""
    import_module("hub.supervisor.rendering_process").serve(connection, store, memory_bytes)


class ProcessRenderer:
    """Decodes one image at a time; threads wait for each other. Costs nothing before it is used."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        timeout: float = RENDER_SECONDS,
        memory_bytes: int | None = MEMORY_BYTES,
        serve: Serve = _serve,
    ) -> None:
        """
        Args:
            store: where the bytes lie; it is pickled.
            timeout: seconds for one picture; a process that takes longer is killed.
            memory_bytes: what the process may take at most; None: no limit.
            serve: what the process runs; tests put their own faults there.
        """
        self._store = store
        self._timeout = timeout
        self._memory_bytes = memory_bytes
        self._serve = serve
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def render(self, instance: Instance, frame_number: int = 1) -> RenderedImage:
        """One frame (1-based) of a stored image.

        Raises:
            RejectedError: it cannot be decoded, or is no image.
            TransientError: it took too long, its process died, or the renderer is closed.
        """
        with self._lock:
            return self._running().render((instance.location, frame_number), self._timeout)

    def close(self) -> None:
        """End the process, after the picture that it is at."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.stop()
                self._child = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def _running(self) -> _Child:
        if self._closed:
            raise TransientError("the renderer is closed")
        if self._child is not None and not self._child.is_alive:
            self._child.stop()  # it died, or was killed
            self._child = None
        if self._child is None:
            self._child = _Child(self._serve, self._store, self._memory_bytes)
        return self._child


class _Child:
    """One process."""

    def __init__(self, serve: Serve, store: ObjectStore, memory_bytes: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, store, memory_bytes), name="caidx-images", daemon=True
        )
        self._process.start()
        theirs.close()
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def render(self, question: tuple[object, int], timeout: float) -> RenderedImage:
        """Raises:
        TransientError: it died, or took too long and was killed; or its own answer.
        RejectedError: its own answer.
        """
        if not self._is_ready:
            self._receive(START_SECONDS, "its start")
            self._is_ready = True
        try:
            self._connection.send(question)
        except OSError:
            raise self._lost("its process died") from None
        answer = self._receive(timeout, "decoding the image")
        if isinstance(answer, RenderedImage):
            return answer
        if isinstance(answer, CaidxError):
            raise answer
        raise self._lost("its process answered out of turn")

    def stop(self) -> None:
        """End the process: politely, then by force."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        self._kill()

    def _receive(self, timeout: float, what: str) -> object:
        try:
            if not self._connection.poll(timeout):
                raise self._lost(f"{what} took more than {timeout:g} s and was stopped")
            return self._connection.recv()
        except (EOFError, OSError):
            raise self._lost("its process died") from None

    def _lost(self, what: str) -> TransientError:
        self._kill()
        return TransientError(f"no picture of the image: {what}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
