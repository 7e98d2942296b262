"""How many packages come at once: each takes disk space, a thread and a trial load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hub.errors import TransientError

MOST_UPLOADS = 4
"""Of all holders of keys together; of each one. Stopping a model waits for none of them."""


class Uploads:
    """The packages that are on their way in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actors: set[str] = set()

    @contextmanager
    def one(self, actor: str) -> Iterator[None]:
        """Of whoever brings it, for as long as it takes.

        Raises:
            TransientError: another one of his is on its way, or too many of others.
        """
        with self._lock:
            if actor in self._actors:
                raise TransientError("another package of yours is being registered")
            if len(self._actors) >= MOST_UPLOADS:
                raise TransientError("too many packages are being registered")
            self._actors.add(actor)
        try:
            yield
        finally:
            with self._lock:
                self._actors.discard(actor)
