"""Walk the elements of an encoded data set (PS3.5 chapter 7), flat and bounded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hub.errors import RejectedError
from hub.ports import Buffer

MAX_DEPTH = 64
"""Sequences within sequences; real objects nest less than ten deep."""
MAX_ELEMENTS = 1_000_000
"""Elements and items that are looked at in one data set, those inside sequences of
undefined length included."""
MAX_VALUE_LENGTH = 4096
"""Bytes of a value that is kept; the texts, UIDs and numbers of a header are far shorter."""

PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_HEAD, _LONG_HEAD = 8, 12
"""Bytes before the value: tag, VR and 16-bit length, or tag, VR, reserved and 32-bit length."""
_FILE_META = 0x0002
BEFORE_ALL = _FILE_META << 16 | 0xFFFF
"""No data set has an element with this tag, or a smaller one."""
_DELIMITERS = 0xFFFE
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


class MoreNeededError(Exception):
    """The bytes at hand end before the header does; there are more where they came from."""


def tag_name(tag: int) -> str:
    """``(GGGG,EEEE)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(
    data: Buffer,
    encoding: Encoding,
    wanted: frozenset[int],
    warnings: list[str],
    *,
    whole: bool = True,
    last: int = PIXEL_DATA - 1,
) -> dict[int, bytes]:
    """The raw values of the wanted top-level elements, up to the pixel data.

    Args:
        data: the encoded data set, or its beginning.
        encoding: how it is encoded.
        wanted: tags to keep (``0xGGGGEEEE``). A sequence is kept as its encoded items.
        warnings: what was tolerated is appended here.
        whole: ``data`` is all there is.
        last: nothing is read beyond the first element with a greater tag.

    Raises:
        RejectedError: it cannot be read, or a wanted element is there twice.
        MoreNeededError: only if not ``whole``.
    """
    walker = Walker(data, whole=whole)
    return walker.top_level(encoding, wanted, warnings, last=last)


def first_item(raw: bytes, encoding: Encoding, wanted: frozenset[int]) -> dict[int, bytes]:
    """The wanted elements of the first item of a sequence kept by `walk`; none if it is empty."""
    if len(raw) < _HEAD:
        return {}
    group, element, length = _TAG_LENGTHS[encoding.big_endian].unpack_from(raw)
    if (group << 16 | element) != _ITEM:
        return {}
    end = len(raw) if length == _UNDEFINED else _HEAD + length
    walker = Walker(raw[_HEAD:end], whole=True)
    return walker.top_level(encoding, wanted, [], inside_item=length == _UNDEFINED)


