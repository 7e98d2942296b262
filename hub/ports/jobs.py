"""Durable work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of durable work: one study revision, one inference request, one delivery attempt."""

    kind: str
    queue: str
    job_id: str
    """The same identifier is enqueued once."""
    argument: str
    partition: str | None = None
    """The line within the queue: a model, a destination."""
    priority: int = 1
    """Lower runs first."""
    delay_seconds: float = 0.0


AFTER_COMMIT = "caidx_after_commit"
"""Key in the ``info`` of a connection: calls that the database makes, without arguments, once the
transaction has committed, and never when it was rolled back."""


class Jobs(Protocol):
    """Puts jobs into the hub's own transactions."""

    def enqueue(self, connection: Any, job: Job) -> None:
        """The job will run if, and only if, the connection's transaction commits."""
        ...
