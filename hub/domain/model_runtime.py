"""Where and how a model runs: the part ``runtime`` of a model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hub.domain.model_steps import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file of the package, pinned by its digest."""

    path: str
    """Relative to the manifest, inside the package; or ``python:<package>/<path>`` for a file
    that an installed Python distribution ships."""
    sha256: str
    """SHA-256, 64 hexadecimal digits."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBinding:
    """What one input of the graph is fed with."""

    name: str
    """Name of the graph's input."""
    feed: Literal["data", "spacing_mm", "frequency_hz"] = "data"
    """``data``: the preprocessed array; ``spacing_mm``: its voxel size, float32 (3,) slice, row,
    column or (2,) row, column; ``frequency_hz``: its sampling frequency, float32 (1,)."""
    axes: str = ""
    """For ``data``: shape with named axes, e.g. ``1 1 slice row column`` or ``1 sample``; each
    axis of the data once, in any order; 1 adds an axis."""
    dtype: Literal["float32", "int16", "uint8"] = "float32"
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """Run an ONNX graph in a local worker process."""

    kind: Literal["onnx"]
    graph: Artefact
    external_data: tuple[Artefact, ...] = ()
    """Files that hold the graph's external tensors; each is pinned like the graph."""
    inputs: tuple[TensorBinding, ...]
    timeout_seconds: float = 120.0
    concurrency: int = 1
    """Most requests of this model at once, on all hosts together."""
    __pydantic_config__ = STRICT


Runtime = OnnxRuntime
