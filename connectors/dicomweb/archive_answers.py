"""The values of QIDO-RS answers in the DICOM JSON model (PS3.18 annex F)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def fields(tags: Sequence[int]) -> tuple[str, ...]:
    """Tags as PS3.18 writes them."""
    return tuple(f"{tag:08X}" for tag in tags)


def text_of(answer: Mapping[str, Any], tag: int) -> str:
    """A value as text; several are joined by a backslash, none is empty."""
    element = answer.get(f"{tag:08X}")
    values = element.get("Value") if isinstance(element, dict) else None
    if not isinstance(values, list):
        return ""
    return "\\".join(str(value) for value in values if isinstance(value, str | int)).strip()
