"""What every part meets: the time, health, memory, and parts that load late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from typing import Any, Protocol

Buffer = bytes | bytearray | memoryview

_importing = threading.RLock()


class Clock(Protocol):
    """The time; the only way to ask for it."""

    def now(self) -> datetime:
        """UTC, timezone-aware."""
        ...


class HealthState(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """How a component is, and since when."""

    state: HealthState
    detail: str
    since: datetime


@contextmanager
def importing() -> Iterator[None]:
    """Only one thread of a process loads parts at a time.

    Where two import modules that import each other (as those of pydicom do), Python breaks the
    tie by giving one of them a module that is half made (``importlib._bootstrap._ModuleLock``),
    and what fails then stays broken as long as the process lives.
    """
    with _importing:
        yield


def at_first_call(reference: str) -> Callable[..., Any]:
    """A function by its name (``package.module:function``), imported when it is first called: a
    process loads only the parts that it runs. Thread-safe (`importing`)."""
    module, _, name = reference.partition(":")
    is_loaded = False

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal is_loaded
        if not is_loaded:
            with importing():
                import_module(module)
            is_loaded = True
        return getattr(import_module(module), name)(*arguments, **named)

    return call
