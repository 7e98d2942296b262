"""DICOMweb: STOW-RS, QIDO-RS and WADO-RS (PS3.18)."""

from __future__ import annotations

from connectors.dicomweb.archive_config import DicomWebArchiveConfig
from connectors.dicomweb.config import DicomWebSourceConfig
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=DicomWebSourceConfig,
    build_endpoint=at_first_call("connectors.dicomweb.endpoint:build_endpoint"),
    archive_config=DicomWebArchiveConfig,
    build_archive=at_first_call("connectors.dicomweb.archive:build_archive"),
)
