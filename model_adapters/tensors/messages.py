"""What goes through the pipe between a worker process and its parent, which needs neither the
runtime of the models nor what reads their input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.domain.finding import Finding, FramePlace, Segment
from hub.domain.inference import ModelKey, Outcome, Timing
from hub.domain.model_output import OutputSpec
from hub.domain.study import Location
from hub.errors import (
    CaidxError,
    ConfigError,
    ConfigProblem,
    TransientError,
    UnsuitableError,
)
from hub.ports import ModelPackage


@dataclass(frozen=True, slots=True)
class EngineKind:
    """How a worker opens models; by name, because its parent needs nothing of it."""

    name: str
    opener: str
    """``package.module:function`` of an `OpenEngine`."""
    settings: Any = field(default=None, repr=False)
    """What the opener gets besides the package; pickles. It may hold secrets."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use."""

    decoder_threads: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Load:
    package: ModelPackage


@dataclass(frozen=True, slots=True)
class Unload:
    models: frozenset[ModelKey]


@dataclass(frozen=True, slots=True)
class Measured:
    """The input of a model of measured values; NaN is what nobody knows."""

    values: Mapping[str, float] = field(repr=False)
    """By their names in the manifest, in its units."""
    age_years: float = field(repr=False)
    is_female: float = field(repr=False)
    """1 or 0."""
    observation_ids: Mapping[str, str]
    """Which value is of which observation."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request: the files of its series, slices in order where the index knows it; or measured
    values."""

    model: ModelKey
    study_instance_uid: str
    instances: tuple[tuple[str, Location], ...]
    """SOP Instance UID and place of each."""
    voxels: str
    """Name of the shared memory for voxels; empty where none are wanted."""
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Ready, loaded or unloaded."""

    version: str = ""
    """Of the engine that was loaded; see `model_adapters.tensors.engine.Engine`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How voxels lie in the shared memory: the maps, 4 bytes for a voxel, then the label map,
    then the probabilities of each segment, 1 byte each."""

    maps: int
    labels: int
    """1 or 0."""
    probabilities: int

    def size(self, voxels: int) -> int:
        """Bytes in all."""
        return voxels * (4 * self.maps + self.labels + self.probabilities)

    def map(self, index: int, voxels: int) -> slice:
        """The bytes of a map."""
        return slice(4 * index * voxels, 4 * (index + 1) * voxels)

    def label_map(self, voxels: int) -> slice:
        """The bytes of the label map."""
        begin = 4 * self.maps * voxels
        return slice(begin, begin + self.labels * voxels)

    def all_probabilities(self, voxels: int) -> slice:
        """The bytes of the probabilities, segment after segment."""
        begin = (4 * self.maps + self.labels) * voxels
        return slice(begin, begin + self.probabilities * voxels)


def layout_of(output: OutputSpec) -> Layout:
    """What a model gives voxels for."""
    region = output.region
    has_probabilities = region is not None and region.probabilities is not None
    return Layout(
        maps=len(output.maps),
        labels=int(region is not None),
        probabilities=len(region.segments) if region is not None and has_probabilities else 0,
    )


@dataclass(frozen=True, slots=True)
class VoxelShape:
    """The source images of the voxels that lie in the shared memory."""

    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    segments: tuple[Segment, ...]
    """Of the label map; empty where there is none."""
    includes: tuple[tuple[int, tuple[int, ...]], ...]
    frames: tuple[FramePlace, ...] = ()
    """As in ``Region``."""

    @property
    def voxels(self) -> int:
        """How many there are."""
        return len(self.sop_instance_uids) * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Answered:
    outcome: Outcome
    findings: tuple[Finding, ...]
    voxels: VoxelShape | None
    """None where the model gives none, or no answer."""
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    timings: tuple[Timing, ...]
    version: str = ""
    """Of the engine that answered."""
    ran_on: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error on its way to the parent, in parts that pickle."""

    kind: type[Exception]
    message: str
    reasons: tuple[str, ...] = ()
    problems: tuple[ConfigProblem, ...] = ()
    retry_after: float | None = None

    @classmethod
    def of(cls, error: CaidxError) -> Failed:
        """An error that was raised on purpose."""
        return cls(
            type(error),
            str(error),
            reasons=error.reasons if isinstance(error, UnsuitableError) else (),
            problems=error.problems if isinstance(error, ConfigError) else (),
            retry_after=error.retry_after if isinstance(error, TransientError) else None,
        )

    def raise_again(self) -> None:
        """The same error as in the worker."""
        if self.kind is UnsuitableError:
            raise UnsuitableError(self.reasons)
        if self.kind is ConfigError:
            raise ConfigError(self.problems)
        if self.kind is TransientError:
            raise TransientError(self.message, retry_after=self.retry_after)
        raise self.kind(self.message)
