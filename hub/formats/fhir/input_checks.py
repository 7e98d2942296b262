"""Is a resource that somebody sent one of FHIR R4 (4.0.1)?

fhir.resources checks the shape of those types that the hub reads, what they contain included. It
does not see codes that their element cannot have, and empty elements: rules of our own do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from hub.formats.fhir.outcome import Issue
from hub.ports import importing

Json = dict[str, Any]

MOST_ELEMENTS = 50_000
"""Of one resource; an ImagingStudy that lists five thousand instances has about thirty thousand."""

_MODULES = {
    "Task": "task",
    "ServiceRequest": "servicerequest",
    "Observation": "observation",
    "ImagingStudy": "imagingstudy",
    "Patient": "patient",
    "Endpoint": "endpoint",
    "DiagnosticReport": "diagnosticreport",
}
_TASK = "draft requested received accepted rejected ready cancelled in-progress on-hold failed"
_REQUEST = "draft active on-hold revoked completed entered-in-error unknown"
_INTENT = "proposal plan directive order original-order reflex-order filler-order instance-order"
_PRIORITY = frozenset(["routine", "urgent", "asap", "stat"])
_CODES = {
    ("Task", "status"): frozenset(f"{_TASK} completed entered-in-error".split()),
    ("Task", "intent"): frozenset(f"unknown {_INTENT} option".split()) - {"directive"},
    ("Task", "priority"): _PRIORITY,
    ("ServiceRequest", "status"): frozenset(_REQUEST.split()),
    ("ServiceRequest", "intent"): frozenset(f"{_INTENT} option".split()),
    ("ServiceRequest", "priority"): _PRIORITY,
    ("Observation", "status"): frozenset(
        [
            "registered",
            "preliminary",
            "final",
            "amended",
            "corrected",
            "cancelled",
            "entered-in-error",
            "unknown",
        ]
    ),
    ("ImagingStudy", "status"): frozenset(
        ["registered", "available", "cancelled", "entered-in-error", "unknown"]
    ),
    ("Patient", "gender"): frozenset(["male", "female", "other", "unknown"]),
    ("Endpoint", "status"): frozenset(
        ["active", "suspended", "error", "off", "entered-in-error", "test"]
    ),
}
"""Required bindings of R4; fhir.resources takes any text."""
_COMPARATORS = frozenset(("<", "<=", ">=", ">"))
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_WORDS = {
    "missing": ("required", "is missing"),
    "model_field_validation.missing": ("required", "is missing"),
    "extra_forbidden": ("structure", "is no element of R4"),
}


def input_problems(resource: Json, where: str = "") -> list[Issue]:
    """What is wrong with a resource of a type that the hub reads; names places, never values.

    Args:
        resource: with ``resourceType``.
        where: FHIRPath of the resource; empty: the type's own name.
    """
    kind = str(resource.get("resourceType", ""))
    place = where or kind
    if _is_huge(resource):
        return [Issue("too-costly", f"{kind} has more than {MOST_ELEMENTS} elements", place)]
    found = [*_shape(kind, resource, place), *_codes(kind, resource, place)]
    found += _empties(resource, place)
    contained = resource.get("contained", [])
    for number, inner in enumerate(contained if isinstance(contained, list) else []):
        if isinstance(inner, dict) and inner.get("resourceType") in _MODULES:
            found += _shape(inner["resourceType"], inner, f"{place}.contained[{number}]")
            found += _codes(inner["resourceType"], inner, f"{place}.contained[{number}]")
    return found


def _is_huge(resource: Json) -> bool:
    """Each wrong element costs a kilobyte and more while it is judged."""
    level: list[Any] = [resource]
    counted = 0
    while level and counted <= MOST_ELEMENTS:
        inner = [one for v in level for one in (v.values() if isinstance(v, dict) else v)]
        counted += len(inner)
        level = [one for one in inner if isinstance(one, dict | list)]
    return counted > MOST_ELEMENTS


@lru_cache
def _model(kind: str) -> type[BaseModel]:
    """Loading them takes about 0.2 s: at the first message."""
    with importing():
        module = import_module(f"fhir.resources.R4B.{_MODULES[kind]}")
    model: type[BaseModel] = getattr(module, kind)
    return model


def _shape(kind: str, resource: Json, place: str) -> Iterator[Issue]:
    try:
        _model(kind).model_validate(resource)
    except ValidationError as error:
        # without input and context: both hold the sender's data
        details = error.errors(include_url=False, include_context=False, include_input=False)
        for detail in details:
            code, words = _WORDS.get(detail["type"], ("value", "has a value that R4 forbids"))
            steps = [_step(part) for part in detail["loc"]]
            yield Issue(
                code, f"{kind}: {steps[-1] if steps else kind} {words}", _path(place, steps)
            )


def _step(part: int | str) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return part if _PLAIN.fullmatch(part) else "an element"


def _path(place: str, steps: list[str]) -> str:
    return place + "".join(step if step.startswith("[") else f".{step}" for step in steps)


def _codes(kind: str, resource: Json, place: str) -> Iterator[Issue]:
    for (of, name), allowed in _CODES.items():
        value = resource.get(name)
        if of == kind and isinstance(value, str) and value not in allowed:
            yield Issue("code-invalid", f"{kind}.{name} has no code of R4", f"{place}.{name}")
    quantity = resource.get("valueQuantity") if kind == "Observation" else None
    comparator = quantity.get("comparator") if isinstance(quantity, dict) else None
    if comparator is not None and comparator not in _COMPARATORS:
        text = "Observation.valueQuantity.comparator has no code of R4"
        yield Issue("code-invalid", text, f"{place}.valueQuantity.comparator")


def _empties(resource: Json, place: str) -> Iterator[Issue]:
    """R4 json.html: no element is empty; ``null`` stands only in lists of primitive values."""
    waiting: list[tuple[str, Any]] = [(place, resource)]
    while waiting:
        path, value = waiting.pop()
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            inside = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{_step(name)}"
            if inner in ("", [], {}) or (inner is None and isinstance(name, str)):
                yield Issue("structure", "an element is empty", inside)
            elif isinstance(inner, dict | list):
                waiting.append((inside, inner))
