"""A series to one array with a geometry, from files of one image or of many frames.

A volume's slices are parallel, equally spaced, in one orientation and not sheared; whatever
differs is refused with the reason and never straightened in silence (PS3.3 C.7.6.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import FramePlace
from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.image import RescalePerPlane, frame_place, pair_of, rescale_of, value_range
from hub.formats.images.image_header import MAXIMUM_VOXELS, ImageHeader
from hub.formats.images.pixel_codecs import check_decodable, decode_into, stored_dtype
from hub.formats.images.pixel_data import EncodedImage, read_object
from hub.ports import at_first_call

SAME_PLACE_MM = 1e-3
"""Slices nearer than this lie at the same position."""
_COSINE_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_LENGTH_TOLERANCE = 1e-3
_SHEAR_TOLERANCE = 0.1
"""Largest sideways drift over the whole volume, in pixels."""

_volume_geometry = at_first_call("highdicom:VolumeGeometry")


@dataclass(frozen=True, slots=True)
class Volume:
    """One series as a grid of stored values."""

    stored_values: NDArray[Any] = field(repr=False)
    """(slice, row, column); int16, uint16, int8 or uint8."""
    affine: NDArray[np.float64] = field(repr=False)
    """(4, 4): slice, row, column indices to mm in the patient (PS3.3 C.7.6.2.1.1)."""
    spacing_mm: tuple[float, float, float]
    """Distance of neighbours along slice, row, column index."""
    sop_instance_uids: tuple[str, ...]
    """One for each slice; those of a multi-frame image have the same."""
    modality: str
    photometric_interpretation: str
    rescale: RescalePerPlane | None
    warnings: tuple[str, ...] = ()
    frames: tuple[FramePlace, ...] = field(default=(), repr=False)
    """For each slice, where at least one of them is a frame of a multi-frame image."""
    slice_thicknesses_mm: tuple[float | None, ...] = field(default=(), repr=False)
    """SliceThickness of each slice."""
    value_range: tuple[int, int] | None = None
    """Lowest and highest stored value that its bits can hold (PS3.5 8.1.1)."""
    has_contrast: bool = False
    """Any of the files names a contrast agent."""
    frame_of_reference_uid: str = ""

    @property
    def geometry(self) -> Any:
        """``highdicom.VolumeGeometry``; made when it is asked for, which few models need."""
        return _volume_geometry(
            affine=self.affine,
            spatial_shape=self.stored_values.shape,
            coordinate_system="PATIENT",
            frame_of_reference_uid=self.frame_of_reference_uid or None,
        )


def read_volume(
    files: Iterable[bytes],
    count: int,
    *,
    spacing_tolerance: float,
    decoders: Executor | None = None,
) -> Volume:
    """Decode ``count`` files of one series, of one image or of many frames, into one volume.

    Files are taken one after another and dropped once decoded, so that a lazy iterable keeps
    one file in memory; compressed ones are decoded by ``decoders`` while the next is read.
    The order of the files does not matter, but slice order saves a copy.

    Args:
        spacing_tolerance: largest relative deviation of the distance between neighbours.

    Raises:
        UnsuitableError: the slices do not form a volume; every reason is given.
        RejectedError: a file cannot be decoded or contradicts the others.
    """
    filler = _Filler(count, decoders)
    try:
        for data in files:
            filler.add(read_object(data).frames)
        filler.wait()
    finally:
        filler.cancel()
    return _assembled(filler.headers, filler.planes(), spacing_tolerance)


class _Filler:
    """Decodes images into the planes of few arrays: one, where all files hold one image, or
    where one file holds all."""

    def __init__(self, count: int, decoders: Executor | None) -> None:
        self._files_left = count
        self._decoders = decoders
        self._pending: list[Future[None]] = []
        self._blocks: list[NDArray[Any]] = []
        self._free = 0
        """Planes of the last block that nothing was decoded into yet."""
        self.headers: list[ImageHeader] = []

    def planes(self) -> NDArray[Any]:
        """(planes, rows, columns), filled."""
        if self._files_left or not self._blocks:
            raise RejectedError(f"{self._files_left} images less than were announced")
        filled = [*self._blocks[:-1], self._blocks[-1][: len(self._blocks[-1]) - self._free]]
        return filled[0] if len(filled) == 1 else np.concatenate(filled)

    def add(self, frames: tuple[EncodedImage, ...]) -> None:
        if not self._files_left:
            raise RejectedError("more images than were announced")
        check_decodable(frames[0].header)
        self._reserve(len(frames), frames[0].header)
        self._files_left -= 1
        for image in frames:
            plane: NDArray[Any] = self._blocks[-1][len(self._blocks[-1]) - self._free]
            self._free -= 1
            self.headers.append(image.header)
            if image.compressed and self._decoders is not None:
                self._pending.append(self._decoders.submit(decode_into, image, plane))
            else:
                decode_into(image, plane)

    def _reserve(self, frames: int, header: ImageHeader) -> None:
        first = self.headers[0] if self.headers else header
        if (header.rows, header.columns) != (first.rows, first.columns):
            raise UnsuitableError(("the images of the series differ in rows and columns",))
        if stored_dtype(header) != stored_dtype(first):
            raise UnsuitableError(("the images of the series differ in their type of pixels",))
        if self._free >= frames:
            return
        if self._blocks:
            self._blocks[-1] = self._blocks[-1][: len(self._blocks[-1]) - self._free]
        # single-frame files are followed by their like
        size = frames if header.is_multi_frame else self._files_left
        if (len(self.headers) + size) * header.rows * header.columns > MAXIMUM_VOXELS:
            raise RejectedError(f"{size} slices of {header.rows} x {header.columns}")
        self._blocks.append(np.empty((size, header.rows, header.columns), stored_dtype(header)))
        self._free = size

    def wait(self) -> None:
        """Raises what went wrong in any of the decoders."""
        for future in self._pending:
            future.result()

    def cancel(self) -> None:
        """Leave nothing running that writes into the planes."""
        for future in self._pending:
            future.cancel()


def _assembled(
    headers: list[ImageHeader], planes: NDArray[Any], spacing_tolerance: float
) -> Volume:
    first = headers[0]
    _refuse_if(_differences(headers))
    row, column = _directions(first)
    normal = _cross(row, column)
    positions = np.array([header.image_position_patient for header in headers])
    depths = positions @ normal  # frames and files may come in any order
    order = np.argsort(depths, kind="stable")
    sideways = positions - np.outer(depths, normal)
    between_rows, between_columns = pair_of(first.pixel_spacing or ())
    _refuse_if(
        (
            *_shear(sideways[order], min(between_rows, between_columns)),
            *_unevenness(np.diff(depths[order]), spacing_tolerance),
        )
    )
    spacing, warnings = _slice_spacing(first, depths[order])
    in_order = [headers[index] for index in order]
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = in_order[0].image_position_patient
    return Volume(
        stored_values=_reordered(planes, order),
        affine=affine,
        spacing_mm=(spacing, between_rows, between_columns),
        sop_instance_uids=tuple(header.sop_instance_uid for header in in_order),
        modality=first.modality,
        photometric_interpretation=first.photometric_interpretation,
        rescale=rescale_of(in_order),
        warnings=warnings,
        frames=(
            tuple(map(frame_place, in_order)) if any(h.is_multi_frame for h in headers) else ()
        ),
        slice_thicknesses_mm=tuple(header.slice_thickness for header in in_order),
        value_range=value_range(first),
        has_contrast=any(header.has_contrast for header in headers),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )


def _refuse_if(reasons: tuple[str, ...]) -> None:
    if reasons:
        raise UnsuitableError(reasons)


def _differences(headers: list[ImageHeader]) -> tuple[str, ...]:
    """Reasons why the images cannot be slices of one volume, but for their positions."""
    first = headers[0]
    missing = [
        f"{sum(value is None for value in values)} of {len(headers)} images have no {keyword}"
        for keyword, values in {
            "ImagePositionPatient": [h.image_position_patient for h in headers],
            "ImageOrientationPatient": [h.image_orientation_patient for h in headers],
            "PixelSpacing": [h.pixel_spacing for h in headers],
        }.items()
        if None in values
    ]
    if missing:
        return tuple(missing)
    _check_lengths(headers)
    cosines = np.array([h.image_orientation_patient for h in headers])
    spacings = np.array([h.pixel_spacing for h in headers])
    found = []
    if np.abs(cosines - cosines[0]).max() > _COSINE_TOLERANCE:
        found.append("the images of the series are not parallel")
    if (np.abs(spacings - spacings[0]) > _SPACING_TOLERANCE * np.abs(spacings[0])).any():
        found.append("the images of the series differ in pixel spacing")
    for what, values in {
        "frame of reference": {h.frame_of_reference_uid for h in headers},
        "photometric interpretation": {h.photometric_interpretation for h in headers},
        "modality": {h.modality for h in headers},
        "series": {h.series_instance_uid for h in headers},
    }.items():
        if len(values) > 1:
            found.append(f"the images belong to more than one {what}")
    if len({(h.sop_instance_uid, h.frame_number) for h in headers}) != len(headers):
        raise RejectedError("the same image is given twice")
    pair_of(first.pixel_spacing or ())
    return tuple(found)


def _check_lengths(headers: list[ImageHeader]) -> None:
    for header in headers:
        position, orientation = header.image_position_patient, header.image_orientation_patient
        lengths = (len(position or ()), len(orientation or ()), len(header.pixel_spacing or ()))
        if lengths != (3, 6, 2):
            raise RejectedError("a position, orientation or spacing has a wrong count of values")
        values = (*(position or ()), *(orientation or ()), *(header.pixel_spacing or ()))
        if not all(map(math.isfinite, values)):
            raise RejectedError("a position, orientation or spacing is not a finite number")


def _directions(header: ImageHeader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and down a column (PS3.3 C.7.6.2.1.1)."""
    cosines = np.array(header.image_orientation_patient, dtype=np.float64)
    row, column = cosines[:3], cosines[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    is_unit = all(abs(length - 1.0) <= _LENGTH_TOLERANCE for length in lengths)
    if abs(row @ column) > _LENGTH_TOLERANCE or not is_unit:
        raise RejectedError("ImageOrientationPatient is not two orthogonal unit vectors")
    return row / lengths[0], column / lengths[1]


def _cross(row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
    """For two vectors ``np.cross`` takes twenty times as long."""
    (a, b, c), (d, e, f) = row.tolist(), column.tolist()
    return np.array((b * f - c * e, c * d - a * f, a * e - b * d))


def _shear(sideways: NDArray[np.float64], smallest_spacing: float) -> tuple[str, ...]:
    """``sideways``: (slices, 3) positions projected into the plane of the slices, mm."""
    drift = float(np.linalg.norm(sideways - sideways[0], axis=1).max())
    if drift <= _SHEAR_TOLERANCE * smallest_spacing:
        return ()
    reason = "the slices are not stacked at right angles to their plane (gantry tilt)"
    return (f"{reason}: they shift by {drift:.1f} mm sideways",)


def _unevenness(distances: NDArray[np.float64], tolerance: float) -> tuple[str, ...]:
    """``distances``: (slices - 1,) mm, not negative."""
    if not distances.size:
        return ()
    duplicates = int((distances < SAME_PLACE_MM).sum())
    if duplicates:
        return (f"{duplicates + 1} or more slices lie at the same position",)
    typical = float(np.median(distances))
    if float(np.abs(distances - typical).max()) <= tolerance * typical:
        return ()
    reason = "the slices are not equally spaced"
    extremes = f"{distances.min():.2f} to {distances.max():.2f} mm"
    return (f"{reason}: their distances vary from {extremes}",)


def _slice_spacing(
    header: ImageHeader, depths: NDArray[np.float64]
) -> tuple[float, tuple[str, ...]]:
    if len(depths) > 1:
        return float(depths[-1] - depths[0]) / (len(depths) - 1), ()
    if not header.slice_thickness or header.slice_thickness <= 0:
        raise UnsuitableError(("a single slice without SliceThickness has no extent",))
    return header.slice_thickness, (
        f"a single slice: its thickness of {header.slice_thickness:g} mm is taken as spacing",
    )


def _reordered(planes: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """Views where the files came in slice order or against it; otherwise a copy."""
    ascending = np.arange(len(order))
    if np.array_equal(order, ascending):
        return planes
    if np.array_equal(order, ascending[::-1]):
        return planes[::-1]
    return planes[order]
