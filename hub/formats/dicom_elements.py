"""Walk the elements of an encoded data set (PS3.5 chapter 7), flat and bounded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hub.errors import RejectedError

MAX_DEPTH = 64
"""Sequences within sequences; real objects nest less than ten deep."""
MAX_ELEMENTS = 1_000_000
"""Elements and items that are looked at in one data set, those inside sequences of
undefined length included."""
MAX_VALUE_LENGTH = 4096
"""Bytes of a value that is kept; the texts, UIDs and numbers of a header are far shorter."""

PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_DELIMITATION = 0xFFFEE00D
_SEQUENCE_DELIMITATION = 0xFFFEE0DD

_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""VRs with a length of 32 bits (PS3.5 Table 7.1-1)."""
_SHORT_VRS = frozenset(
    {
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT",
        b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    }
)  # fmt: skip
_MAY_BE_UNDEFINED = frozenset({b"SQ", b"UN", b"OB", b"OW"})


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written: VR explicit or not, byte order."""

    explicit: bool
    big_endian: bool


IMPLICIT = Encoding(explicit=False, big_endian=False)
EXPLICIT = Encoding(explicit=True, big_endian=False)
BIG_ENDIAN = Encoding(explicit=True, big_endian=True)

_HEADS = {False: struct.Struct("<HH2sH"), True: struct.Struct(">HH2sH")}
_TAG_LENGTHS = {False: struct.Struct("<HHI"), True: struct.Struct(">HHI")}
_LENGTHS = {False: struct.Struct("<I"), True: struct.Struct(">I")}


class MoreNeeded(Exception):
    """The bytes at hand end before the header does; there are more where they came from."""


def tag_name(tag: int) -> str:
    """``(GGGG,EEEE)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(
    data: bytes,
    encoding: Encoding,
    wanted: frozenset[int],
    warnings: list[str],
    *,
    whole: bool = True,
) -> dict[int, bytes]:
    """The raw values of the wanted top-level elements, up to the pixel data.

    Args:
        data: the encoded data set, or its beginning.
        encoding: how it is encoded.
        wanted: tags to keep (``0xGGGGEEEE``). A sequence is kept as its encoded items.
        warnings: what was tolerated is appended here.
        whole: ``data`` is all there is.

    Raises:
        RejectedError: it cannot be read, or a wanted element is there twice.
        MoreNeeded: only if not ``whole``.
    """
    walker = _Walker(data, whole=whole)
    return walker.top_level(encoding, wanted, warnings)


def first_item(raw: bytes, encoding: Encoding, wanted: frozenset[int]) -> dict[int, bytes]:
    """The wanted elements of the first item of a sequence kept by `walk`; none if it is empty."""
    if len(raw) < 8:  # noqa: PLR2004 - the length of an item's head
        return {}
    group, element, length = _TAG_LENGTHS[encoding.big_endian].unpack_from(raw)
    if (group << 16 | element) != _ITEM:
        return {}
    end = len(raw) if length == _UNDEFINED else 8 + length
    walker = _Walker(raw[8:end], whole=True)
    return walker.top_level(encoding, wanted, [], inside_item=length == _UNDEFINED)


class _Walker:
    """One pass over one data set."""

    __slots__ = ("budget", "data", "end", "whole")

    def __init__(self, data: bytes, *, whole: bool) -> None:
        self.data = data
        self.end = len(data)
        self.whole = whole
        self.budget = MAX_ELEMENTS

    def top_level(
        self,
        encoding: Encoding,
        wanted: frozenset[int],
        warnings: list[str],
        *,
        inside_item: bool = False,
    ) -> dict[int, bytes]:
        # The loop body is written out instead of calling `head`: it runs for every element
        # of every received object.
        data, end, found = self.data, self.end, dict[int, bytes]()
        head, long_length = _HEADS[encoding.big_endian].unpack_from, _LENGTHS[encoding.big_endian]
        explicit, position, previous = encoding.explicit, 0, 0
        while end - position >= 8:  # noqa: PLR2004 - the length of the shortest element
            group, element, vr, length = head(data, position)
            tag = group << 16 | element
            start = position + 8
            if not explicit:
                length |= vr[0] << 0  # replaced below
            if explicit and vr in _SHORT_VRS:
                pass
            position = start + length
        return found
