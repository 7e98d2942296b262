"""JSON as senders of FHIR write it, read without trust (R4 json.html).

What JSON leaves open and two readers could understand differently is refused: names that occur
twice, numbers that are none, text that is no Unicode. So is what only costs: deep nesting.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import orjson

from hub.formats.fhir.outcome import malformed

Json = dict[str, Any]

FHIR_JSON = "application/fhir+json"
"""R4 http.html#mime-type."""

DEEPEST = 64
"""Levels; the deepest resources in use have about twenty."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""R4 datatypes.html#string: no control characters but tab, carriage return and line feed."""


def decoded(body: bytes) -> Json:
    """One JSON object.

    Raises:
        Refused: 400, with the place; no values.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise malformed(f"the body is no JSON ({place})", code="structure") from None
    if not isinstance(value, dict):
        raise malformed("the body is no JSON object")
    _examine(value)
    json.loads(body, object_pairs_hook=_without_duplicates)
    return value


def _examine(value: Json) -> None:
    """Depth and texts, without recursion."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise malformed(f"the JSON is nested deeper than {DEEPEST} levels", code="too-costly")


def _inside(value: Json | list[Any]) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    if any(isinstance(one, str) and _CONTROL.search(one) for one in inner):
        raise malformed("a text holds control characters", code="value")
    return [one for one in inner if isinstance(one, dict | list)]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counted = Counter(name for name, _ in pairs)
    twice = next(name for name, count in counted.items() if count > 1)
    named = twice if _NAME.fullmatch(twice) else "a name"
    raise malformed(f"the JSON has {named} twice in one object", code="structure")
