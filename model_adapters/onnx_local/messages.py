"""What goes through the pipe between a worker process and its parent, which needs neither the
runtime of the models nor what reads their input."""

from __future__ import annotations

from dataclasses import dataclass

from hub.domain.finding import Finding, FramePlace, Segment
from hub.domain.inference import ModelKey, Outcome, Timing
from hub.domain.study import Location
from hub.errors import ConfigError, ConfigProblem, UnsuitableError
from hub.ports import ModelPackage


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use."""

    graph_threads: int
    decoder_threads: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Load:
    package: ModelPackage


@dataclass(frozen=True, slots=True)
class Unload:
    models: frozenset[ModelKey]


@dataclass(frozen=True, slots=True)
class Run:
    """One request: the files of its series, slices in order where the index knows it."""

    model: ModelKey
    study_instance_uid: str
    instances: tuple[tuple[str, Location], ...]
    """SOP Instance UID and place of each."""
    labels: str
    """Name of the shared memory for the label map; empty where none is wanted."""


@dataclass(frozen=True, slots=True)
class Done:
    """Ready, loaded or unloaded."""


@dataclass(frozen=True, slots=True)
class RegionShape:
    """A label map that lies in the shared memory."""

    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    segments: tuple[Segment, ...]
    includes: tuple[tuple[int, tuple[int, ...]], ...]
    frames: tuple[FramePlace, ...] = ()
    """As in ``Region``."""


@dataclass(frozen=True, slots=True)
class Answered:
    outcome: Outcome
    findings: tuple[Finding, ...]
    region: RegionShape | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An error on its way to the parent, in parts that pickle."""

    kind: type[Exception]
    message: str
    reasons: tuple[str, ...] = ()
    problems: tuple[ConfigProblem, ...] = ()

    def raise_again(self) -> None:
        """The same error as in the worker."""
        if self.kind is UnsuitableError:
            raise UnsuitableError(self.reasons)
        if self.kind is ConfigError:
            raise ConfigError(self.problems)
        raise self.kind(self.message)
