"""What a model found: the vendor-neutral result, before any encoding.

Findings that share a ``tracking_uid`` describe the same thing and become one
measurement group (PS3.16 TID 1411/1501; FHIR ``Observation.hasMember``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
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

    def __post_init__(self) -> None:
        if self.frames and len(self.frames) != len(self.sop_instance_uids):
            raise ValueError("every plane lies on a frame, or none does")
        if len(self.labels) != len(self.sop_instance_uids) * self.rows * self.columns:
            raise ValueError("labels do not fill the planes")

    def values_of(self, number: int) -> tuple[int, ...]:
        """The label values that belong to a segment."""
        return dict(self.includes).get(number, (number,))
