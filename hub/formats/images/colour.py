"""Colour images to red, green, blue of 8 bits (PS3.3 C.7.6.3.1.2), and to luminance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import Elements
from hub.formats.images.image_header import PALETTE, ImageHeader
from hub.formats.images.lookup_table import lookup_table
from hub.formats.images.pixel_codecs import decode_into, decoded_samples, stored_dtype
from hub.formats.images.pixel_data import EncodedImage

Rgb = NDArray[np.uint8]
"""(row, column, 3)"""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""

_CONVERTED_BY_CODEC = ("YBR_ICT", "YBR_RCT")
_PALETTE_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103)
_PALETTE_DATA = (0x00281201, 0x00281202, 0x00281203)
_SEGMENTED_DATA = 0x00281221
_DISPLAY_BITS = 8


def decode_rgb(image: EncodedImage, elements: Elements) -> Rgb:
    """Decode one colour frame; ``elements`` hold its palette, where it has one.

    Raises:
        UnsuitableError: an encoding or a kind of palette that is not read.
        RejectedError: the pixels or the palette contradict the header.
    """
    header = image.header
    interpretation = header.photometric_interpretation
    if interpretation == PALETTE:
        indices = np.empty((header.rows, header.columns), stored_dtype(header))
        decode_into(image, indices)
        return _from_palette(indices, elements, header)
    samples = decoded_samples(image)
    if header.bits_stored != _DISPLAY_BITS or header.pixel_representation:
        raise UnsuitableError((f"colour of {header.bits_stored} bits; unsigned 8 are read",))
    if interpretation == "RGB" or interpretation in _CONVERTED_BY_CODEC:
        return np.ascontiguousarray(samples)
    if samples.ndim == 2:  # noqa: PLR2004 - rows of interleaved bytes
        samples = _upsampled(samples)
    return _from_ybr(samples)


def luminance(rgb: Rgb) -> NDArray[np.uint8]:
    """(row, column)"""
    grey: NDArray[np.uint8] = np.rint(rgb @ LUMA).astype(np.uint8)
    return grey


def _upsampled(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Native YBR_FULL_422: two luminances, then the pair's blue and red differences."""
    if rows.shape[1] % 4:
        raise RejectedError("YBR_FULL_422 with an odd number of columns")
    pairs = rows.reshape(rows.shape[0], -1, 4)
    made = np.empty((rows.shape[0], pairs.shape[1], 2, 3), np.uint8)
    made[..., 0] = pairs[..., :2]
    made[..., 1] = pairs[..., 2, None]
    made[..., 2] = pairs[..., 3, None]
    return made.reshape(rows.shape[0], -1, 3)


def _from_ybr(samples: NDArray[Any]) -> Rgb:
    y, blue, red = (samples[..., index].astype(np.float32) for index in range(3))
    blue -= 128
    red -= 128
    rgb = np.stack(
        (y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue), axis=-1
    )
    return np.asarray(np.clip(np.rint(rgb), 0, 255), np.uint8)


def _from_palette(indices: NDArray[Any], elements: Elements, header: ImageHeader) -> Rgb:
    if _PALETTE_DATA[0] not in elements:
        if _SEGMENTED_DATA in elements:
            raise UnsuitableError(("a segmented colour palette, which is not read",))
        raise RejectedError("a palette image without its palette")
    signed = bool(header.pixel_representation)
    made = np.empty((*indices.shape, 3), np.uint8)
    for channel, tags in enumerate(zip(_PALETTE_DESCRIPTORS, _PALETTE_DATA, strict=True)):
        table = lookup_table(elements, *tags, signed=signed)
        made[..., channel] = table.of(indices) >> _display_shift(table.bits, table.entries)
    return made


def _display_shift(bits: int, entries: NDArray[np.uint16]) -> int:
    """How far entries lie above 8 bits. Some say 16 bits and hold 8 (as the descriptor's third
    value cannot be trusted, PS3.3 C.7.6.3.1.5 NOTE), which would all become black."""
    return max(bits - _DISPLAY_BITS, 0) if int(entries.max()) >> _DISPLAY_BITS else 0
