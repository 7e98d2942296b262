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
    feed: Literal["data", "spacing_mm", "frequency_hz", "observation", "age_years", "is_female"] = (
        "data"
    )
    """``data``: the preprocessed array; ``spacing_mm``: its voxel size, float32 (3,) slice, row,
    column or (2,) row, column; ``frequency_hz``: its sampling frequency, float32 (1,).
    ``observation``: the measured value of that name, float32 (1,), NaN where it may be missing;
    ``age_years``: the patient's age, float32 (1,); ``is_female``: 1 or 0, float32 (1,)."""
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

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """Its files, the graph first."""
        return (self.graph, *self.external_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenInferenceRuntime:
    """Run a model on a server of the Open Inference Protocol, version 2, by REST: KServe, Triton,
    OpenVINO Model Server, MLServer, Ray Serve."""

    kind: Literal["open_inference"]
    url: str
    """Base URL; ``v2/models/...`` is below it."""
    model_name: str
    """What the server calls the model."""
    model_version: str = ""
    """Left out: the server's own choice, which is compared each time with the first."""
    inputs: tuple[TensorBinding, ...]
    tensors: Literal["json", "binary"] = "json"
    """How tensors travel; ``binary``: the binary tensor data extension."""
    timeout_seconds: float = 120.0
    concurrency: int = 1
    """Most requests of this model at once, on all hosts together."""
    __pydantic_config__ = STRICT

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """None: the files lie on the server."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorHttpRuntime:
    """Have a vendor's service answer, by the hub's own contract as JSON (docs/contract)."""

    kind: Literal["vendor_http"]
    url: str
    """Inference requests are posted here."""
    answer: Literal["sync", "poll", "webhook"] = "sync"
    """``sync``: in the response. ``poll``: 202 with a job, which the hub asks after. ``webhook``:
    202, and the vendor posts the signed result to the request's callback."""
    poll_seconds: float = 5.0
    """Between two questions, where the vendor's Retry-After does not say."""
    timeout_seconds: float = 60.0
    """For one exchange."""
    answer_within_seconds: float = 900.0
    """From the first question to the answer; then the request has failed."""
    concurrency: int = 4
    """Most requests of this model in exchange at once, on all hosts together; those that wait for
    an answer do not count."""
    __pydantic_config__ = STRICT

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """None: the vendor runs it."""
        return ()


TensorRuntime = OnnxRuntime | OpenInferenceRuntime
"""Those that are fed with tensors, and give tensors."""

Runtime = OnnxRuntime | OpenInferenceRuntime | VendorHttpRuntime
