"""Images to arrays with a geometry: a series to a volume, a single file to an image.

A volume's slices are parallel, equally spaced, in one orientation and not sheared; whatever
differs is refused with the reason and never straightened in silence (PS3.3 C.7.6.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from highdicom import VolumeGeometry
from numpy.typing import NDArray

from hub.errors import RejectedError, UnsuitableError
from hub.formats.pixel_codecs import check_decodable, decode_into, stored_dtype
from hub.formats.pixel_data import EncodedImage, ImageHeader, read_image

MAXIMUM_VOXELS = 1 << 31
"""Most voxels of one volume, checked before anything is allocated: 8000 slices of 512 x 512."""
SAME_PLACE_MM = 1e-3
"""Slices nearer than this lie at the same position."""
_COSINE_TOLERANCE = 1e-4
_SHEAR_TOLERANCE = 0.1
"""Largest sideways drift over the whole volume, in pixels."""


@dataclass(frozen=True, slots=True)
class RescalePerPlane:
    """PS3.3 C.11.1: value = stored * slope + intercept, for each plane its own."""

    slope: NDArray[np.float64]
    """(planes,)"""
    intercept: NDArray[np.float64]
    """(planes,)"""
    type: str
    """RescaleType (0028,1054) or empty."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One series as a grid of stored values."""

    stored_values: NDArray[Any] = field(repr=False)
    """(slice, row, column); int16, uint16, int8 or uint8."""
    geometry: Any
    """``highdicom.VolumeGeometry``: slice, row, column indices to mm in the patient."""
    sop_instance_uids: tuple[str, ...]
    """One for each slice."""
    modality: str
    photometric_interpretation: str
    rescale: RescalePerPlane | None
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbours along slice, row, column index."""
        return tuple(float(value) for value in self.geometry.spacing)


@dataclass(frozen=True, slots=True)
class Image:
    """One single-frame image of stored values."""

    stored_values: NDArray[Any] = field(repr=False)
    """(row, column)"""
    spacing_mm: tuple[float, float] | None
    """PixelSpacing: distance of rows, of columns; ``None`` where the header has none."""
    sop_instance_uids: tuple[str, ...]
    modality: str
    photometric_interpretation: str
    rescale: RescalePerPlane | None
    warnings: tuple[str, ...] = ()


def read_single_image(data: bytes) -> Image:
    """Decode one image from a Part 10 file.

    Raises:
        UnsuitableError: a kind of image that is not read.
        RejectedError: it cannot be decoded.
    """
    encoded = read_image(data)
    header = encoded.header
    check_decodable(header)
    plane = np.empty((header.rows, header.columns), stored_dtype(header))
    decode_into(encoded, plane)
    spacing = header.pixel_spacing
    return Image(
        stored_values=plane,
        spacing_mm=None if spacing is None else _pair(spacing),
        sop_instance_uids=(header.sop_instance_uid,),
        modality=header.modality,
        photometric_interpretation=header.photometric_interpretation,
        rescale=_rescale([header]),
    )


def _pair(spacing: tuple[float, ...]) -> tuple[float, float]:
    if len(spacing) != 2 or min(spacing) <= 0:  # noqa: PLR2004 - rows and columns
        raise RejectedError("PixelSpacing is not two positive numbers")
    return spacing[0], spacing[1]


def read_volume(
    files: Iterable[bytes],
    count: int,
    *,
    spacing_tolerance: float,
    decoders: Executor | None = None,
) -> Volume:
    """Decode ``count`` single-frame images of one series into one volume.

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
            filler.add(read_image(data))
        filler.wait()
    finally:
        filler.cancel()
    return _assembled(filler.headers, filler.planes, spacing_tolerance)


