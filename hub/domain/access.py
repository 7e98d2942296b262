"""Who may use the hub's doors: the HTTP API, FHIR, DICOMweb."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key opens."""

    SYSTEM = "system"
    """Hospital systems: send and read images, orders, values and reports (DICOMweb, FHIR)."""
    VENDOR = "vendor"
    """A vendor: registers and watches its own models, and sees nothing of others."""
    OPERATOR = "operator"
    """People who run the hub: studies, requests, deliveries, models, assessments, metrics."""
    AUDITOR = "auditor"
    """Reads everything that operators read, and the audit log; changes nothing."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever came through a door."""

    name: str
    """Of the key; stands in the audit log as ``key:<name>``."""
    scope: Scope
    vendor: str = ""
    """Of scope ``vendor``: the vendor's name, as ``vendor.name`` in its model cards."""

    @property
    def actor(self) -> str:
        """As in the audit log."""
        return f"key:{self.name}"
