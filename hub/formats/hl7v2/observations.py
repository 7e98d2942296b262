"""OBX segments of a result, and what tells those with the same code apart (HL7 v2.5.1 7.4.2)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hub.domain.coding import Code
from hub.domain.finding import Finding
from hub.domain.inference import InferenceRequest
from hub.domain.model_card import ModelCard
from hub.formats.encoding import EncodingContext, device_uid
from hub.formats.hl7v2.fields import coded_element, observed_at, person, timestamp
from hub.formats.hl7v2.message import components, escaped, formatted, segment

_OTHER = re.compile(r"[^A-Za-z0-9]+")
_LONGEST_NAME = 14
"""With the numbers that may follow, at most the 20 characters of OBX-4."""
_DIGEST = 4


@dataclass(slots=True)
class Observations:
    """Collects OBX segments, each with its notes; what all have in common is filled in."""

    request: InferenceRequest
    card: ModelCard
    context: EncodingContext
    segments: list[str] = field(default_factory=list)
    _number: int = 0

    def add(
        self,
        identifier: str,
        status: str,
        value_type: str = "",
        value: str = "",
        *,
        coded: Code | None = None,
        sub_id: str = "",
        unit: str = "",
        flag: str = "",
        probability: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        """One observation.

        Args:
            identifier: OBX-3, encoded.
            status: OBX-11.
            value_type: OBX-2; empty where there is no value.
            value: OBX-5, encoded.
            coded: the value, where it is a code.
            sub_id: OBX-4.
            unit: OBX-6, encoded.
            flag: OBX-8.
            probability: OBX-9.
            notes: what follows in NTE; empty ones are left out.
        """
        if coded is not None:  # CE: table 0125 of version 2.5.1 does not list CWE
            value_type, value = "CE", coded_element(coded)
        self._number += 1
        own = {
            1: str(self._number),
            2: value_type,
            3: identifier,
            4: escaped(sub_id),
            5: value,
            6: unit,
            8: flag,
            9: probability,
            11: status,
        }
        self.segments.append(segment("OBX", own | self._common()))
        for number, text in enumerate((text for text in notes if text), start=1):
            note = {1: str(number), 2: "L", 3: formatted(text)}
            self.segments.append(segment("NTE", note))

    def _common(self) -> dict[int, str]:
        model = self.request.model
        observer = self.context.report.verifier
        equipment = components(str(model), "CAIDX", device_uid(model), "ISO")
        udi = self.card.regulation.udi_di
        made_at = self.context.made_at.astimezone(self.context.timezone)
        return {
            14: observed_at(self.request),
            16: person(observer.name, observer.identifier, observer.identifier_system)
            if observer is not None
            else "",
            17: components(model.model_id, f"AI: {self.card.name} {self.card.version}", "99CAIDX"),
            18: "~".join([equipment, components(udi, "UDI-DI")] if udi else [equipment]),
            19: timestamp(made_at),
            23: escaped(self.context.institution_name),
        }


def sub_identifiers(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Each finding with its OBX-4: findings of the same thing share it (7.4.2.4), and of those
    with the same code each has its own. It is made of names, so that a later message finds what
    an earlier one said."""
    groups: dict[str, str] = {}
    names: Counter[str] = Counter()
    taken: Counter[tuple[Code, str]] = Counter()
    found = []
    for finding in findings:
        if finding.tracking_uid not in groups:
            name = sub_identifier(finding.tracking_identifier)
            names[name] += 1
            groups[finding.tracking_uid] = _numbered(name, names[name])
        group = groups[finding.tracking_uid]
        taken[finding.code, group] += 1
        found.append((finding, _numbered(group, taken[finding.code, group])))
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}.{number}"


def sub_identifier(tracking_identifier: str) -> str:
    """OBX-4 of the (first) finding of this name."""
    name = _OTHER.sub("-", tracking_identifier).strip("-")
    if name and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(tracking_identifier.encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST_NAME - _DIGEST - 1]}-{digest}"
