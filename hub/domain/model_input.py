"""What a model reads: the part ``input`` of a model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hub.domain.coding import Code
from hub.domain.model_steps import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorsInput:
    """Earlier examinations of the same patient, given to the adapter beside the current one."""

    maximum: int = 1
    """At most so many, the newest."""
    minimum: int = 0
    """With fewer the model is not asked: the answer is ``unsuitable``."""
    same: tuple[Literal["modality", "body-part", "procedure"], ...] = ("modality",)
    """In what they have to be like the current series: ``modality``, ``body-part``
    (BodyPartExamined), ``procedure`` (StudyDescription)."""
    maximum_age_days: int | None = None
    """At most so many days before the current examination."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInput:
    """One series of parallel slices as a 3-D grid."""

    kind: Literal["volume"]
    spacing_tolerance: float = 0.01
    """Largest allowed relative deviation of the distance between neighbouring slices."""
    priors: PriorsInput | None = None
    """Left out: the model gets none, and none are looked for."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """One image: a projection image, or one frame of a multi-frame object."""

    kind: Literal["image"]
    frame: Literal["only", "first", "middle", "last"] | int = "only"
    """Which frame of a multi-frame object, by name or by its number from 1 on; ``only`` refuses
    an object that has several. Of an even number the earlier one is in the middle."""
    colour: Literal["refuse", "rgb", "luminance"] = "refuse"
    """``rgb``: red, green, blue of 8 bits with the axis ``channel``; palette and YBR colours are
    converted, grey-scale is refused. ``luminance``: colour becomes grey of 8 bits."""
    spacing: Literal["patient", "detector"] = "patient"
    """Which distances count as millimetres. ``patient``: PixelSpacing where it is a distance in
    the patient; of projection images not the uncalibrated one at the detector. ``detector``: that
    one too (ImagerPixelSpacing), with a warning: lengths are magnified."""
    priors: PriorsInput | None = None
    """Left out: the model gets none, and none are looked for."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveformInput:
    """One waveform object, its first multiplex group."""

    kind: Literal["waveform"]
    minimum_seconds: float = 0.0
    priors: PriorsInput | None = None
    """Left out: the model gets none, and none are looked for."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationSpec:
    """One measured value that the model needs."""

    name: str
    """What the graph calls it (``runtime.inputs[].name``), and people read where it is missing."""
    codes: tuple[Code, ...]
    """LOINC; any of them will do, the newest value counts."""
    unit: Code
    """UCUM; what the graph wants. Values in other units of the same kind are converted."""
    molar_mass: float | None = None
    """Grams per mole: amounts of substance are converted to mass and back with it."""
    maximum_age_days: float | None = None
    """Older values are not used, counted back from the order."""
    valid_range: tuple[float, float] | None = None
    """In ``unit``; a value outside is taken for an error, not for an illness."""
    required: bool = True
    """Without it the answer is ``unsuitable``; otherwise the graph gets NaN."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationsInput:
    """Measured values from the record, laboratory results above all."""

    kind: Literal["observations"]
    observations: tuple[ObservationSpec, ...]
    within_days: float | None = None
    """All values have to lie within so many days of each other; left out: it does not matter."""
    __pydantic_config__ = STRICT

    @property
    def priors(self) -> None:
        """There are none of values."""


InputSpec = VolumeInput | ImageInput | WaveformInput | ObservationsInput
