"""What every part meets: the time, health, memory, and parts that load late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from typing import Any, Protocol

Buffer = bytes | bytearray | memoryview


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


def at_first_call(reference: str) -> Callable[..., Any]:
    """A function by its name (``package.module:function``), imported when it is first called: a
    process loads only the parts that it runs."""
    module, _, name = reference.partition(":")

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **named)

    return call
