"""Where segments and free extents lie, and what they are called.

    <root>/free/<class>-<32hex>             an extent full of zeros, of so many MiB
    <root>/free/<class>-<32hex>.making      one that is being made
    <root>/free/outsize-<32hex>.making      a large object that is being received
    <root>/used/<2hex>/<32hex>.segment      a segment

The hexadecimal number is random, stays when an extent is claimed, and is a new one after its
release: so a name never denotes the bytes of two studies, and tells nothing about either.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from hub.errors import IntegrityError

FREE, USED = "free", "used"
BELL = "bell"
MAKING = ".making"
MEBIBYTE = 1 << 20
EXTENT_CLASSES = (1 * MEBIBYTE, 4 * MEBIBYTE, 16 * MEBIBYTE, 64 * MEBIBYTE)
"""Sizes of extents in bytes, ascending."""

_SUFFIX = ".segment"
_SEGMENT = re.compile(r"[0-9a-f]{32}\.segment\Z")
_FREE = re.compile(r"(1|4|16|64)-([0-9a-f]{32})\Z")


def new_number() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex


def is_segment(name: str) -> bool:
    """Whether it is the name of a segment."""
    return _SEGMENT.match(name) is not None


def segment_name(number: str) -> str:
    """``<32hex>.segment``."""
    return number + _SUFFIX


def path_of(root: Path, segment: str) -> Path:
    """Where a segment lies.

    Raises:
        IntegrityError: not the name of a segment.
    """
    if not is_segment(segment):
        raise IntegrityError("not the name of a segment")
    return root / USED / segment[:2] / segment


def free_name(size: int, number: str) -> str:
    """The name of a free extent of a class."""
    return f"{size // MEBIBYTE}-{number}"


def parse_free(name: str) -> tuple[int, str] | None:
    """(size in bytes, number) of a free extent; None for any other file."""
    found = _FREE.match(name)
    return (int(found[1]) * MEBIBYTE, found[2]) if found else None
