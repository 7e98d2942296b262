"""Errors, named by what has to happen next.

    CaidxError
    ├── ConfigError       a person edits the configuration
    ├── TransientError    try again, after ``retry_after`` seconds
    │   └── JobLostError  try again from the start
    ├── RejectedError     the peer or the input is wrong: do not try again
    ├── UnsuitableError   outside the model's intended use: a result, not a fault
    └── IntegrityError    stop and call someone

Each protocol maps these to its own reply in its own ``status.py``.
Messages never hold patient data: they go to logs, metrics and peers.
"""

from __future__ import annotations

from dataclasses import dataclass


class CaidxError(Exception):
    """Base of every error that the hub raises on purpose."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration or manifest file."""

    file: str
    line: int
    """1-based line; 0 where the file as a whole is meant."""
    field: str
    """Dotted path, e.g. ``routes.0.when``."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message}"


class ConfigError(CaidxError):
    """The configuration or a manifest is wrong; every problem is listed."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class TransientError(CaidxError):
    """Nothing is wrong with the work itself; the same call may succeed later."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds the peer asked us to wait, where it said so."""


class JobLostError(TransientError):
    """Somebody else's job for us ended without an answer, or is not known there any more: to ask
    after it is of no use, to begin another one may be."""


class RejectedError(CaidxError):
    """The peer or the input is wrong: the same call can never succeed."""


class UnsuitableError(CaidxError):
    """The input is outside the model's intended use; ``reasons`` say why."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class IntegrityError(CaidxError):
    """Something that must never happen did: stop this piece of work and call a person."""


class LeftToRecoveryError(BaseException):
    """Raised by a job that has to stop unfinished: the worker that takes over runs it again.

    No ``Exception``, because the job engine takes each of those for the end of the job.
    """
