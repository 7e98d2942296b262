"""A measured value from the record, such as a laboratory result (FHIR R4 Observation)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One value, as somebody reported it; nothing is converted."""

    observation_id: str
    """32 hexadecimal digits, from where it stands and what it says: the same content of the same
    resource is the same observation."""
    patient: PatientIdentity
    codes: tuple[Code, ...]
    """What was measured, in every coding that the sender gave (LOINC first, if it is there)."""
    status: str
    """FHIR observation-status: final, amended, corrected, preliminary, entered-in-error ..."""
    effective_at: datetime | None
    """When the specimen was taken or the value held (UTC); None where nobody says."""
    value: float | None = None
    unit: Code | None = None
    """UCUM, as the sender wrote it; None where it is not from UCUM."""
    comparator: str = ""
    """``<``, ``<=``, ``>=``, ``>``: the value is a limit only."""
    absent_reason: str = ""
    """Why there is no value, by the sender's code."""
    reference: str = ""
    """Where it stands, as an absolute URL; empty where it is known by its identifier only."""
    identifier: tuple[str, str] | None = None
    """System and value of its business identifier."""
    source: str = ""
    """Name of the source or health record that it came from."""

    @property
    def is_usable(self) -> bool:
        """A released number (R4 observation-status), not a limit."""
        released = self.status in ("final", "amended", "corrected")
        return released and self.value is not None and not self.comparator

    def has(self, codes: tuple[Code, ...]) -> bool:
        """Whether it measures one of these."""
        wanted = {(one.coding_scheme_designator, one.code_value) for one in codes}
        return any((c.coding_scheme_designator, c.code_value) in wanted for c in self.codes)
