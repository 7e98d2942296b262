"""A FHIR R4 Observation (R4 observation.html) as a measured value.

Read as plain JSON, as ``hub.formats.fhir.imaging_study`` does: a laboratory's resource that is
wrong somewhere else still has its value. Nothing is converted and nothing is guessed: a unit that
is not from UCUM is none, and whoever uses the value says so. Components, and the members of a
panel (``hasMember``), are not read: a member is a resource of its own.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hub.domain.coding import CODING_SYSTEMS, Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.errors import RejectedError

Json = Mapping[str, Any]

_SCHEMES = {system: scheme for scheme, system in CODING_SYSTEMS.items()} | {
    "urn:oid:2.16.840.1.113883.6.1": "LN",
    "urn:oid:2.16.840.1.113883.6.96": "SCT",
}
"""System -> coding scheme designator; of an unknown system the URI itself is the designator."""
_UCUM = CODING_SYSTEMS["UCUM"]
_DATE_TIME = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(?P<time>T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?)?)?"
)
"""R4 datatypes.html#dateTime; an instant is one with everything."""
_LONGEST, _LONGEST_UNIT = 1024, 64


def observation_of(
    resource: Json, *, patient: PatientIdentity, reference: str, source: str
) -> Observation:
    """The value that an Observation states.

    ``effective_at`` is the earliest moment that a partial date can mean (``2020-05`` is the first
    of May, 0 h UTC), so that a value never counts as younger than it is; of a Period it is the
    end, or the start where there is no end; of a Timing nobody knows.

    Args:
        resource: the Observation as decoded JSON.
        patient: whose it is; the caller resolved ``subject``.
        reference: where it stands, or empty (`Observation.reference`).
        source: name of the source or health record that it came from.

    Raises:
        RejectedError: it is no Observation, or an element is not of its type; names the element,
            never a value.
    """
    if resource.get("resourceType") != "Observation":
        raise RejectedError("this is no Observation")
    status = _text(resource, "status")
    if not status:
        raise RejectedError("Observation.status is missing")
    quantity = _object(resource, "valueQuantity") or {}
    found = Observation(
        observation_id="",
        patient=patient,
        codes=_codes(resource),
        status=status,
        effective_at=_effective_at(resource),
        value=_number(quantity),
        unit=_unit(quantity),
        comparator=_text(quantity, "comparator"),
        absent_reason=_absent_reason(resource),
        reference=reference,
        identifier=_identifier(resource),
        source=source,
    )
    return _identified(found)


# --- elements ----------------------------------------------------------------------------


def _codes(resource: Json) -> tuple[Code, ...]:
    """Every coding with a system and a code, LOINC first."""
    concept = _object(resource, "code")
    if concept is None:
        raise RejectedError("Observation.code is missing")
    found = []
    for coding in _objects(concept, "coding"):
        system, value = _text(coding, "system"), _text(coding, "code")
        if system and value:
            meaning = _text(coding, "display") or _text(concept, "text") or value
            found.append(Code(value, _SCHEMES.get(system, system), meaning))
    return tuple(sorted(found, key=lambda code: code.coding_scheme_designator != "LN"))


def _number(quantity: Json) -> float | None:
    value = quantity.get("value")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectedError("Observation.valueQuantity.value is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RejectedError("Observation.valueQuantity.value is no finite number")
    return number


def _unit(quantity: Json) -> Code | None:
    code = _text(quantity, "code")
    if _text(quantity, "system") != _UCUM or not 0 < len(code) <= _LONGEST_UNIT:
        return None
    return Code(code, "UCUM", _text(quantity, "unit") or code)


def _absent_reason(resource: Json) -> str:
    """By its code. Words are not kept: reasons are told to vendors, and people write names."""
    concept = _object(resource, "dataAbsentReason") or {}
    codings = _objects(concept, "coding")
    named = next((_text(c, "display") or _text(c, "code") for c in codings), "")
    return named or ("not coded" if _text(concept, "text") else "")


def _identifier(resource: Json) -> tuple[str, str] | None:
    """The first that has both a system and a value."""
    pairs = (
        (_text(one, "system"), _text(one, "value")) for one in _objects(resource, "identifier")
    )
    return next((pair for pair in pairs if all(pair)), None)


# --- time --------------------------------------------------------------------------------


def _effective_at(resource: Json) -> datetime | None:
    period = _object(resource, "effectivePeriod") or {}
    stated = (
        (resource, "effectiveDateTime"),
        (resource, "effectiveInstant"),
        (period, "end"),
        (period, "start"),
    )
    for parent, name in stated:
        if text := _text(parent, name):
            return _moment(text)
    return None


def _moment(text: str) -> datetime:
    matched = _DATE_TIME.fullmatch(text)
    if matched is None:
        raise RejectedError("Observation.effective is no date")
    try:
        if matched["time"]:
            return datetime.fromisoformat(text).astimezone(UTC)
        year, month, day = (int(matched[name] or 1) for name in ("year", "month", "day"))
        return datetime(year, month, day, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RejectedError("Observation.effective is no date") from None


# --- the hub's own number ----------------------------------------------------------------


def _identified(found: Observation) -> Observation:
    """Of where it stands and what it says: a corrected value is another observation."""
    said = (
        found.source,
        found.reference,
        found.identifier,
        found.patient.key,
        [(code.coding_scheme_designator, code.code_value) for code in found.codes],
        found.status,
        found.effective_at.isoformat() if found.effective_at else "",
        found.value,
        found.unit.code_value if found.unit else "",
        found.comparator,
        found.absent_reason,
    )
    digest = hashlib.sha256(repr(said).encode()).hexdigest()[:32]
    return replace(found, observation_id=digest)


# --- JSON --------------------------------------------------------------------------------


def _text(parent: Json, name: str) -> str:
    value = parent.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise RejectedError(f"Observation: {name} is no text, or too long")
    return value.strip()


def _object(parent: Json, name: str) -> Json | None:
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise RejectedError(f"Observation: {name} is no JSON object")
    return value


def _objects(parent: Json, name: str) -> list[Json]:
    value = parent.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RejectedError(f"Observation: {name} is no list of JSON objects")
    return value
