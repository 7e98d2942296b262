"""Lookup tables of images (PS3.3 C.7.6.3.1.5, C.11.1, C.11.2): descriptor, data, application."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.errors import RejectedError
from hub.formats.dicom.element_scan import Elements

_BIT_DEPTHS = range(8, 17)
_MOST_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Values below the first mapped one get its entry, values above the last that of the last."""

    first_mapped: int
    bits: int
    """Bits of each entry, 8 to 16."""
    entries: NDArray[np.uint16] = field(repr=False)

    def of(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """The entry of each whole-numbered value."""
        last = len(self.entries) - 1
        indices = np.clip(values.astype(np.int64) - self.first_mapped, 0, last)
        return self.entries[indices]


def lookup_table(elements: Elements, descriptor: int, data: int, *, signed: bool) -> LookupTable:
    """The table of a descriptor and a data element.

    Args:
        signed: the values that are looked up may be negative.

    Raises:
        RejectedError: the table does not hold what its descriptor says.
    """
    raw = elements.raw(descriptor)
    if len(raw) < 6:  # noqa: PLR2004 - three numbers of two bytes
        raise RejectedError("a lookup table has no descriptor of three numbers")
    form = f"{elements.order}H{'h' if signed else 'H'}H"
    count, first, bits = struct.unpack_from(form, raw)
    count = count or _MOST_ENTRIES  # PS3.3 C.11.1.1.1
    content = elements.raw(data)
    if bits not in _BIT_DEPTHS:
        raise RejectedError(f"a lookup table with entries of {bits} bits")
    if count <= len(content) < 2 * count and bits == _BIT_DEPTHS[0]:
        return LookupTable(first, bits, _packed_bytes(content, count, elements.order))
    if len(content) < 2 * count:
        raise RejectedError(f"a lookup table of {len(content)} bytes has not got {count} entries")
    entries = np.frombuffer(content, f"{elements.order}u2", count).astype(np.uint16)
    return LookupTable(first, bits, entries)


def _packed_bytes(content: bytes, count: int, order: str) -> NDArray[np.uint16]:
    """Entries of 8 bits, two in each word: the first in its lower half (PS3.3 C.7.6.3.1.6)."""
    if order == ">" and len(content) % 2 == 0:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return np.frombuffer(content, np.uint8, count).astype(np.uint16)
