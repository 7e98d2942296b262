"""The raw values of a scanned header as texts and numbers."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from functools import lru_cache

from hub.formats.dicom.elements import Encoding, tag_name
from hub.formats.dicom.text import CharacterSet

_INTEGER = re.compile(r"[+-]?[0-9]{1,12}\Z")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")

_SHORT_TEXT = 64
"""Bytes of a text that is remembered."""


def _trimmed_text(specific_character_set: bytes, raw: bytes) -> tuple[str, bool]:
    """Decoded, without padding; and whether every character could be decoded."""
    text, clean = CharacterSet.of(specific_character_set).decode(raw)
    if "\\" in text:
        return "\\".join([part.strip(" \0") for part in text.split("\\")]), clean
    return text.strip(" \0"), clean


_short_text = lru_cache(maxsize=4096)(_trimmed_text)


_SPECIFIC_CHARACTER_SET = 0x00080005


class HeaderValues:
    """Raw values -> texts and numbers, with what could not be read noted."""

    __slots__ = ("_specific_character_set", "_us", "elements", "encoding", "warnings")

    def __init__(self, elements: Mapping[int, bytes], encoding: Encoding) -> None:
        self.elements = elements
        self.encoding = encoding
        self.warnings: list[str] = []
        """What could not be read, by tag; no values."""
        self._specific_character_set = elements.get(_SPECIFIC_CHARACTER_SET, b"")
        self._us = struct.Struct(">H" if encoding.big_endian else "<H")
        if CharacterSet.of(self._specific_character_set).unknown:
            self.warnings.append("SpecificCharacterSet (0008,0005) has a term that is not known")

    def text(self, tag: int) -> str:
        """Decoded, without padding; empty where there is none."""
        raw = self.elements.get(tag)
        return self.decoded(tag, raw) if raw else ""

    def decoded(self, tag: int, raw: bytes) -> str:
        """The same of a value that lies elsewhere, with the tag that it has there."""
        if len(raw) <= _SHORT_TEXT:  # most are those of the slice before
            text, clean = _short_text(self._specific_character_set, raw)
        else:
            text, clean = _trimmed_text(self._specific_character_set, raw)
        if not clean:
            self.warnings.append(f"{tag_name(tag)} has characters outside its character set")
        return text

    def integer(self, tag: int) -> int | None:
        """None where there is none, or it is no integer (VR IS)."""
        text = self.text(tag)
        if not text:
            return None
        if _INTEGER.match(text):
            return int(text)
        self.warnings.append(f"{tag_name(tag)} is not an integer")
        return None

    def unsigned(self, tag: int) -> int | None:
        """None where there is none, or it is not one unsigned short (VR US)."""
        raw = self.elements.get(tag)
        if not raw:
            return None
        if len(raw) != self._us.size:
            self.warnings.append(f"{tag_name(tag)} is not one unsigned short")
            return None
        value: int = self._us.unpack(raw)[0]
        return value

    def decimals(self, tag: int, count: int) -> list[float] | None:
        """None where there are not so many finite numbers (VR DS)."""
        text = self.text(tag)
        if not text:
            return None
        parts = text.split("\\")
        if len(parts) == count and all(map(_DECIMAL.match, parts)):
            numbers = [float(part) for part in parts]
            if all(map(math.isfinite, numbers)):
                return numbers
        self.warnings.append(f"{tag_name(tag)} is not {count} finite number(s)")
        return None
