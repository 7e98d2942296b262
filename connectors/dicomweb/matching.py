"""Matching of searches (PS3.4 C.2.2.2): single value, list of UIDs, wildcard, range, universal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RANGED = frozenset({"DA", "TM"})
_NUMBERS = frozenset({"IS", "US", "DS"})
_DAY = re.compile(r"[0-9]{8}\Z")
_TIME = re.compile(r"[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?\Z")


def is_valid(vr: str, pattern: str) -> bool:
    """Whether a key can be matched at all: dates, times and numbers have a form."""
    if is_universal(pattern):
        return True
    if vr in _RANGED:
        ends = pattern.split("-")
        form = _DAY if vr == "DA" else _TIME
        return len(ends) <= 2 and any(ends) and all(not e or form.match(e) for e in ends)  # noqa: PLR2004
    return vr not in _NUMBERS or re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", pattern) is not None


def is_universal(pattern: str) -> bool:
    """Nothing, or only ``*``: matches everything."""
    return not pattern.strip("*")


def has_wildcard(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def matches(element: Mapping[str, Any] | None, vr: str, pattern: str) -> bool:
    """Whether an element of a DICOM JSON model matches a key; one of several values is enough."""
    if is_universal(pattern):
        return True
    values = (element or {}).get("Value", ())
    return any(_matches_one(value, vr, pattern) for value in values if value is not None)


def _matches_one(value: Any, vr: str, pattern: str) -> bool:
    if vr == "UI":
        return value in re.split(r"[,\\]", pattern)
    if vr in _RANGED:
        return _in_range(str(value), pattern)
    if vr in _NUMBERS:
        return float(value) == float(pattern)
    if vr == "PN":  # PS3.4 C.2.2.2.1: may be without regard to case and accents; we: case
        return any(_wildcard(pattern, group, re.IGNORECASE) for group in value.values())
    return _wildcard(pattern, str(value), 0)


def _in_range(value: str, pattern: str) -> bool:
    """A moment within a range; a part of it stands for all of that part: ``10`` is 10:00-10:59."""
    start, dash, end = pattern.partition("-")
    if not dash:
        return value.startswith(start) or start.startswith(value)
    return (not start or value >= start) and (not end or value[: len(end)] <= end)


def _wildcard(pattern: str, text: str, flags: int) -> bool:
    """``*`` is any text, ``?`` one character. Compared piece by piece: no pattern makes it slow."""
    if flags & re.IGNORECASE:
        pattern, text = pattern.casefold(), text.casefold()
    at, tried, star, mark = 0, 0, -1, 0
    while at < len(text):
        if tried < len(pattern) and pattern[tried] == "*":
            star, mark, tried = tried, at, tried + 1
        elif tried < len(pattern) and pattern[tried] in {"?", text[at]}:
            at, tried = at + 1, tried + 1
        elif star >= 0:
            mark += 1
            at, tried = mark, star + 1
        else:
            return False
    return not pattern[tried:].strip("*")