class _Filler:
    """Decodes images into the planes of one array."""

    def __init__(self, count: int, decoders: Executor | None) -> None:
        self._count = count
        self._decoders = decoders
        self._pending: list[Future[None]] = []
        self._planes: NDArray[Any] | None = None
        self.headers: list[ImageHeader] = []

    @property
    def planes(self) -> NDArray[Any]:
        """(count, rows, columns), filled."""
        if self._planes is None or len(self.headers) != self._count:
            raise RejectedError(f"{len(self.headers)} images where {self._count} were announced")
        return self._planes

    def add(self, image: EncodedImage) -> None:
        plane = self._plane_for(image.header)
        self.headers.append(image.header)
        if image.compressed and self._decoders is not None:
            self._pending.append(self._decoders.submit(decode_into, image, plane))
        else:
            decode_into(image, plane)

    def _plane_for(self, header: ImageHeader) -> NDArray[Any]:
        check_decodable(header)
        if self._planes is None:
            if self._count * header.rows * header.columns > MAXIMUM_VOXELS:
                raise RejectedError(f"{self._count} slices of {header.rows} x {header.columns}")
            shape = (self._count, header.rows, header.columns)
            self._planes = np.empty(shape, stored_dtype(header))
        first = self.headers[0] if self.headers else header
        if (header.rows, header.columns) != (first.rows, first.columns):
            raise UnsuitableError(("the images of the series differ in rows and columns",))
        if stored_dtype(header) != stored_dtype(first):
            raise UnsuitableError(("the images of the series differ in their type of pixels",))
        if len(self.headers) == self._count:
            raise RejectedError(f"more than the {self._count} images that were announced")
        plane: NDArray[Any] = self._planes[len(self.headers)]
        return plane

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
    normal = np.cross(row, column)
    positions = np.array([header.image_position_patient for header in headers])
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    sideways = positions - np.outer(depths, normal)
    _refuse_if(
        (
            *_shear(sideways[order], _pair(first.pixel_spacing or ())),
            *_unevenness(np.diff(depths[order]), spacing_tolerance),
        )
    )
    spacing, warnings = _slice_spacing(first, depths[order])
    in_order = [headers[index] for index in order]
    return Volume(
        stored_values=_reordered(planes, order),
        geometry=_geometry(in_order, spacing),
        sop_instance_uids=tuple(header.sop_instance_uid for header in in_order),
        modality=first.modality,
        photometric_interpretation=first.photometric_interpretation,
        rescale=_rescale(in_order),
        warnings=warnings,
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
    if not np.allclose(spacings, spacings[0], rtol=1e-4, atol=0):
        found.append("the images of the series differ in pixel spacing")
    for what, values in {
        "frame of reference": {h.frame_of_reference_uid for h in headers},
        "photometric interpretation": {h.photometric_interpretation for h in headers},
        "modality": {h.modality for h in headers},
        "series": {h.series_instance_uid for h in headers},
    }.items():
        if len(values) > 1:
            found.append(f"the images belong to more than one {what}")
    if len({h.sop_instance_uid for h in headers}) != len(headers):
        raise RejectedError("the same image is given twice")
    _pair(first.pixel_spacing or ())
    return tuple(found)


def _check_lengths(headers: list[ImageHeader]) -> None:
    for header in headers:
        position, orientation = header.image_position_patient, header.image_orientation_patient
        lengths = (len(position or ()), len(orientation or ()), len(header.pixel_spacing or ()))
        if lengths != (3, 6, 2):
            raise RejectedError("a position, orientation or spacing has a wrong count of values")
        values = (*(position or ()), *(orientation or ()), *(header.pixel_spacing or ()))
        if not np.isfinite(values).all():
            raise RejectedError("a position, orientation or spacing is not a finite number")


def _directions(header: ImageHeader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and down a column (PS3.3 C.7.6.2.1.1)."""
    cosines = np.array(header.image_orientation_patient, dtype=np.float64)
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > 1e-3 or not np.allclose(lengths, 1.0, atol=1e-3):  # noqa: PLR2004
        raise RejectedError("ImageOrientationPatient is not two orthogonal unit vectors")
    return row / lengths[0], column / lengths[1]


def _shear(sideways: NDArray[np.float64], pixel_spacing: tuple[float, float]) -> tuple[str, ...]:
    """``sideways``: (slices, 3) positions projected into the plane of the slices, mm."""
    drift = float(np.linalg.norm(sideways - sideways[0], axis=1).max())
    if drift <= _SHEAR_TOLERANCE * min(pixel_spacing):
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


def _geometry(headers: list[ImageHeader], spacing: float) -> Any:
    first = headers[0]
    row, column = _directions(first)
    between_rows, between_columns = _pair(first.pixel_spacing or ())
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * spacing
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = first.image_position_patient
    return VolumeGeometry(
        affine=affine,
        spatial_shape=(len(headers), first.rows, first.columns),
        coordinate_system="PATIENT",
        frame_of_reference_uid=first.frame_of_reference_uid or None,
    )


def _rescale(headers: list[ImageHeader]) -> RescalePerPlane | None:
    """``None`` where no image has a rescale.

    Raises:
        UnsuitableError: only some have one, or their types differ.
    """
    slopes = [header.rescale_slope for header in headers]
    intercepts = [header.rescale_intercept for header in headers]
    if all(value is None for value in (*slopes, *intercepts)):
        return None
    if None in slopes or None in intercepts:
        raise UnsuitableError(("some images have no rescale slope or intercept",))
    types = {header.rescale_type for header in headers}
    if len(types) > 1:
        raise UnsuitableError(("the images of the series are in different units",))
    slope = np.array(slopes, dtype=np.float64)
    intercept = np.array(intercepts, dtype=np.float64)
    if not np.isfinite(slope).all() or not np.isfinite(intercept).all() or (slope == 0).any():
        raise RejectedError("the rescale slope or intercept is not a usable number")
    return RescalePerPlane(slope, intercept, types.pop())
