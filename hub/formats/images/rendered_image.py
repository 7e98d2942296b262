"""One frame of a stored image as people see it: 8 bits, window applied, colours as red, green and
blue (PS3.3 C.11, C.7.6.3.1.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import Elements
from hub.formats.images.colour import decode_rgb
from hub.formats.images.image import rescale_of
from hub.formats.images.pixel_codecs import decode_into, stored_dtype
from hub.formats.images.pixel_data import EncodedImage, read_object
from hub.formats.images.presentation import DisplayWindow, Presentation, displayed, presentation_of
from hub.ports import RenderedImage

_SHOWN_PERCENTILES = (0.5, 99.5)
"""Of the values of an image that says nothing of how it wants to be shown: darker and brighter
ones are black and white."""


def rendered(data: bytes, frame_number: int = 1) -> RenderedImage:
    """Decode one frame (1-based) of a Part 10 file and apply what its header says of its display:
    the VOI LUT, the window or, where it has none, the range of its values.

    Raises:
        RejectedError: it is no image, has no such frame, or cannot be decoded.
    """
    try:
        encoded = read_object(data, with_colour=True)
        if not 1 <= frame_number <= len(encoded.frames):
            raise RejectedError(f"the image has {len(encoded.frames)} frames")
        frame = encoded.frames[frame_number - 1]
        if frame.header.is_grey:
            return _image(_grey(frame, encoded.elements))
        return _image(decode_rgb(frame, encoded.elements))
    except UnsuitableError as error:
        raise RejectedError(str(error)) from None


def _grey(frame: EncodedImage, elements: Elements) -> NDArray[np.uint8]:
    stored = np.empty((frame.header.rows, frame.header.columns), stored_dtype(frame.header))
    decode_into(frame, stored)
    rescale = rescale_of([frame.header])
    slope = 1.0 if rescale is None else float(rescale.slope[0])
    intercept = 0.0 if rescale is None else float(rescale.intercept[0])
    presentation = presentation_of(elements, frame.header)
    if presentation.voi_lut is None and presentation.window is None:
        presentation = replace(presentation, window=_range(stored, presentation, slope, intercept))
    shown = displayed(stored, presentation, slope, intercept)
    return np.rint(np.clip(shown, 0.0, 1.0) * 255).astype(np.uint8)


def _range(
    stored: NDArray[Any], presentation: Presentation, slope: float, intercept: float
) -> DisplayWindow:
    values = stored if presentation.modality_lut is None else presentation.modality_lut.of(stored)
    lowest, highest = (float(v) for v in np.percentile(values, _SHOWN_PERCENTILES))
    if presentation.modality_lut is None:
        lowest, highest = sorted((lowest * slope + intercept, highest * slope + intercept))
    return DisplayWindow((lowest + highest) / 2, (highest - lowest) or 1.0, "LINEAR_EXACT")


def _image(pixels: NDArray[np.uint8]) -> RenderedImage:
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]  # noqa: PLR2004 - rows and columns
    return RenderedImage(
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples=samples,
        pixels=np.ascontiguousarray(pixels).tobytes(),
    )
