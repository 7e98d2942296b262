"""The named steps of a model card: what happens to the pixels before the graph, and to its
outputs after it. ``kind`` tells the steps apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hub.domain.coding import Code

STRICT = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}
"""How manifests are validated: unknown fields are refused, numbers are finite."""

# --- preprocessing steps -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """Stored values to modality units (PS3.3 C.11.1); refuses when the rescale is missing
    or its type is not the one named."""

    kind: Literal["rescale"]
    unit: str
    """Expected RescaleType; ``HU`` also accepts an absent type on CT."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Monochrome2:
    """Invert MONOCHROME1 so that larger means brighter: x becomes lowest + highest value that
    the stored bits can hold - x. Comes before steps that change values, except ``rescale``;
    refuses colour and contradictions to PresentationLUTShape."""

    kind: Literal["monochrome2"]
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A grey-scale image as it wants to be shown, 0 (black) to 1 (white): its modality LUT or
    rescale, its first VOI LUT or else its first window, MONOCHROME1 inverted. Comes first;
    refuses where the header has neither, or contradicts itself (PS3.3 C.11)."""

    kind: Literal["present"]
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorient:
    """Turn and flip the axes to a patient orientation, e.g. ``HAR`` or ``FPL``: the direction in
    which index 0, 1, 2 (slice, row, column) grows."""

    kind: Literal["reorient"]
    to: str
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Resample:
    """Linear resampling to a voxel spacing in mm (slice, row, column)."""

    kind: Literal["resample"]
    spacing_mm: tuple[float, ...]
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Linear resampling of each plane to (rows, columns)."""

    kind: Literal["resize"]
    shape: tuple[int, int]
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Map [centre - width/2, centre + width/2] to [0, 1], clipped."""

    kind: Literal["window"]
    centre: float
    width: float
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    kind: Literal["clip"]
    minimum: float
    maximum: float
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """(x - mean) / standard_deviation; ``per: input`` computes both from the input."""

    kind: Literal["normalise"]
    per: Literal["constant", "input"] = "constant"
    mean: float = 0.0
    standard_deviation: float = 1.0
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class RankNormalise:
    """Replace each sample by its rank, scaled to [-1, 1] (waveforms)."""

    kind: Literal["rank_normalise"]
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOrPad:
    """Centre crop or pad each axis to a shape."""

    kind: Literal["crop_or_pad"]
    shape: tuple[int, ...]
    value: float = 0.0
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectLead:
    """One channel of a waveform by its source code (CID 3001), in millivolt."""

    kind: Literal["select_lead"]
    lead: Code
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampleRate:
    """Resample a waveform to a sampling frequency in Hz."""

    kind: Literal["resample_rate"]
    frequency_hz: float
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSeconds:
    """The first seconds of a waveform; refuses a shorter one."""

    kind: Literal["take_seconds"]
    seconds: float
    __pydantic_config__ = STRICT


PreprocessingStep = (
    Rescale
    | Monochrome2
    | Present
    | Reorient
    | Resample
    | Resize
    | Window
    | Clip
    | Normalise
    | RankNormalise
    | CropOrPad
    | SelectLead
    | ResampleRate
    | TakeSeconds
)

# --- postprocessing steps ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Softmax over the last axis of an output, into a derived value."""

    kind: Literal["softmax"]
    output: str
    to: str
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOverSamples:
    """Mean over all axes but the last, into a derived vector."""

    kind: Literal["mean_over_samples"]
    output: str
    to: str
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgIntervals:
    """Per-sample wave classes (other, P, QRS, T) to median RR, PR, QRS, QT in ms and the number of
    beats: derived values ``rr_ms``, ``pr_ms``, ``qrs_ms``, ``qt_ms``, ``beats``."""

    kind: Literal["ecg_intervals"]
    output: str
    frequency_hz: float
    __pydantic_config__ = STRICT


PostprocessingStep = Softmax | MeanOverSamples | EcgIntervals
