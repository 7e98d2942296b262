"""Configuration of a FHIR server as a health record."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from connectors.fhir.config import FhirServerConfig


class FhirRecordConfig(FhirServerConfig):
    """A FHIR R4 server where measured values of patients are kept."""

    url: str
    """Base URL, e.g. `https://ehr.example.org/fhir`."""
    timeout: float = Field(default=20.0, gt=0, le=600)
    """Seconds for one page of an answer; a server that takes longer is asked again later."""
    page_size: int = Field(default=100, ge=1, le=1000)
    """Values that are asked for at once."""
    most_values: int = Field(default=5000, ge=1, le=100000)
    """A patient with more values of the wanted codes is refused rather than read in part."""
    identifier_systems: Mapping[str, str] = Field(default_factory=dict)
    """Issuer of patient IDs as in the DICOM header -> URI of its system at this server; overrides
    `site.identifier_systems`. Under an empty issuer: that of IDs without one."""
