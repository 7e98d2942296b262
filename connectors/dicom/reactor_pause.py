"""Makes pynetdicom wait for its own reactor: mends a race that loses responses.

pynetdicom 3.0 has a thread (the reactor) that takes messages from an association's queue, and
pauses it while ``send_c_store`` and its like wait for their response. It looks at a flag for
that, which may still be set from the pause before: then the reactor, on its way out of that
pause, takes the response, nobody gets it, and the caller waits until ``response_timeout``. It
happens where the peer answers at once.
"""

from __future__ import annotations

import threading
from typing import Any

_LOOK_SECONDS = 0.05
"""How often it is looked whether the reactor still lives."""


class ReactorCheckpoint:
    """In place of the `threading.Event` that the reactor waits at: ``clear`` returns when the
    reactor is inside ``wait``, where it stays until ``set``."""

    def __init__(self, reactor: threading.Thread) -> None:
        self._reactor = reactor
        self._condition = threading.Condition()
        self._open = True
        self._waiting = False

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        """Let the reactor go on."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def clear(self) -> None:
        """Pause the reactor; returns when it is paused, or dead."""
        with self._condition:
            self._open = False
            while not self._waiting and self._reactor.is_alive():
                self._condition.wait(_LOOK_SECONDS)

    def wait(self, timeout: float | None = None) -> bool:
        """The reactor's own: pass, or stay until ``set``."""
        with self._condition:
            self._waiting = True
            self._condition.notify_all()
            passed = self._condition.wait_for(lambda: self._open, timeout)
            self._waiting = False
            return passed


def mend_pauses(association: Any) -> None:
    """Give an association of pynetdicom, just established, a checkpoint that holds."""
    association._reactor_checkpoint = ReactorCheckpoint(association)  # noqa: SLF001 - its own is the fault
