"""From tensors to findings: the part ``output`` of a model card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hub.domain.coding import Code
from hub.domain.critical import CriticalRule
from hub.domain.model_steps import STRICT, PostprocessingStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """Sentences for people; ``{value}`` is replaced by the number."""

    positive: str = ""
    negative: str = ""
    indeterminate: str = ""
    not_assessable: str = ""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationSpec:
    """Where a finding lies: points that the model gives in voxels of its own input. They find
    their way back through the preprocessing to a pixel of a source image.

    A voxel coordinate is an index: (slice, row, column) of a volume, (row, column) of an image;
    the centre of the first voxel is 0, its edges are -0.5 and 0.5.
    """

    output: str
    """An output of the graph or a derived value: the points, one after another, in any shape."""
    graphic: Literal["point", "polyline", "rectangle", "ellipse", "circle"]
    """``point``: one. ``polyline``: two or more; closed where the last is the first.
    ``rectangle``: two opposite corners of a box; it is drawn on the slice in its middle.
    ``ellipse``: the ends of the major axis, then those of the minor one. ``circle``: the centre
    and a point of the perimeter. All points but a box's lie on one source image."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarFinding:
    """A number from an output tensor becomes a measurement."""

    kind: Literal["measurement"]
    output: str
    """``name`` or ``name[index]`` of a graph output or a derived value."""
    code: Code
    unit: Code
    tracking_identifier: str
    finding_site: Code | None = None
    laterality: Code | None = None
    segments: tuple[int, ...] = ()
    decimals: int = 1
    valid_range: tuple[float, float] | None = None
    """Values outside it are refused as a broken result."""
    statement: str = ""
    location: LocationSpec | None = None
    """Where it was measured."""
    observations: tuple[str, ...] = ()
    """Names of the measured values that it rests on; left out: all that the model is given."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceFinding:
    """A probability becomes present or absent, with a band in between if wanted."""

    kind: Literal["presence"]
    output: str
    code: Code
    threshold: float
    indeterminate_below: float | None = None
    """Values from here up to the threshold are indeterminate."""
    tracking_identifier: str
    finding_site: Code | None = None
    laterality: Code | None = None
    segments: tuple[int, ...] = ()
    statements: Statements = field(default_factory=Statements)
    location: LocationSpec | None = None
    """Where it lies; left out of a finding that is absent."""
    observations: tuple[str, ...] = ()
    """Names of the measured values that it rests on; left out: all that the model is given."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFinding:
    """The most probable of several classes becomes a coded value."""

    kind: Literal["class"]
    output: str
    """A vector of probabilities."""
    code: Code
    classes: tuple[Code, ...]
    tracking_identifier: str
    finding_site: Code | None = None
    minimum_probability: float = 0.0
    """Below it the answer is not assessable."""
    has_probabilities: bool = True
    """``false``: the vector only marks the class, and no probability is reported."""
    statement: str = ""
    location: LocationSpec | None = None
    """What was classified."""
    observations: tuple[str, ...] = ()
    """Names of the measured values that it rests on; left out: all that the model is given."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionMeasurement:
    """A number that the model gives for each box."""

    output: str
    """One number for each box, in their order."""
    code: Code
    unit: Code
    decimals: int = 1
    statement: str = ""
    """``{value}`` is replaced by the number."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionsFinding:
    """Boxes with scores become findings of their own: those whose score reaches the threshold are
    present, the highest score first, and where there is none one finding says so."""

    kind: Literal["detections"]
    output: str
    """The boxes, a row for each: one corner, then the opposite one, in voxels as for a location:
    six numbers (slice, row, column twice) of a volume, four of an image."""
    scores: str
    """A probability for each box."""
    code: Code
    """What is looked for; also of the finding that says that there is none."""
    classes: str = ""
    """A whole number for each box: its place in ``class_codes``, counted from 0."""
    class_codes: tuple[Code, ...] = ()
    """What a box shows, where the model tells several things apart."""
    threshold: float
    indeterminate_below: float | None = None
    """Scores from here up to the threshold are indeterminate findings."""
    maximum: int = 100
    """More findings than this are refused as a broken result."""
    graphic: Literal["rectangle", "ellipse"] = "rectangle"
    """How a box is drawn."""
    measurements: tuple[DetectionMeasurement, ...] = ()
    tracking_identifier: str
    """The findings are numbered after it: ``nodule 1``, ``nodule 2``."""
    finding_site: Code | None = None
    laterality: Code | None = None
    statements: Statements = field(default_factory=Statements)
    """``{value}`` is the score, ``{number}`` the number of the finding."""
    __pydantic_config__ = STRICT


FindingSpec = ScalarFinding | PresenceFinding | ClassFinding | DetectionsFinding


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec:
    """One label of the label map."""

    number: int
    label: str
    category: Code
    property_type: Code
    recommended_display_rgb: tuple[int, int, int]
    includes: tuple[int, ...] = ()
    """Label values that also belong to this segment (nested structures)."""
    tracking_identifier: str
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilitiesSpec:
    """A float32 output with a probability, 0 to 1, for each segment and voxel (nearest neighbour
    on the source images' grid; 0 for what the model did not see)."""

    output: str
    axes: str
    """Axes of the output, e.g. ``1 segment slice row column``; with one segment the axis
    ``segment`` may be left out."""
    channels: tuple[int, ...] = ()
    """Which place of the axis ``segment``, counted from 0, belongs to each segment, in their
    order; left out: the first to the first. With a channel for the background: ``[1, 2]``."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSpec:
    """A label-map output becomes a segmentation on the source images' grid."""

    output: str
    axes: str
    """Axes of the output, e.g. ``1 1 slice row column``."""
    segments: tuple[SegmentSpec, ...]
    probabilities: ProbabilitiesSpec | None = None
    """How sure the model is of each voxel; left out, it does not say."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSpec:
    """A float32 output with a number for every voxel becomes a parametric map on the source
    images' grid (nearest neighbour)."""

    output: str
    axes: str
    """Axes of the output, e.g. ``1 1 slice row column``."""
    quantity: Code
    """What is measured."""
    unit: Code
    """UCUM."""
    label: str
    """What the map is called; different for each map of a model."""
    finding_site: Code | None = None
    outside: float = 0.0
    """The value of voxels that the model did not see (cropped away)."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAssessableWhen:
    """The model says itself that it cannot answer."""

    output: str
    """A scalar; the result is not assessable when it is below ``minimum``."""
    minimum: float
    reason: str
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """From tensors to findings."""

    postprocessing: tuple[PostprocessingStep, ...] = ()
    not_assessable: tuple[NotAssessableWhen, ...] = ()
    findings: tuple[FindingSpec, ...]
    region: RegionSpec | None = None
    maps: tuple[MapSpec, ...] = ()
    critical: tuple[CriticalRule, ...] = ()
    """Which findings a person has to know at once; a route may say otherwise."""
    statements: Statements = field(default_factory=Statements)
    __pydantic_config__ = STRICT
