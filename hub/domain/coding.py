"""Coded concepts (DICOM PS3.3 section 8.8, FHIR Coding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

CODING_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://radlex.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "99CAIDX": "urn:caidx:codes",
}
"""Coding scheme designator (PS3.16 section 8) -> FHIR ``Coding.system``."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: the triplet of PS3.3 Table 8.8-1."""

    code_value: str
    coding_scheme_designator: str
    code_meaning: str

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @property
    def system(self) -> str:
        """FHIR ``Coding.system``; a private scheme becomes ``urn:caidx:codes:<scheme>``. Codes that
        came by FHIR from a system that DICOM has no designator for have its URI in place of one."""
        scheme = self.coding_scheme_designator
        if ":" in scheme:
            return scheme
        return CODING_SYSTEMS.get(scheme, f"urn:caidx:codes:{scheme}")
