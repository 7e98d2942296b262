"""The elements of a Part 10 file by a flat scan: where each value lies, and nothing more.

Nothing is allocated that the file does not hold, and nothing recurses: a hostile header costs
a message, not memory. Sequences are jumped over; the items of one that is wanted are scanned
when they are asked for.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hub.errors import RejectedError

MAXIMUM_INFLATED = 1 << 30
"""Most bytes that a deflated data set may become (PS3.5 A.5)."""
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
"""The length of what ends with a delimiter."""
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_IMPLICIT = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DELIMITERS = 0xFFFE
"""Group of items and their ends, which have no VR in any encoding."""
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)


class _HeaderReaders:
    """Compiled readers of element headers in one byte order."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHI").unpack_from
        self.explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self.length = struct.Struct(f"{order}I").unpack_from


_HEADERS = {order: _HeaderReaders(order) for order in "<>"}

Place = tuple[int, int, bool]
"""Offset and length of a value, and whether what is nested in it has explicit VRs. The length
of compressed pixel data is ``UNDEFINED``; that of a sequence counts its delimiter."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Where the values of one data set (or of one item of a sequence) are."""

    data: bytes
    order: str
    """``<`` or ``>``."""
    transfer_syntax_uid: str
    places: dict[int, Place]

    def __contains__(self, tag: int) -> bool:
        return tag in self.places

    def raw(self, tag: int) -> bytes:
        """The bytes of a value; none where the element is absent."""
        offset, length, _ = self.places.get(tag, (0, 0, True))
        return self.data[offset : offset + length]

    def is_words(self, tag: int) -> bool:
        """Has an element of a file with explicit VRs the VR OW?"""
        offset, _, _ = self.places[tag]
        return self.data[offset - 8 : offset - 6] == b"OW"

    def text(self, tag: int) -> str:
        return self.raw(tag).decode("latin-1").strip("\0 ")

    def number(self, tag: int) -> int | None:
        """The first value of an element of VR US."""
        offset, length, _ = self.places.get(tag, (0, 0, True))
        if length < 2:  # noqa: PLR2004 - the size of one US
            return None
        return int.from_bytes(
            self.data[offset : offset + 2], "little" if self.order == "<" else "big"
        )

    def decimals(self, tag: int) -> tuple[float, ...] | None:
        """The values of an element of VR DS or IS; absent or empty gives None.

        Raises:
            ValueError: not all of them are numbers.
        """
        text = self.text(tag)
        return tuple(float(part) for part in text.split("\\")) if text else None

    def decimal(self, tag: int) -> float | None:
        values = self.decimals(tag)
        return values[0] if values else None

    def integer(self, tag: int) -> int | None:
        """The first value of an element of VR IS.

        Raises:
            ValueError: it is no whole number.
        """
        value = self.decimal(tag)
        if value is None:
            return None
        if not math.isfinite(value) or value != int(value):
            raise ValueError("not a whole number")
        return int(value)

    def items(self, tag: int) -> Iterator[Elements]:
        """The items of a sequence, one after another; none where it is absent or empty.

        Raises:
            RejectedError: the sequence is broken.
        """
        at, length, explicit = self.places.get(tag, (0, 0, True))
        end = at + length
        while at + 8 <= end:
            group, element, size = _HEADERS[self.order].implicit(self.data, at)
            item, at = group << 16 | element, at + 8
            if item == SEQUENCE_END:
                return
            if item != ITEM or (size != UNDEFINED and at + size > end):
                raise RejectedError("a sequence is broken between two items")
            until = end if size == UNDEFINED else at + size
            places, at = scan(self.data, at, self.order, explicit=explicit, end=until)
            yield Elements(self.data, self.order, self.transfer_syntax_uid, places)

    def first_item(self, tag: int) -> Elements | None:
        """The first item of a sequence, if there is one."""
        return next(self.items(tag), None)


def scan_file(data: bytes) -> Elements:
    """The top level of a Part 10 file, up to its pixel data.

    Raises:
        RejectedError: not DICOM, truncated, or a deflate bomb.
        struct.error, ValueError, zlib.error: broken within an element.
    """
    if data[128:132] != b"DICM":
        raise RejectedError("not a DICOM Part 10 file")
    meta, at = scan(data, 132, "<", explicit=True, end=len(data), group=0x0002)
    syntax = Elements(data, "<", "", meta).text(0x00020010)
    if not syntax:
        raise RejectedError("the file names no transfer syntax")
    if syntax == _DEFLATED:
        data, at = _inflated(data[at:]), 0
    order = ">" if syntax == BIG_ENDIAN else "<"
    places, _ = scan(data, at, order, explicit=syntax != _IMPLICIT, end=len(data))
    return Elements(data, order, syntax, places)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAXIMUM_INFLATED)
    if inflater.unconsumed_tail:
        raise RejectedError("the deflated data set grows beyond every reasonable size")
    return inflated


def scan(
    data: bytes, at: int, order: str, *, explicit: bool, end: int, group: int | None = None
) -> tuple[dict[int, Place], int]:
    """Places of the elements from ``at`` up to Pixel Data, to the end of the item, or of one
    group only; and the offset of what follows.

    Raises:
        RejectedError: an element reaches beyond ``end``.
        struct.error: the file ends in the header of an element.
    """
    places: dict[int, Place] = {}
    while at < end:
        tag, vr, length, value = _element(data, at, order, explicit=explicit)
        if tag == ITEM_END:
            return places, value
        if group is not None and tag >> 16 != group:
            break
        nested = explicit and vr != b"UN"
        if length != UNDEFINED:
            at = value + length
        elif tag != PIXEL_DATA:
            at = _end_of_sequence(data, value, order, explicit=nested)
            length = at - value
        places[tag] = (value, length, nested)
        if tag == PIXEL_DATA:
            break
        if at > end:
            raise RejectedError("the file ends in the middle of an element")
    return places, at


def _element(data: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, VR, length and offset of the value of the element at an offset (PS3.5 7.1)."""
    readers = _HEADERS[order]
    if explicit:
        group, element, vr, length = readers.explicit(data, at)
        if vr in _LONG_VRS:
            (length,) = readers.length(data, at + 8)
            return group << 16 | element, vr, length, at + 12
        if group != _DELIMITERS:
            return group << 16 | element, vr, length, at + 8
    group, element, length = readers.implicit(data, at)
    return group << 16 | element, b"", length, at + 8


def _end_of_sequence(data: bytes, at: int, order: str, *, explicit: bool) -> int:
    """The offset after a sequence of undefined length, whatever is nested in it."""
    encodings = [explicit]
    """One entry for each open sequence: an UN of undefined length holds implicit VR
    (PS3.5 6.2.2)."""
    while encodings:
        group, element, length = _HEADERS[order].implicit(data, at)
        tag = group << 16 | element
        if tag == ITEM:
            at += 8 if length == UNDEFINED else 8 + length
        elif tag == ITEM_END:
            at += 8
        elif tag == SEQUENCE_END:
            at += 8
            encodings.pop()
        else:
            tag, vr, length, at = _element(data, at, order, explicit=encodings[-1])
            if length == UNDEFINED:
                encodings.append(encodings[-1] and vr != b"UN")
            else:
                at += length
    return at
