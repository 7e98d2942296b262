"""What a person can configure of an archive that gets results by STOW-RS."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hub.domain.delivery import DocumentKind
from hub.transport.http_config import HttpPeerConfig


class DicomWebDestinationConfig(HttpPeerConfig):
    """A DICOMweb server that gets results by STOW-RS (PS3.18 10.5)."""

    url: str
    """Base URL of the service, e.g. `https://pacs.example.org/dicom-web`."""
    documents: tuple[DocumentKind, ...] = (
        DocumentKind.SR,
        DocumentKind.SEG,
        DocumentKind.ENCAPSULATED_PDF,
    )
    """The kinds of document that it gets."""
    timeout: float = Field(default=60.0, gt=0, le=3600)
    """Seconds for a whole exchange; a server that takes longer is asked again later."""
    confirm: Literal["none", "query", "read"] = "none"
    """How it is found out that the server keeps what it took: `query` searches for the object
    (QIDO-RS), `read` reads its attributes (WADO-RS metadata)."""
    confirm_within: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that the server may take until it shows an object; after that it is sent again."""
