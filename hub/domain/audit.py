"""The tamper-evident audit log: each event carries the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

GENESIS_HASH = "0" * 64
"""``previous_hash`` of the first event."""


class AuditOutcome(StrEnum):
    """FHIR AuditEvent.outcome: 0, 4, 8, 12."""

    SUCCESS = "success"
    MINOR_FAILURE = "minor-failure"
    SERIOUS_FAILURE = "serious-failure"
    MAJOR_FAILURE = "major-failure"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened to one entity."""

    at: datetime
    """UTC, microseconds."""
    actor: str
    """Who acted: ``source:dicom``, ``worker:<id>``, ``user:<name>``."""
    action: str
    """``study.received``, ``inference.started`` ...: see the operator guide."""
    entity: str
    """What it happened to: ``study:<uid>``, ``request:<id>``, ``delivery:<id>`` ..."""
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON values only; identifiers yes, names and birth dates no."""
    study_instance_uid: str = ""
    """The study this belongs to, for its timeline; empty where none."""
    sequence: int = 0
    previous_hash: str = ""
    hash: str = ""

    def canonical(self) -> bytes:
        """The bytes that are hashed: every field but ``hash``, in one fixed form."""
        return json.dumps(
            {
                "sequence": self.sequence,
                "at": self.at.isoformat(timespec="microseconds"),
                "actor": self.actor,
                "action": self.action,
                "entity": self.entity,
                "outcome": self.outcome.value,
                "detail": dict(self.detail),
                "study_instance_uid": self.study_instance_uid,
                "previous_hash": self.previous_hash,
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()

    def chained(self, sequence: int, previous_hash: str) -> AuditEvent:
        """This event at its place in the chain."""
        placed = replace(self, sequence=sequence, previous_hash=previous_hash, hash="")
        return replace(placed, hash=hashlib.sha256(placed.canonical()).hexdigest())


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first row at which the log no longer proves itself."""

    sequence: int
    problem: str


def first_break(
    events: Iterable[AuditEvent], *, head_sequence: int, head_hash: str
) -> ChainBreak | None:
    """Walk the whole chain; None when every row proves itself and the last one is the head.

    Finds edited, removed, inserted and reordered rows; the head, which is kept apart from the
    log, also finds rows that were cut off its end or added to it.
    """
    sequence, previous_hash = 0, GENESIS_HASH
    for event in events:
        if event.sequence > head_sequence:
            return ChainBreak(event.sequence, "was added behind the head of the log")
        problem = _problem(event, sequence + 1, previous_hash)
        if problem:
            return ChainBreak(event.sequence, problem)
        sequence, previous_hash = event.sequence, event.hash
    if sequence < head_sequence:
        return ChainBreak(sequence + 1, "is missing at the end of the log")
    if previous_hash != head_hash:
        return ChainBreak(sequence, "is not the head of the log")
    return None


def _problem(event: AuditEvent, sequence: int, previous_hash: str) -> str:
    if event.sequence != sequence:
        return f"row {sequence} is missing or out of order"
    if event.previous_hash != previous_hash:
        return "does not continue the row before it"
    if hashlib.sha256(event.canonical()).hexdigest() != event.hash:
        return "was changed after it was written"
    return ""
