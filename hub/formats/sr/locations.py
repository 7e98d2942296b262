"""Where findings lie, as coordinates of structured reports (PS3.3 C.18.6 and C.18.9).

A location is written on its image (SCOORD), or in the space of the patient (SCOORD3D) where a
destination asks for it. In space it is only what the image's own header says: an image without a
place in a frame of reference has no location in space, and none is invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.coding import Code
from hub.domain.finding import FramePlace, GraphicType, ImageLocation
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Instance
from hub.formats.sr import codes as sr_codes
from hub.formats.sr import content as sr

MOST_POINTS = 5000
"""Of a line: three coordinates of each are what a value of VR FL can hold (65534 bytes)."""

_AREAS = (GraphicType.CIRCLE, GraphicType.ELLIPSE)


@dataclass(frozen=True, slots=True)
class Space:
    """What is known of the images that locations lie on."""

    instances: Mapping[str, Instance]
    """By SOP Instance UID."""
    frames: Mapping[tuple[str, int], FramePlace] = field(repr=False)
    """Places of frames of multi-frame images, where the result tells them."""
    in_space: bool
    """Locations are written as SCOORD3D."""

    @classmethod
    def of(cls, request: InferenceRequest, result: InferenceResult, *, in_space: bool) -> Space:
        drawn = (*((result.region,) if result.region is not None else ()), *result.maps)
        frames = {
            (uid, frame.number): frame
            for one in drawn
            for uid, frame in zip(one.sop_instance_uids, one.frames, strict=False)
        }
        return cls({i.sop_instance_uid: i for i in request.study.instances}, frames, in_space)

    def region(self, location: ImageLocation, name: Code = sr_codes.IMAGE_REGION) -> bytes | None:
        """The content item of one graphic; None where it is asked for in space and its image has
        no place there."""
        image = self.instances[location.sop_instance_uid]
        if self.in_space:
            return _in_space(location, image, self.frames, name)
        frames = (location.frame_number or 1,) if image.frames > 1 else ()
        source = sr.referenced_sop(image.sop_class_uid, image.sop_instance_uid, frames=frames)
        return sr.coordinates(name, location.graphic_type, location.points, source)


def single_graphics(locations: Sequence[ImageLocation]) -> list[ImageLocation]:
    """Each graphic once; a MULTIPOINT, which is no region (TID 1410), as its points; of a line with
    more than :data:`MOST_POINTS` points every n-th, and its last one."""
    graphics: dict[ImageLocation, None] = {}
    for location in locations:
        if location.graphic_type is GraphicType.MULTIPOINT:
            point = replace(location, graphic_type=GraphicType.POINT, points=location.points[:1])
            graphics |= {replace(point, points=(at,)): None for at in location.points}
        else:
            graphics[_thinned(location)] = None
    return list(graphics)


def _thinned(location: ImageLocation) -> ImageLocation:
    points = location.points
    if len(points) <= MOST_POINTS:
        return location
    step = -(-len(points) // (MOST_POINTS - 1))
    return replace(location, points=(*points[:-1:step], points[-1]))


def is_volume(graphics: Sequence[ImageLocation]) -> bool:
    """Do they outline one thing slice by slice (TID 1411): areas drawn alike, one on an image?"""
    images = {(one.sop_instance_uid, one.frame_number) for one in graphics}
    alike = len({one.graphic_type is GraphicType.POLYLINE for one in graphics}) == 1
    return len(graphics) == len(images) > 1 and alike and all(map(_is_area, graphics))


def _is_area(graphic: ImageLocation) -> bool:
    return graphic.graphic_type in _AREAS or _is_closed(graphic)


def _is_closed(graphic: ImageLocation) -> bool:
    is_line = graphic.graphic_type is GraphicType.POLYLINE
    return is_line and len(graphic.points) > 3 and graphic.points[0] == graphic.points[-1]  # noqa: PLR2004 - a triangle


def _in_space(
    location: ImageLocation,
    image: Instance,
    frames: Mapping[tuple[str, int], FramePlace],
    name: Code,
) -> bytes | None:
    place = _placed(image, location, frames)
    if place is None or not image.frame_of_reference_uid:
        return None
    points = place.points(location.points)
    graphic_type = str(location.graphic_type)
    if location.graphic_type in _AREAS:
        graphic_type, points = "ELLIPSE", place.ellipse(location)
    elif _is_closed(location):
        graphic_type = "POLYGON"
    triplets = [tuple(map(float, point)) for point in points]
    return sr.coordinates_in_space(name, graphic_type, triplets, image.frame_of_reference_uid)


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where pixels lie in the patient (PS3.3 C.7.6.2.1.1), in mm."""

    origin: NDArray[Any]
    """Centre of the first pixel."""
    across: NDArray[Any]
    """From one column to the next."""
    down: NDArray[Any]
    """From one row to the next."""

    def points(self, points: Sequence[tuple[float, float]]) -> NDArray[Any]:
        """(column, row), whose 0.5, 0.5 is the centre of the first pixel, to (x, y, z)."""
        pixels = np.asarray(points, np.float64) - 0.5
        placed: NDArray[Any] = self.origin + pixels @ np.stack([self.across, self.down])
        return placed

    def ellipse(self, location: ImageLocation) -> NDArray[Any]:
        """The ends of its axes, the major one first. Pixels need not be square: a circle of the
        image may be an ellipse in space, with other axes."""
        centre, one, other = _half_diameters(location)
        spread = np.stack([self.across, self.down], axis=1) @ np.stack([one, other], axis=1)
        directions, lengths, _ = np.linalg.svd(spread, full_matrices=False)
        major, minor = directions[:, 0] * lengths[0], directions[:, 1] * lengths[1]
        [middle] = self.points([(float(centre[0]), float(centre[1]))])
        return np.stack([middle - major, middle + major, middle - minor, middle + minor])


def _half_diameters(location: ImageLocation) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Centre, and two half diameters that span the circle or ellipse, in pixels."""
    points = np.asarray(location.points, np.float64)
    if location.graphic_type is GraphicType.CIRCLE:
        radius = float(np.hypot(*(points[1] - points[0])))
        return points[0], np.array([radius, 0.0]), np.array([0.0, radius])
    centre = points.mean(axis=0)
    return centre, (points[1] - points[0]) / 2, (points[3] - points[2]) / 2


def _placed(
    image: Instance, location: ImageLocation, frames: Mapping[tuple[str, int], FramePlace]
) -> _Plane | None:
    place: Instance | FramePlace | None = image
    if image.is_multi_frame:
        place = frames.get((image.sop_instance_uid, location.frame_number or 1))
    if (
        place is None
        or place.image_position_patient is None
        or place.image_orientation_patient is None
        or place.pixel_spacing is None
    ):
        return None
    between_rows, between_columns = place.pixel_spacing
    orientation = np.asarray(place.image_orientation_patient, np.float64)
    return _Plane(
        origin=np.asarray(place.image_position_patient, np.float64),
        across=orientation[:3] * between_columns,
        down=orientation[3:] * between_rows,
    )
