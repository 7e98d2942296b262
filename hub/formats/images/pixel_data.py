"""One image file to its headers and its still encoded pixels, frame by frame.

Nothing is allocated here but what the file itself holds: how many pixels a header claims is
compared with its bytes first.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import (
    ITEM,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Elements,
    scan_file,
)
from hub.formats.dicom.functional_groups import frame_headers
from hub.formats.images.image_header import ImageHeader, check_supported, header_of

MAXIMUM_EXPANSION = 1000
"""Most native bytes for each compressed byte that are believed ..."""
EXPANSION_SLACK = 64 << 20
"""... beyond these, which may be empty and then compress to nothing."""

_BYTE = 8
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_OTHER_PIXELS = {0x7FE00008: "floating-point", 0x7FE00009: "floating-point"}
_FRAME_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""JPEG and JPEG-LS (T.81 B.1.1.3, T.87), JPEG 2000 (T.800 A.4.1)."""
_READING_FAULTS = (struct.error, ValueError, IndexError, OverflowError, zlib.error)


def native_bytes_held(file_bytes: int, *, is_compressed: bool) -> int:
    """Most bytes of native pixels that a file of some length is believed to hold."""
    return file_bytes * MAXIMUM_EXPANSION + EXPANSION_SLACK if is_compressed else file_bytes


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image or one frame as its file holds it."""

    header: ImageHeader
    pixels: memoryview
    """Native pixels, or one compressed frame without its fragment headers."""
    compressed: bool


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """One file: its elements and its frames, at least one."""

    elements: Elements
    frames: tuple[EncodedImage, ...]


def read_image(data: bytes) -> EncodedImage:
    """Read a Part 10 file with one single-frame grey-scale image, without decoding it.

    Raises:
        UnsuitableError: colour or multi-frame.
        RejectedError: not DICOM, truncated, inconsistent or absurd.
    """
    frames = read_object(data).frames
    if frames[0].header.is_multi_frame:
        raise UnsuitableError((f"a multi-frame image ({len(frames)} frames)",))
    return frames[0]


def read_object(data: bytes, *, with_colour: bool = False) -> EncodedObject:
    """Read a Part 10 file with one image of one or more frames, without decoding it.

    Raises:
        UnsuitableError: an image of a kind that is not read, or colour where it is not wanted.
        RejectedError: not DICOM, truncated, inconsistent or absurd.
    """
    try:
        elements = scan_file(data)
        header = header_of(elements)
        check_supported(header, with_colour=with_colour)
        pixels, compressed = _pixels(elements, header)
        headers = frame_headers(elements, header) if header.is_multi_frame else [header]
        frames = tuple(
            EncodedImage(each, frame, compressed)
            for each, frame in zip(headers, pixels, strict=True)
        )
    except _READING_FAULTS as error:
        raise RejectedError(f"the image header cannot be read ({type(error).__name__})") from None
    return EncodedObject(elements, frames)


# --- the pixels --------------------------------------------------------------------------


def _pixels(elements: Elements, header: ImageHeader) -> tuple[list[memoryview], bool]:
    """The pixels of each frame, and whether they are compressed."""
    if PIXEL_DATA not in elements:
        other = [name for tag, name in _OTHER_PIXELS.items() if tag in elements]
        if other:
            raise UnsuitableError((f"{other[0]} pixels",))
        raise RejectedError("the file has no pixel data")
    offset, length, _ = elements.places[PIXEL_DATA]
    if length == UNDEFINED:
        return _compressed_frames(elements, header, offset), True
    needed = header.bytes_per_frame * header.number_of_frames
    held = min(length, len(elements.data) - offset)
    if held < needed or length != held:
        raise RejectedError(f"{held} bytes of pixel data where {needed} are needed")
    size = header.bytes_per_frame
    view = memoryview(elements.data)[offset : offset + length]
    if header.big_endian and header.bits_allocated == _BYTE and elements.is_words(PIXEL_DATA):
        view = _words_turned_round(view)
    return [view[at : at + size] for at in range(0, needed, size)], False


def _words_turned_round(view: memoryview) -> memoryview:
    """Bytes that a big-endian file holds as words of two (PS3.5 8.1.1, annex D)."""
    words = array("H", bytes(view[: len(view) // 2 * 2]))
    words.byteswap()
    return memoryview(words.tobytes())


def _compressed_frames(elements: Elements, header: ImageHeader, at: int) -> list[memoryview]:
    fragments = list(_fragments(elements.data, at))
    frames = fragments[1:]
    if not frames:
        raise RejectedError("the compressed pixel data holds no frame")
    held = sum(len(fragment) for _, fragment in frames)
    claimed = header.bytes_per_frame * header.number_of_frames
    if claimed > native_bytes_held(held, is_compressed=True):
        raise RejectedError(f"{held} compressed bytes cannot hold {claimed} bytes of pixels")
    if header.number_of_frames == 1:
        return [_joined([fragment for _, fragment in frames])]
    if len(frames) == header.number_of_frames:
        return [fragment for _, fragment in frames]
    starts = _frame_starts(elements, header, fragments)
    if len(starts) != header.number_of_frames:
        raise RejectedError(
            f"the compressed pixel data holds {len(starts)} frames, not {header.number_of_frames}"
        )
    bounds = [*starts, len(frames)]
    return [_joined([part for _, part in frames[a:b]]) for a, b in pairwise(bounds)]


def _frame_starts(
    elements: Elements, header: ImageHeader, fragments: list[tuple[int, memoryview]]
) -> list[int]:
    """Index of the first fragment of each frame: by the offset tables (PS3.5 A.4), or else by
    the marker that every frame of a JPEG family begins with."""
    (_, table), frames = fragments[0], fragments[1:]
    extended = elements.raw(_EXTENDED_OFFSET_TABLE)
    offsets: tuple[int, ...] = ()
    if extended:
        offsets = struct.unpack_from(f"<{len(extended) // 8}Q", extended)
    elif len(table):
        offsets = struct.unpack_from(f"<{len(table) // 4}I", table)
    if not offsets:
        starts = [
            i for i, (_, part) in enumerate(frames) if bytes(part[:4]).startswith(_FRAME_STARTS)
        ]
        return starts if starts[:1] == [0] else []
    first = frames[0][0]
    by_offset = {at - first: index for index, (at, _) in enumerate(frames)}
    found = [by_offset.get(offset, -1) for offset in offsets[: header.number_of_frames]]
    in_order = found[:1] == [0] and all(a < b for a, b in pairwise(found))
    return found if in_order else []


def _joined(fragments: list[memoryview]) -> memoryview:
    return fragments[0] if len(fragments) == 1 else memoryview(b"".join(fragments))


def _fragments(data: bytes, at: int) -> Iterator[tuple[int, memoryview]]:
    """Offset and content of each item up to the delimiter, the Basic Offset Table first."""
    view = memoryview(data)
    while True:
        if at + 8 > len(data):
            raise RejectedError("the compressed pixel data ends in the middle of a fragment")
        group, element, length = struct.unpack_from("<HHI", data, at)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return
        if tag != ITEM or at + 8 + length > len(data):
            raise RejectedError("the compressed pixel data is broken between two fragments")
        yield at, view[at + 8 : at + 8 + length]
        at += 8 + length
