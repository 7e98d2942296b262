"""FHIR over HTTP: results as transactions to a FHIR server (R4, or R5)."""

from __future__ import annotations

from connectors.fhir.config import FhirDestinationConfig
from hub.domain.delivery import DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    destination_config=FhirDestinationConfig,
    build_destination=at_first_call("connectors.fhir.destination:build_destination"),
    accepts=(DocumentKind.FHIR, DocumentKind.FHIR_R5),
    sends=(DocumentKind.FHIR,),
)

__all__ = ["CONNECTOR"]
