"""Where the planes of a segmentation lie: functional groups copied from the source images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hub.domain.study import Instance
from hub.errors import RejectedError
from hub.formats.dicom import writer as write

_EVEN_SPACING_TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True)
class Geometry:
    """Encoded functional groups; what all planes share stands in ``shared``."""

    frame_of_reference_uid: str
    """Empty for a projection image, which has no place in a patient's space."""
    shared: bytes
    per_plane: tuple[bytes, ...]
    """For each plane, in the order of the region's planes."""
    ranks: tuple[int, ...]
    """1-based place of each plane along the normal of the images."""


def geometry_of(images: Sequence[Instance]) -> Geometry:
    """The geometry of the images themselves; nothing is resampled or assumed.

    Raises:
        RejectedError: several images that do not share one frame of reference.
    """
    frames_of_reference = {image.frame_of_reference_uid for image in images if _placed(image)}
    if all(_placed(image) for image in images) and len(frames_of_reference) == 1:
        return _in_space(images, frames_of_reference.pop())
    if len(images) == 1:
        measures = _pixel_measures(images[0], None)
        return Geometry("", shared=measures, per_plane=(b"",), ranks=(1,))
    raise RejectedError("the images of the region do not share one frame of reference")


def _placed(image: Instance) -> bool:
    return bool(image.frame_of_reference_uid) and None not in (
        image.image_position_patient,
        image.image_orientation_patient,
        image.pixel_spacing,
    )


def _in_space(images: Sequence[Instance], frame_of_reference_uid: str) -> Geometry:
    distances = [_distance(image) for image in images]
    spacing = _even_spacing(distances)
    orientations = [_plane_orientation(image) for image in images]
    measures = [_pixel_measures(image, spacing) for image in images]
    same_orientation, same_measures = len(set(orientations)) == 1, len(set(measures)) == 1
    shared = (orientations[0] if same_orientation else b"") + (
        measures[0] if same_measures else b""
    )
    per_plane = tuple(
        _plane_position(image)
        + (b"" if same_orientation else orientation)
        + (b"" if same_measures else measure)
        for image, orientation, measure in zip(images, orientations, measures, strict=True)
    )
    rank_of = {d: rank for rank, d in enumerate(sorted(set(distances)), start=1)}
    return Geometry(frame_of_reference_uid, shared, per_plane, tuple(rank_of[d] for d in distances))


def _distance(image: Instance) -> float:
    """Signed distance in mm of the image from the origin, along its normal."""
    if image.image_orientation_patient is None or image.image_position_patient is None:
        raise RejectedError("an image has no place in space")
    (ax, ay, az, bx, by, bz) = image.image_orientation_patient
    (x, y, z) = image.image_position_patient
    return (ay * bz - az * by) * x + (az * bx - ax * bz) * y + (ax * by - ay * bx) * z


def _even_spacing(distances: Sequence[float]) -> float | None:
    """Distance in mm between neighbouring planes, where all are equally far apart."""
    ordered = sorted(distances)
    gaps = [after - before for before, after in pairwise(ordered)]
    if not gaps or min(gaps) <= 0 or max(gaps) - min(gaps) > _EVEN_SPACING_TOLERANCE_MM:
        return None
    return round(math.fsum(gaps) / len(gaps), 6)


def _plane_position(image: Instance) -> bytes:
    position = write.decimals(0x00200032, *(image.image_position_patient or ()))
    return write.sequence(0x00209113, [position])


def _plane_orientation(image: Instance) -> bytes:
    orientation = write.decimals(0x00200037, *(image.image_orientation_patient or ()))
    return write.sequence(0x00209116, [orientation])


def _pixel_measures(image: Instance, spacing: float | None) -> bytes:
    """(0028,9110), with what the image says; nothing where it says nothing."""
    measures = b""
    if image.slice_thickness is not None:
        measures += write.decimals(0x00180050, image.slice_thickness)
    if spacing is not None:
        measures += write.decimals(0x00180088, spacing)
    if image.pixel_spacing is not None:
        measures += write.decimals(0x00280030, *image.pixel_spacing)
    return write.sequence(0x00289110, [measures]) if measures else b""
