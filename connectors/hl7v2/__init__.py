"""HL7 v2 over MLLP: results as ORU^R01 to a RIS, and what an ADT feed says of patients."""

from __future__ import annotations

from connectors.hl7v2.config import Hl7v2DestinationConfig, Hl7v2SourceConfig
from hub.domain.delivery import DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=Hl7v2SourceConfig,
    build_source=at_first_call("connectors.hl7v2.source:build_source"),
    destination_config=Hl7v2DestinationConfig,
    build_destination=at_first_call("connectors.hl7v2.destination:build_destination"),
    accepts=(DocumentKind.ORU,),
)

__all__ = ["CONNECTOR"]