class Walker:
    """One pass over one data set, in one go or in parts."""

    __slots__ = ("_data", "_end", "_looked_at", "_whole", "position", "spans")

    def __init__(self, data: Buffer, *, whole: bool = True) -> None:
        self.position = 0
        """Of the element that is read next."""
        self.spans: list[tuple[int, int, int]] | None = None
        """(tag, where it begins, where the next one does) of each element; None: nobody asks."""
        self._data = data
        self._end = len(data)
        self._whole = whole
        self._looked_at = 0

    def top_level(  # noqa: PLR0912 - see below
        self,
        encoding: Encoding,
        wanted: frozenset[int],
        warnings: list[str],
        *,
        inside_item: bool = False,
        last: int = PIXEL_DATA - 1,
        previous: int = BEFORE_ALL,
    ) -> dict[int, bytes]:
        """Collect the wanted elements up to the pixel data, the end, or the item's delimiter.
        It goes on at ``position``, behind an element with the tag ``previous``."""
        # This loop runs for every element of every received object: what is usual is written
        # out, what is rare is a call.
        data, end, found = self._data, self._end, dict[int, bytes]()
        explicit, big_endian = encoding.explicit, encoding.big_endian
        head, tag_length = _HEADS[big_endian].unpack_from, _TAG_LENGTHS[big_endian].unpack_from
        position, ordered, spans = self.position, True, self.spans
        for _ in range(MAX_ELEMENTS):
            if end - position < _HEAD:
                self._must_be_the_end(position)
                break
            vr, start = b"", position + _HEAD
            if explicit:
                group, element, vr, length = head(data, position)
                if vr not in _SHORT_VRS:
                    length, start = self._long_length(position, group, vr, length, encoding)
            else:
                group, element, length = tag_length(data, position)
            tag = group << 16 | element
            if tag > last:
                self._at_end(tag, position, start, length, inside_item=inside_item)
                break
            if tag <= previous:
                ordered = self._out_of_order(tag, position, found)
            previous, after = tag, start + length
            if length == _UNDEFINED:
                after = self._skip_undefined(tag, vr, start, encoding)
            if after > end:
                raise self._runs_past_end(tag, position)
            if tag in wanted:
                found[tag] = self._kept(tag, start, after)
            if spans is not None:
                spans.append((tag, position, after))
            position = after
        else:
            raise RejectedError(f"more than {MAX_ELEMENTS} elements")
        self.position = position
        if not ordered:
            warnings.append("elements are not in ascending order of their tags")
        return found

    def _must_be_the_end(self, position: int) -> None:
        if position < self._end or not self._whole:
            raise self._ends_within(position)

    def _long_length(
        self, position: int, group: int, vr: bytes, short: int, encoding: Encoding
    ) -> tuple[int, int]:
        """Length and start of the value of an element whose VR has a length of 32 bits."""
        if group == _DELIMITERS:
            return short, position + _HEAD
        if vr not in _LONG_VRS:
            raise RejectedError(f"the element at byte {position} has no valid VR")
        if self._end - position < _LONG_HEAD:
            raise self._ends_within(position)
        (length,) = _LENGTHS[encoding.big_endian].unpack_from(self._data, position + _HEAD)
        return length, position + _LONG_HEAD

    def _at_end(
        self, tag: int, position: int, start: int, length: int, *, inside_item: bool
    ) -> None:
        """The header ends here; is that as it should be?"""
        if tag >> 16 == _DELIMITERS and not inside_item:
            raise RejectedError(f"{tag_name(tag)} at byte {position} is outside any sequence")
        defined = tag == PIXEL_DATA and length != _UNDEFINED
        if defined and self._whole and start + length > self._end:
            raise self._runs_past_end(tag, position)

    def _out_of_order(self, tag: int, position: int, found: dict[int, bytes]) -> bool:
        """Tolerated (False), unless readers could disagree about what the value is."""
        if tag >> 16 <= _FILE_META:
            raise RejectedError(f"{tag_name(tag)} at byte {position} belongs to no data set")
        if tag in found:
            raise RejectedError(f"{tag_name(tag)} is there twice, again at byte {position}")
        return False

    def _kept(self, tag: int, start: int, after: int) -> bytes:
        if after - start > MAX_VALUE_LENGTH:
            raise RejectedError(
                f"{tag_name(tag)} at byte {start} is longer than {MAX_VALUE_LENGTH} bytes"
            )
        return bytes(self._data[start:after])

    def _skip_undefined(self, tag: int, vr: bytes, position: int, encoding: Encoding) -> int:
        """Where a value of undefined length ends (PS3.5 7.5.1, A.4), found without recursion."""
        if vr and vr not in _MAY_BE_UNDEFINED:
            raise RejectedError(f"{tag_name(tag)} at byte {position} may not have no length")
        # Each level is (inside a sequence rather than an item, how it is encoded).
        levels = [(True, IMPLICIT if vr == b"UN" else encoding)]
        while levels:
            self._looked_at += 1
            if self._looked_at > MAX_ELEMENTS:
                raise RejectedError(f"more than {MAX_ELEMENTS} elements")
            if len(levels) > 2 * MAX_DEPTH:
                raise RejectedError(f"sequences nest more than {MAX_DEPTH} deep at byte {position}")
            in_sequence, inner = levels[-1]
            if self._end - position < _HEAD:
                raise self._ends_within(position)
            if in_sequence:
                position = self._next_item(position, inner, levels)
            else:
                position = self._next_in_item(position, inner, levels)
        return position

    def _next_item(
        self, position: int, encoding: Encoding, levels: list[tuple[bool, Encoding]]
    ) -> int:
        group, element, length = _TAG_LENGTHS[encoding.big_endian].unpack_from(self._data, position)
        tag = group << 16 | element
        start = position + _HEAD
        if tag == _SEQUENCE_DELIMITATION:
            levels.pop()
            return start
        if tag != _ITEM:
            raise RejectedError(f"an item is missing at byte {position}")
        if length == _UNDEFINED:
            levels.append((False, encoding))
            return start
        if start + length > self._end:
            raise self._runs_past_end(tag, position)
        return int(start + length)

    def _next_in_item(
        self, position: int, encoding: Encoding, levels: list[tuple[bool, Encoding]]
    ) -> int:
        data, vr, start = self._data, b"", position + _HEAD
        group, element, length = _TAG_LENGTHS[encoding.big_endian].unpack_from(data, position)
        tag = group << 16 | element
        if tag == _ITEM_DELIMITATION:
            levels.pop()
            return start
        if group == _DELIMITERS:
            raise RejectedError(f"{tag_name(tag)} at byte {position} is out of place")
        if encoding.explicit:
            _, _, vr, length = _HEADS[encoding.big_endian].unpack_from(data, position)
            if vr not in _SHORT_VRS:
                length, start = self._long_length(position, group, vr, length, encoding)
        if length == _UNDEFINED:
            if vr and vr not in _MAY_BE_UNDEFINED:
                raise RejectedError(f"{tag_name(tag)} at byte {position} may not have no length")
            levels.append((True, IMPLICIT if vr == b"UN" else encoding))
            return start
        if start + length > self._end:
            raise self._runs_past_end(tag, position)
        return int(start + length)

    def _ends_within(self, position: int) -> Exception:
        if not self._whole:
            return MoreNeededError()
        return RejectedError(f"the data set ends within the element at byte {position}")

    def _runs_past_end(self, tag: int, position: int) -> Exception:
        if not self._whole:
            return MoreNeededError()
        return RejectedError(f"{tag_name(tag)} at byte {position} runs past the end of the data")
