"""A projection image, an ultrasound frame, any single plane: pixels, spacing, presentation.

Which distance counts as millimetres is decided here (PS3.3 10.7.1): a projection image has one
at its detector (ImagerPixelSpacing), where the body is magnified, and at best a calibrated one
in the patient (PixelSpacing). The first is never passed off as the second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import FramePlace
from hub.domain.model_input import ImageInput
from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import Elements
from hub.formats.images.colour import decode_rgb, luminance
from hub.formats.images.image_header import ImageHeader, finite
from hub.formats.images.pixel_codecs import check_decodable, decode_into, stored_dtype
from hub.formats.images.pixel_data import EncodedImage, EncodedObject, read_object
from hub.formats.images.presentation import Presentation, presentation_of

_IMAGER_PIXEL_SPACING, _CALIBRATION_TYPE = 0x00181164, 0x00280A02
_PROJECTION_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "12.1", "12.2"))
"""CR (and below it DX, mammography, intra-oral), XA and XRF."""


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
class Image:
    """One image, or one frame, of stored values."""

    stored_values: NDArray[Any] = field(repr=False)
    """(row, column); of colour (channel, row, column), red, green, blue, uint8"""
    spacing_mm: tuple[float, float] | None
    """Distance of rows, of columns; ``None`` where none may be used."""
    sop_instance_uids: tuple[str, ...]
    modality: str
    photometric_interpretation: str
    """That of ``stored_values``: ``RGB`` of all colour."""
    rescale: RescalePerPlane | None
    warnings: tuple[str, ...] = ()
    no_spacing: str = "the image has no pixel spacing"
    """Why ``spacing_mm`` is ``None``."""
    presentation: Presentation | None = None
    """Of grey-scale images."""
    value_range: tuple[int, int] | None = None
    """Lowest and highest stored value that its bits can hold (PS3.5 8.1.1)."""
    frames: tuple[FramePlace, ...] = ()
    """The frame, where the image is one of a multi-frame object."""
    slice_thicknesses_mm: tuple[float | None, ...] = ()
    """Of this one plane."""
    has_contrast: bool = False


def read_single_image(data: bytes, wanted: ImageInput | None = None) -> Image:
    """Decode one image, or the frame that is wanted, from a Part 10 file.

    Raises:
        UnsuitableError: a kind of image that is not read, or no frame or colour as wanted.
        RejectedError: it cannot be decoded.
    """
    wanted = wanted or ImageInput(kind="image")
    encoded = read_object(data, with_colour=wanted.colour != "refuse")
    chosen = _chosen(encoded, wanted)
    header = chosen.header
    check_decodable(header)
    if wanted.colour == "rgb" and header.is_grey:
        raise UnsuitableError(("a grey-scale image; the model reads colour",))
    spacing, note = _spacing(encoded.elements, header, wanted)
    values, interpretation = _values(chosen, encoded.elements, wanted)
    return Image(
        stored_values=values,
        spacing_mm=spacing,
        sop_instance_uids=(header.sop_instance_uid,),
        modality=header.modality,
        photometric_interpretation=interpretation,
        rescale=rescale_of([header]) if header.is_grey else None,
        warnings=(note,) if note and spacing else (),
        no_spacing=note or "the image has no pixel spacing",
        presentation=presentation_of(encoded.elements, header) if header.is_grey else None,
        value_range=value_range(header) if header.is_grey else (0, 255),
        frames=(frame_place(header),) if header.is_multi_frame else (),
        slice_thicknesses_mm=(header.slice_thickness,),
        has_contrast=header.has_contrast,
    )


def _chosen(encoded: EncodedObject, wanted: ImageInput) -> EncodedImage:
    frames = encoded.frames
    if wanted.frame == "only" and len(frames) > 1:
        raise UnsuitableError((f"a multi-frame image ({len(frames)} frames); the model reads one",))
    index = {"only": 0, "first": 0, "middle": (len(frames) - 1) // 2, "last": len(frames) - 1}
    number = wanted.frame if isinstance(wanted.frame, int) else index[wanted.frame] + 1
    if number > len(frames):
        raise UnsuitableError((f"the model reads frame {number}, the image has {len(frames)}",))
    return frames[number - 1]


def _values(image: EncodedImage, elements: Elements, wanted: ImageInput) -> tuple[Any, str]:
    header = image.header
    if header.is_grey:
        plane = np.empty((header.rows, header.columns), stored_dtype(header))
        decode_into(image, plane)
        return plane, header.photometric_interpretation
    rgb = decode_rgb(image, elements)
    if wanted.colour == "luminance":
        return luminance(rgb), "MONOCHROME2"
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 0)), "RGB"


def value_range(header: ImageHeader) -> tuple[int, int]:
    """Lowest and highest stored value that the bits can hold (PS3.5 8.1.1)."""
    values = 1 << header.bits_stored
    return (-values // 2, values // 2 - 1) if header.pixel_representation else (0, values - 1)


def frame_place(header: ImageHeader) -> FramePlace:
    """Where a frame lies, as far as its header says it in whole.

    Raises:
        RejectedError: a position, orientation or spacing of another length.
    """
    position, cosines = header.image_position_patient, header.image_orientation_patient
    spacing = header.pixel_spacing
    lengths = [len(values) for values in (position, cosines, spacing) if values is not None]
    expected = [n for n, v in ((3, position), (6, cosines), (2, spacing)) if v is not None]
    if lengths != expected:
        raise RejectedError("a position, orientation or spacing has a wrong count of values")
    return FramePlace(
        number=header.frame_number,
        image_position_patient=position,  # type: ignore[arg-type] # just counted
        image_orientation_patient=cosines,  # type: ignore[arg-type]
        pixel_spacing=spacing,  # type: ignore[arg-type]
        slice_thickness=header.slice_thickness,
    )


# --- millimetres -------------------------------------------------------------------------


def _spacing(
    elements: Elements, header: ImageHeader, wanted: ImageInput
) -> tuple[tuple[float, float] | None, str]:
    """The distance that may be used, and what is to be said of it."""
    try:
        detector = elements.decimals(_IMAGER_PIXEL_SPACING)
    except ValueError:
        raise RejectedError("ImagerPixelSpacing is not a number") from None
    spacing = header.pixel_spacing
    if spacing is None and detector is None:
        return None, ""
    is_projection = detector is not None or _is_projection(header.sop_class_uid)
    calibrated = bool(elements.text(_CALIBRATION_TYPE)) or (
        detector is not None and spacing is not None and spacing != detector
    )
    if spacing is not None and (calibrated or not is_projection):
        return pair_of(spacing), ""
    if wanted.spacing == "patient":
        return None, "the pixel spacing is that at the detector, not one in the patient"
    at_detector = pair_of(detector or spacing or ())
    return at_detector, "millimetres are those at the detector: in the body lengths are shorter"


def _is_projection(sop_class_uid: str) -> bool:
    return any(
        sop_class_uid == known or sop_class_uid.startswith(f"{known}.")
        for known in _PROJECTION_CLASSES
    )


def pair_of(spacing: tuple[float, ...]) -> tuple[float, float]:
    """The distances of rows and of columns.

    Raises:
        RejectedError: not two positive numbers.
    """
    if len(spacing) != 2 or not finite(spacing) or min(spacing) <= 0:  # noqa: PLR2004
        raise RejectedError("PixelSpacing is not two positive numbers")
    return spacing[0], spacing[1]


def rescale_of(headers: list[ImageHeader]) -> RescalePerPlane | None:
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
