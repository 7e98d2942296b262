"""Which process holds a piece of work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from every other one that ever ran."""

    executor_id: str
    """Unique."""
    host_identity: str
    """Boot and PID namespace: process numbers mean something only within them."""
    pid: int
    process_started: str
    """Clock ticks since boot (proc(5), field 22 of /proc/<pid>/stat)."""
