"""Parameters of a search (R4 search.html): which ones each type has, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from hub.domain.identity import PatientIdentity
from hub.formats.fhir.outcome import Issue, Refused, malformed

Json = dict[str, Any]
Pairs = Sequence[tuple[str, str]]

RESULT_PARAMETERS = ("_count", "_cursor", "_summary", "_format", "_pretty")
PATIENT = "patient"
PATIENT_NAMES = frozenset(
    f"{name}{way}"
    for name in (PATIENT, "subject")
    for way in (":identifier", ".identifier", ":Patient.identifier", "")
)
SEARCHES: Mapping[str, tuple[str, ...]] = {
    "DiagnosticReport": ("_id", "identifier", "patient", "subject", "based-on", "status", "code"),
    "Observation": ("_id", "identifier", "patient", "subject", "based-on", "status", "code"),
    "Task": ("_id", "identifier", "patient", "subject", "based-on", "status"),
    "ServiceRequest": ("_id", "identifier", "patient", "subject", "based-on", "status"),
    "ImagingStudy": ("_id", "identifier", "patient", "subject"),
    "Device": ("_id", "identifier"),
    "Provenance": ("_id", "target", "patient"),
}
"""What can be searched by. ``patient`` and ``subject``: by identifier."""

_TOKENS = ("status", "code")
_SEVERAL = re.compile(r"(?<!\\),")
"""A comma that is not escaped: one of several values (R4 search.html#combining)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A search that is understood; what is empty is not asked for."""

    resource_type: str
    resource_id: str = ""
    identifier: tuple[str, str] | None = None
    """System (empty: any) and value."""
    patient: tuple[str, str] | None = None
    based_on: str = ""
    target: str = ""
    tokens: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Element -> codes (``system|code`` or ``code``), of which one has to be there."""
    count: int = 50
    cursor: str = ""
    only_counted: bool = False
    used: tuple[tuple[str, str], ...] = ()
    """What is used of the query, for the links."""
    ignored: tuple[str, ...] = ()
    """Names of what was not understood."""


def wanted_of(resource_type: str, query: Pairs, most: int, *, strict: bool) -> Wanted:
    """A search of a type.

    Raises:
        Refused: 400, a value cannot be read; or, where the client wants it so, a parameter is not
            known.
    """
    fields: dict[str, Any] = {"resource_type": resource_type, "count": min(50, most)}
    tokens: list[tuple[str, tuple[str, ...]]] = []
    used, ignored = [], []
    for name, value in query:
        _check_modifier(resource_type, name)
        if not value or not _is_known(resource_type, name):
            ignored.append(name.partition(":")[0])
            continue
        used.append((name, value))
        if name in _TOKENS:
            tokens.append((name, tuple(value.split(","))))
            continue
        field, meaning = _meaning(name, value, most)
        if field and fields.get(field, meaning) != meaning and field != "count":
            raise malformed(f"{_plain(name)} can be given once", code="not-supported")
        if field:
            fields[field] = meaning
    if ignored and strict:
        names = ", ".join(sorted({_plain(name) for name in ignored}))
        issue = Issue("not-supported", f"not a parameter of {resource_type} here: {names}")
        raise Refused(HTTPStatus.BAD_REQUEST, issue)
    shown = tuple(pair for pair in used if pair[0] != "_cursor")
    return Wanted(**fields, tokens=tuple(tokens), used=shown, ignored=tuple(ignored))


def _check_modifier(resource_type: str, name: str) -> None:
    """To ignore one would answer another question (R4 search.html#modifiers: SHALL reject)."""
    plain = re.split(r"[:.]", name)[0]
    if plain != name and _is_known(resource_type, plain) and not _is_known(resource_type, name):
        text = f"{plain} has no such modifier or chain here"
        raise malformed(text, code="not-supported")


def _is_known(resource_type: str, name: str) -> bool:
    if name in RESULT_PARAMETERS:
        return True
    names = SEARCHES[resource_type]
    if name in PATIENT_NAMES:
        return PATIENT in names
    return name in names or (name in _BASED_ON and "based-on" in names)


_BASED_ON = ("based-on:identifier", "based-on.identifier")


def _meaning(name: str, value: str, most: int) -> tuple[str, Any]:
    """Field of `Wanted` and its value; no field: it changes nothing."""
    reader = _READERS.get(name)
    if (reader is not None or name in PATIENT_NAMES) and _SEVERAL.search(value):
        raise malformed(f"{_plain(name)} can have one value here", code="not-supported")
    if reader is not None:
        return reader(value)
    if name in PATIENT_NAMES:
        return "patient", _patient(name, value)
    if name == "_count":
        if not value.isdecimal():
            raise malformed("_count is no number", code="value")
        return "count", max(1, min(int(value[:9]), most))
    if name == "_summary":
        if value not in ("count", "false"):
            raise malformed("_summary can be count or false here", code="not-supported")
        return "only_counted", value == "count"
    return "", None


_READERS: Mapping[str, Callable[[str], tuple[str, Any]]] = {
    "_id": lambda value: ("resource_id", value),
    "_cursor": lambda value: ("cursor", value),
    "identifier": lambda value: ("identifier", token(value)),
    "based-on": lambda value: ("based_on", value),
    "based-on:identifier": lambda value: ("based_on", value),
    "based-on.identifier": lambda value: ("based_on", value),
    "target": lambda value: ("target", value),
}


def _patient(name: str, value: str) -> tuple[str, str]:
    if not name.endswith("identifier") and "|" not in value:
        text = "the hub keeps no Patients of its own: search by patient:identifier=<system>|<value>"
        raise malformed(text, code="not-supported")
    return token(value)


def token(value: str) -> tuple[str, str]:
    """``system|value``; without a system any one fits."""
    system, bar, code = value.partition("|")
    found = (system, code) if bar else ("", value)
    if not found[1]:
        raise malformed("an identifier has no value", code="value")
    return found[0], re.sub(r"\\([|,$\\])", r"\1", found[1])


def token_of(query: Pairs, place: str) -> tuple[str, str]:
    """The one identifier that a condition asks for.

    Raises:
        Refused: 412, it asks for anything else.
    """
    if len(query) != 1 or query[0][0] != "identifier":
        issue = Issue("not-supported", "conditions can be identifier=<system>|<value>", place)
        raise Refused(HTTPStatus.PRECONDITION_FAILED, issue)
    return token(query[0][1])


def identity_of(wanted: tuple[str, str], issuers: Mapping[str, str]) -> PatientIdentity | None:
    """The patient in terms of the images; None: nobody can have an identifier of this system."""
    system, value = wanted
    if not system:
        return PatientIdentity(value)
    return PatientIdentity(value, issuers[system]) if system in issuers else None


def _plain(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").replace(":", "").isalnum() else "a name"
