"""Explicit VR Little Endian bytes (PS3.5 section 7), written directly.

Structured reports and segmentations of hundreds of slices are many thousand small,
uniform elements: written as bytes they cost a twentieth of building them as objects.
Every function returns whole elements; the caller keeps them in ascending order of tags.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from hub.domain.coding import Code
from hub.errors import RejectedError

_LONG_VRS = frozenset({"OB", "OF", "OW", "SQ", "UT", "UC", "UR", "UN"})
_MOST_CHARACTERS = {"CS": 16, "SH": 16, "DS": 16, "IS": 12, "LO": 64, "UI": 64, "ST": 1024}
_SHORT_CODE_VALUE = 16


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element of even length; ``value`` is padded with the VR's own padding."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG_VRS:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


Pieces = tuple[bytes | memoryview, ...]
"""What has to be joined to be an element."""

Bulk = dict[int, bytes | Pieces]
"""Ready-made elements by tag."""


def large_element(tag: int, value: Iterable[bytes | memoryview], vr: str = "OB") -> Pieces:
    """One element of even length whose value is joined only with all others: values of hundreds of
    megabytes are not copied for each step."""
    parts = tuple(value)
    length = sum(memoryview(part).nbytes for part in parts)
    padding = length % 2
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length + padding)
    return head, *parts, bytes(padding)


def text(tag: int, vr: str, value: str) -> bytes:
    """One text value, in UTF-8.

    Raises:
        RejectedError: it is longer than its VR allows (PS3.5 section 6.2).
    """
    if len(value) > _MOST_CHARACTERS.get(vr, len(value)):
        raise RejectedError(f"a value is too long for ({tag >> 16:04x},{tag & 0xFFFF:04x}) {vr}")
    return element(tag, vr, value.encode())


def unsigned_shorts(tag: int, *values: int) -> bytes:
    return element(tag, "US", struct.pack(f"<{len(values)}H", *values))


def unsigned_longs(tag: int, *values: int) -> bytes:
    return element(tag, "UL", struct.pack(f"<{len(values)}I", *values))


def signed_longs(tag: int, *values: int) -> bytes:
    return element(tag, "SL", struct.pack(f"<{len(values)}i", *values))


def double(tag: int, value: float) -> bytes:
    return element(tag, "FD", struct.pack("<d", value))


def floats(tag: int, *values: float) -> bytes:
    """FL values: at most 16383, as their length has 16 bits (PS3.5 section 7.1.2)."""
    return element(tag, "FL", struct.pack(f"<{len(values)}f", *values))


def decimals(tag: int, *values: float) -> bytes:
    """DS values, as exact as sixteen characters allow."""
    return element(tag, "DS", "\\".join(map(decimal_string, values)).encode())


def decimal_string(value: float) -> str:
    """The shortest DS (at most sixteen characters) nearest to a finite number."""
    exact = repr(float(value)).removesuffix(".0")
    if len(exact) <= _MOST_CHARACTERS["DS"]:
        return exact
    candidates = (f"{value:.{digits}g}" for digits in range(16, 5, -1))
    return next(text for text in candidates if len(text) <= _MOST_CHARACTERS["DS"])


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """A sequence of items with defined lengths; each item is its elements, joined."""
    body = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)
    return element(tag, "SQ", body)


@lru_cache(maxsize=4096)
def code(tag: int, concept: Code) -> bytes:
    """A code sequence with one item (PS3.3 Table 8.8-1); long values use Long Code Value."""
    value = concept.code_value
    designator = text(0x00080102, "SH", concept.coding_scheme_designator)
    meaning = text(0x00080104, "LO", fitted(concept.code_meaning, 64))
    if len(value) <= _SHORT_CODE_VALUE:
        return sequence(tag, [text(0x00080100, "SH", value) + designator + meaning])
    return sequence(tag, [designator + meaning + text(0x00080119, "UC", value)])


def fitted(words: str, limit: int) -> str:
    """Words as a single value of at most ``limit`` characters; what is cut off shows as three dots
    (U+2026 is three bytes, too long for validators that count bytes), and a backslash, which would
    separate values, as a slash."""
    single = " ".join(words.replace("\\", "/").split())
    return single if len(single) <= limit else single[: limit - 3].rstrip() + "..."


def data_set(header: Dataset, bulk: Bulk) -> Pieces:
    """An encoded data set, in pieces, of a header and of ready-made elements by tag."""
    elements = dict(bulk)
    for item in header:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, item, ["utf8"])
        elements[int(item.tag)] = buffer.getvalue()
    ordered = (elements[tag] for tag in sorted(elements))
    return tuple(piece for one in ordered for piece in (one if isinstance(one, tuple) else (one,)))
