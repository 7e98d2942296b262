"""DICOM: C-STORE and C-ECHO, in both directions."""

from __future__ import annotations

from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.destination import build_destination
from connectors.dicom.sender import send_files
from connectors.dicom.source import build_source
from hub.domain.delivery import DocumentKind
from hub.ports import Connector

CONNECTOR = Connector(
    source_config=DicomSourceConfig,
    build_source=build_source,
    destination_config=DicomDestinationConfig,
    build_destination=build_destination,
    accepts=(DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF),
    send_files=send_files,
)
