"""DICOM: C-STORE and C-ECHO in both directions; archives by C-FIND, C-MOVE and C-GET."""

from __future__ import annotations

from connectors.dicom.archive_config import DicomArchiveConfig
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=DicomSourceConfig,
    build_source=at_first_call("connectors.dicom.source:build_source"),
    archive_config=DicomArchiveConfig,
    build_archive=at_first_call("connectors.dicom.archive:build_archive"),
    destination_config=DicomDestinationConfig,
    build_destination=at_first_call("connectors.dicom.destination:build_destination"),
    accepts=tuple(sorted(DICOM_KINDS)),
    sends=(DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF),
    send_files=at_first_call("connectors.dicom.sender:send_files"),
)
