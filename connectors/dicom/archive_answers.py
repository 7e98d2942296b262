"""Queries to an archive as data sets, and the values of its answers (PS3.4 C.6.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue


def identifier(level: str, keys: Sequence[int], **matching: str | list[str]) -> Dataset:
    """A query: the tags ``keys`` are asked for, ``matching`` keywords restrict the answers."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    names = [keyword_for_tag(key) for key in keys]
    for name in names:
        setattr(asked, name, "")
    for name, value in matching.items():
        if value or name in names:
            setattr(asked, name, value)
    if not str(matching).isascii():
        asked.SpecificCharacterSet = "ISO_IR 192"
    return asked


def text_of(answer: Dataset, tag: int) -> str:
    """A value as text; several are joined by a backslash, none is empty."""
    try:
        value = answer[tag].value if tag in answer else None
    except (ValueError, TypeError, OverflowError):
        return ""  # the archive's value is none of its VR
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(one) for one in value)
    return str(value).strip()
