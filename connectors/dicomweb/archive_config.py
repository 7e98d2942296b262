"""What a person can configure of an archive that is asked by DICOMweb."""

from __future__ import annotations

from pydantic import Field

from hub.transport.http_config import HttpPeerConfig


class DicomWebArchiveConfig(HttpPeerConfig):
    """A PACS that the hub may ask for studies: QIDO-RS and WADO-RS (PS3.18)."""

    url: str
    """Base URL of the service, e.g. `https://pacs.example.org/dicom-web`."""
    query_timeout: float = Field(default=20.0, gt=0, le=600)
    """Seconds within which a query is answered."""
