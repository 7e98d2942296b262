"""What a model found: the vendor-neutral result, before any encoding.

Findings that share a ``tracking_uid`` describe the same thing and become one
measurement group (PS3.16 TID 1411/1501; FHIR ``Observation.hasMember``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from hub.domain.coding import Code


class Presence(StrEnum):
    """The answer to "is it there?"; ``not-assessable`` is never "no"."""

    PRESENT = "present"
    ABSENT = "absent"
    INDETERMINATE = "indeterminate"
    NOT_ASSESSABLE = "not-assessable"


@dataclass(frozen=True, slots=True)
class Evidence:
    """An image (or waveform) that a finding rests on."""

    sop_instance_uid: str
    frame_numbers: tuple[int, ...] = ()
    """1-based; empty means the whole instance."""


class GraphicType(StrEnum):
    """(0070,0023) Graphic Type of a spatial coordinate (PS3.3 C.18.6.1.1)."""

    POINT = "POINT"
    MULTIPOINT = "MULTIPOINT"
    POLYLINE = "POLYLINE"
    """Closed where the last point is the first one."""
    CIRCLE = "CIRCLE"
    """The centre, and a point of the perimeter."""
    ELLIPSE = "ELLIPSE"
    """The end points of the major axis, then those of the minor axis."""


_FEWEST_POINTS = {
    GraphicType.POINT: 1,
    GraphicType.MULTIPOINT: 1,
    GraphicType.POLYLINE: 2,
    GraphicType.CIRCLE: 2,
    GraphicType.ELLIPSE: 4,
}
_EXACTLY = (GraphicType.POINT, GraphicType.CIRCLE, GraphicType.ELLIPSE)


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where on one image (or frame) a finding lies."""

    graphic_type: GraphicType
    sop_instance_uid: str
    points: tuple[tuple[float, float], ...]
    """(column, row) in pixels; 0.0, 0.0 is the outer corner of the top left pixel, whose centre
    is 0.5, 0.5 (PS3.3 C.18.6.1.2)."""
    frame_number: int | None = None
    """1-based; None for an image of one frame."""

    def __post_init__(self) -> None:
        needed, there = _FEWEST_POINTS[self.graphic_type], len(self.points)
        if there < needed or (self.graphic_type in _EXACTLY and there != needed):
            raise ValueError(f"{self.graphic_type} has {needed} points, not {there}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement: a presence, or a value with its unit, or a coded value."""

    tracking_uid: str
    tracking_identifier: str
    code: Code
    """What was looked for or measured."""
    presence: Presence | None = None
    value: float | None = None
    unit: Code | None = None
    """UCUM; required with ``value``."""
    coded_value: Code | None = None
    """A qualitative answer, e.g. a rhythm class."""
    probability: float | None = None
    """0 to 1, the model's own confidence."""
    finding_site: Code | None = None
    laterality: Code | None = None
    evidence: tuple[Evidence, ...] = ()
    segment_numbers: tuple[int, ...] = ()
    """Segments of the result's region that this finding describes; empty where none."""
    statement: str = ""
    """A sentence for people, from the manifest."""
    locations: tuple[ImageLocation, ...] = ()
    """Where it lies; each on an image that ``evidence`` names too."""
    derived_from: tuple[str, ...] = ()
    """``observation_id`` of the measured values that it rests on; of the request's study."""
    critical: bool = False
    """A person has to know at once, by the rules of the model or the route (`hub.domain.critical`);
    set by the hub, never by an adapter."""

    def __post_init__(self) -> None:
        answers = [x for x in (self.presence, self.value, self.coded_value) if x is not None]
        if len(answers) != 1:
            raise ValueError("a finding has exactly one of presence, value, coded_value")
        if (self.value is None) != (self.unit is None):
            raise ValueError("value and unit belong together")
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability must lie between 0 and 1")


class SegmentAlgorithmType(StrEnum):
    """(0062,0008) Segment Algorithm Type."""

    AUTOMATIC = "AUTOMATIC"
    SEMIAUTOMATIC = "SEMIAUTOMATIC"


@dataclass(frozen=True, slots=True)
class Segment:
    """One labelled structure of a region (PS3.3 C.8.20.4)."""

    number: int
    """1-based; the value of its voxels in the label map."""
    label: str
    category: Code
    """(0062,0003) Segmented Property Category."""
    property_type: Code
    """(0062,000F) Segmented Property Type."""
    tracking_uid: str
    tracking_identifier: str
    recommended_display_rgb: tuple[int, int, int]
    """0 to 255 each; encoders convert it to CIELab."""


@dataclass(frozen=True, slots=True)
class FramePlace:
    """A frame of a multi-frame image, and where it lies: the index of instances does not know
    what stands in functional groups (PS3.3 C.7.6.16). ``None`` where the object does not say."""

    number: int
    """1-based."""
    image_position_patient: tuple[float, float, float] | None = None
    image_orientation_patient: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None
    slice_thickness: float | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """Voxels on the grid of the source images.

    ``planes[i]`` lies on the image ``sop_instance_uids[i]`` and has its rows and columns.
    The bytes are kept opaque here (the domain knows no arrays): ``labels`` is a C-ordered
    uint8 buffer of shape (len(sop_instance_uids), rows, columns), the value being the
    number of the segment, 0 for none. A voxel of ``nested`` segments counts for its
    parent too: ``includes`` says which numbers make up each segment.
    """

    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    labels: bytes = field(repr=False)
    segments: tuple[Segment, ...]
    includes: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """(segment number, label values that belong to it); a segment not named has its own."""
    frames: tuple[FramePlace, ...] = field(default=(), repr=False)
    """For planes of multi-frame images: the frame that each plane lies on, whose image stands
    at the same place in ``sop_instance_uids``. Empty where every plane is an image of its own."""
    probabilities: bytes = field(default=b"", repr=False)
    """C-ordered uint8 buffer of shape (len(segments), len(sop_instance_uids), rows, columns): how
    sure the model is of each voxel, 255 standing for 1. Empty where it does not say."""

    def __post_init__(self) -> None:
        if self.frames and len(self.frames) != len(self.sop_instance_uids):
            raise ValueError("every plane lies on a frame, or none does")
        voxels = len(self.sop_instance_uids) * self.rows * self.columns
        if self.labels and len(self.labels) != voxels:
            raise ValueError("labels do not fill the planes")
        if self.probabilities and len(self.probabilities) != voxels * len(self.segments):
            raise ValueError("probabilities do not fill the planes of every segment")

    @property
    def is_drawn(self) -> bool:
        """Its voxels are here; a result that is read from the record has them no more: they are
        in the segmentation that was made of them."""
        return bool(self.labels)

    def without_voxels(self) -> Region:
        """The same, as the record keeps it."""
        return replace(self, labels=b"", probabilities=b"")

    def values_of(self, number: int) -> tuple[int, ...]:
        """The label values that belong to a segment."""
        return dict(self.includes).get(number, (number,))


@dataclass(frozen=True, slots=True)
class ParametricMap:
    """A number for every voxel, on the grid of the source images (PS3.3 A.75)."""

    sop_instance_uids: tuple[str, ...]
    """``values[i]`` lies on the image ``sop_instance_uids[i]``."""
    rows: int
    columns: int
    values: bytes = field(repr=False)
    """C-ordered little-endian float32 buffer of shape (len(sop_instance_uids), rows, columns);
    empty in a result that is read from the record."""
    quantity: Code
    """What is measured."""
    unit: Code
    """UCUM."""
    label: str
    finding_site: Code | None = None
    frames: tuple[FramePlace, ...] = field(default=(), repr=False)
    """As in `Region`."""

    def __post_init__(self) -> None:
        numbers = len(self.sop_instance_uids) * self.rows * self.columns
        if self.values and len(self.values) != 4 * numbers:
            raise ValueError("values do not fill the planes")

    def without_voxels(self) -> ParametricMap:
        """The same, as the record keeps it."""
        return replace(self, values=b"")
