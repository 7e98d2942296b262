"""DICOMweb: STOW-RS in both directions, QIDO-RS and WADO-RS (PS3.18)."""

from __future__ import annotations

from connectors.dicomweb.archive_config import DicomWebArchiveConfig
from connectors.dicomweb.config import DicomWebSourceConfig
from connectors.dicomweb.destination_config import DicomWebDestinationConfig
from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=DicomWebSourceConfig,
    build_endpoint=at_first_call("connectors.dicomweb.endpoint:build_endpoint"),
    archive_config=DicomWebArchiveConfig,
    build_archive=at_first_call("connectors.dicomweb.archive:build_archive"),
    destination_config=DicomWebDestinationConfig,
    build_destination=at_first_call("connectors.dicomweb.destination:build_destination"),
    accepts=tuple(sorted(DICOM_KINDS)),
    sends=(DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF),
)
