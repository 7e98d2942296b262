"""Files in folders, in both directions: the connector to read first when you write your own."""

from __future__ import annotations

from connectors.folder.config import USUAL_DOCUMENTS, FolderDestinationConfig, FolderSourceConfig
from hub.domain.delivery import DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=FolderSourceConfig,
    build_source=at_first_call("connectors.folder.source:build_source"),
    destination_config=FolderDestinationConfig,
    build_destination=at_first_call("connectors.folder.destination:build_destination"),
    accepts=tuple(kind for kind in DocumentKind if kind is not DocumentKind.RECORD),
    sends=USUAL_DOCUMENTS,
)
