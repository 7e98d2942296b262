"""FHIR over HTTP: orders and values in, reports out (R4); results as transactions to a FHIR server
(R4, or R5)."""

from __future__ import annotations

from connectors.fhir.config import FhirDestinationConfig, FhirSourceConfig
from connectors.fhir.record_config import FhirRecordConfig
from hub.domain.delivery import DocumentKind
from hub.ports import Connector, at_first_call

CONNECTOR = Connector(
    source_config=FhirSourceConfig,
    build_endpoint=at_first_call("connectors.fhir.endpoint:build_endpoint"),
    shows_reports=True,
    record_config=FhirRecordConfig,
    build_record=at_first_call("connectors.fhir.record:build_record"),
    destination_config=FhirDestinationConfig,
    build_destination=at_first_call("connectors.fhir.destination:build_destination"),
    accepts=(DocumentKind.FHIR, DocumentKind.FHIR_R5),
    sends=(DocumentKind.FHIR,),
)

__all__ = ["CONNECTOR"]
