"""Files in folders, in both directions: the connector to read first when you write your own."""

from __future__ import annotations

from connectors.folder.config import FolderDestinationConfig, FolderSourceConfig
from connectors.folder.destination import build_destination
from connectors.folder.source import build_source
from hub.domain.delivery import DocumentKind
from hub.ports import Connector

CONNECTOR = Connector(
    source_config=FolderSourceConfig,
    build_source=build_source,
    destination_config=FolderDestinationConfig,
    build_destination=build_destination,
    accepts=tuple(DocumentKind),
)
