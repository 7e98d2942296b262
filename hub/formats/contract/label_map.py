"""Regions in an answer of the contract: a label map on the grid of the images."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from hub.domain.finding import FramePlace, Region, Segment
from hub.errors import RejectedError
from hub.formats.contract.parts import (
    CodeMessage,
    FilledName,
    FrameNumber,
    GivenUid,
    SegmentNumber,
    Strict,
    Uid,
)

MOST_BYTES = 1 << 30
"""Of one array, once it is inflated."""
_HERE = "the answer: label_map"
"""Where an error is."""
_Colour = Annotated[int, Field(ge=0, le=255)]
_Pixels = Annotated[int, Field(ge=1, le=65535)]
DerivedUid = Callable[[str], str]
"""Tracking identifier -> tracking UID, for what brings none."""


class SegmentMessage(Strict):
    """One labelled structure (PS3.3 C.8.20.4)."""

    number: SegmentNumber
    """The value of its voxels."""
    label: FilledName
    """(0062,0005)"""
    category: CodeMessage
    """(0062,0003), e.g. `123037004, SCT, Anatomical Structure`."""
    property_type: CodeMessage
    """(0062,000F), e.g. `39607008, SCT, Lung`."""
    tracking_identifier: FilledName
    """As that of a finding."""
    tracking_uid: Uid | None = None
    """As that of a finding."""
    recommended_display_rgb: tuple[_Colour, _Colour, _Colour]
    """Red, green, blue."""
    label_values: Annotated[tuple[SegmentNumber, ...], Field(max_length=255)] = ()
    """The values whose voxels belong to it, where others are nested in it; left out: its own."""

    @classmethod
    def of(cls, segment: Segment, label_values: tuple[int, ...]) -> SegmentMessage:
        """From the domain."""
        return cls(
            number=segment.number,
            label=segment.label,
            category=CodeMessage.of(segment.category),
            property_type=CodeMessage.of(segment.property_type),
            tracking_identifier=segment.tracking_identifier,
            tracking_uid=segment.tracking_uid,
            recommended_display_rgb=segment.recommended_display_rgb,
            label_values=label_values,
        )

    def domain(self, derived: DerivedUid) -> Segment:
        """To the domain."""
        return Segment(
            number=self.number,
            label=self.label,
            category=self.category.domain(),
            property_type=self.property_type.domain(),
            tracking_uid=self.tracking_uid or derived(self.tracking_identifier),
            tracking_identifier=self.tracking_identifier,
            recommended_display_rgb=self.recommended_display_rgb,
        )


class FrameMessage(Strict):
    """Where a frame of a multi-frame image lies, from its functional groups (PS3.3 C.7.6.16)."""

    number: FrameNumber
    """1-based."""
    image_position_patient: tuple[float, float, float] | None = None
    """(0020,0032)"""
    image_orientation_patient: tuple[float, float, float, float, float, float] | None = None
    """(0020,0037)"""
    pixel_spacing: tuple[float, float] | None = None
    """(0028,0030)"""
    slice_thickness: float | None = None
    """(0018,0050)"""

    @classmethod
    def of(cls, place: FramePlace) -> FrameMessage:
        """From the domain."""
        return cls(
            number=place.number,
            image_position_patient=place.image_position_patient,
            image_orientation_patient=place.image_orientation_patient,
            pixel_spacing=place.pixel_spacing,
            slice_thickness=place.slice_thickness,
        )

    def domain(self) -> FramePlace:
        """To the domain."""
        return FramePlace(
            number=self.number,
            image_position_patient=self.image_position_patient,
            image_orientation_patient=self.image_orientation_patient,
            pixel_spacing=self.pixel_spacing,
            slice_thickness=self.slice_thickness,
        )


class LabelMapMessage(Strict):
    """For every voxel the number of its segment. The hub makes the DICOM segmentation of it; DICOM
    files of the vendor are for a later version of the contract."""

    sop_instance_uids: Annotated[tuple[GivenUid, ...], Field(min_length=1, max_length=65536)]
    """The image that each plane lies on."""
    frames: Annotated[tuple[FrameMessage, ...], Field(max_length=65536)] = ()
    """For planes of multi-frame images: the frame that each plane lies on. Otherwise left out."""
    rows: _Pixels
    """(0028,0010) of the images."""
    columns: _Pixels
    """(0028,0011) of the images."""
    labels: str
    """Base64 (RFC 4648 section 4) of a zlib stream (RFC 1950) of bytes: plane by plane, row by row,
    0 for no segment."""
    probabilities: str | None = None
    """The same for each segment in turn: how sure the model is of each voxel, 255 standing for 1.
    Left out where it does not say."""
    segments: Annotated[tuple[SegmentMessage, ...], Field(min_length=1, max_length=255)]

    @classmethod
    def of(cls, region: Region) -> LabelMapMessage:
        """From the domain."""
        values = dict(region.includes)
        return cls(
            sop_instance_uids=region.sop_instance_uids,
            frames=tuple(FrameMessage.of(place) for place in region.frames),
            rows=region.rows,
            columns=region.columns,
            labels=_packed(region.labels),
            probabilities=_packed(region.probabilities) if region.probabilities else None,
            segments=tuple(SegmentMessage.of(s, values.get(s.number, ())) for s in region.segments),
        )

    def domain(self, derived: DerivedUid, most_voxels: int) -> Region:
        """To the domain.

        Args:
            derived: see there.
            most_voxels: that the images of the examination have.

        Raises:
            RejectedError: what is packed is not what the other fields say; names the field.
        """
        voxels = len(self.sop_instance_uids) * self.rows * self.columns
        if voxels > most_voxels:
            raise RejectedError(
                "the answer: label_map: has more voxels than the images of the examination"
            )
        if self.frames and len(self.frames) != len(self.sop_instance_uids):
            raise RejectedError(
                "the answer: label_map.frames: must be as many as sop_instance_uids, or none"
            )
        probabilities = b""
        if self.probabilities is not None:
            sure = voxels * len(self.segments)
            probabilities = _unpacked(
                "the answer: label_map.probabilities", self.probabilities, sure
            )
        return Region(
            sop_instance_uids=self.sop_instance_uids,
            rows=self.rows,
            columns=self.columns,
            labels=_unpacked(f"{_HERE}.labels", self.labels, voxels),
            segments=tuple(segment.domain(derived) for segment in self.segments),
            includes=tuple((s.number, s.label_values) for s in self.segments if s.label_values),
            frames=tuple(frame.domain() for frame in self.frames),
            probabilities=probabilities,
        )


def _packed(array: bytes) -> str:
    return b64encode(zlib.compress(array)).decode("ascii")


def _unpacked(field: str, text: str, length: int) -> bytes:
    """Exactly so many bytes; a stream that would give more is not inflated any further."""
    if length > MOST_BYTES:
        raise RejectedError(f"{field}: more than {MOST_BYTES} bytes")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(b64decode(text, validate=True), length + 1)
    except ValueError:
        raise RejectedError(f"{field}: is not base64") from None
    except zlib.error:
        raise RejectedError(f"{field}: is not a zlib stream") from None
    if len(found) != length or not stream.eof or stream.unused_data:
        raise RejectedError(f"{field}: does not hold exactly {length} bytes")
    return found
