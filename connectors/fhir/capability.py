"""What the service can do, as a CapabilityStatement (R4 capabilitystatement.html), from the tables
that its code works by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from connectors.fhir.parameters import SEARCHES
from connectors.fhir.plans import ORDERS, READ
from hub.formats.encoding import PRODUCT_NAME
from hub.formats.fhir.json_text import FHIR_JSON

Json = dict[str, Any]

_PARAMETER_TYPES = {
    "_id": "token",
    "identifier": "token",
    "patient": "reference",
    "subject": "reference",
    "based-on": "reference",
    "target": "reference",
    "status": "token",
    "code": "token",
}
_NOT_KEPT = {
    "ImagingStudy": "What is sent tells how many instances a study has, and where it lies; it is "
    "not kept. What is read is the study of a report.",
    "Patient": "One that is linked or updated is told to the results; no Patient is kept.",
}
_DOCUMENTATION = (
    "Orders for AI (Task, ServiceRequest) and measured values in, reports out. Patients are "
    "searched by identifier: patient:identifier=<system>|<value>."
)

_SECURITY = "A key of scope system, as a bearer token or as the password of HTTP Basic."
"""`hub.web` judges it before anything comes here."""


def capability_statement(version: str, url: str, started_at: datetime) -> Json:
    """The statement of a running service."""
    kinds = sorted({*SEARCHES, *READ})
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": started_at.astimezone(UTC).isoformat(timespec="seconds"),
        "kind": "instance",
        "software": {"name": PRODUCT_NAME, "version": version},
        "implementation": {"description": f"{PRODUCT_NAME}: FHIR", "url": url},
        "fhirVersion": "4.0.1",
        "format": [FHIR_JSON, "json"],
        "patchFormat": ["application/json-patch+json"],
        "rest": [
            {
                "mode": "server",
                "documentation": _DOCUMENTATION,
                "security": {"description": _SECURITY},
                "resource": [_resource(kind) for kind in kinds],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
            }
        ],
    }


def _resource(kind: str) -> Json:
    codes = ["read", "vread", "search-type"] if kind in SEARCHES else []
    codes += ["create"] if kind in READ else []
    codes += ["update"] if kind in (*ORDERS, "Patient", "Observation") else []
    codes += ["patch"] if kind == "Task" else []
    parameters = [{"name": name, "type": _PARAMETER_TYPES[name]} for name in SEARCHES.get(kind, ())]
    told: Json = {
        "type": kind,
        "interaction": [{"code": code} for code in codes],
        "versioning": "versioned",
        "readHistory": False,
        "updateCreate": False,
        "conditionalCreate": kind in (*ORDERS, "Observation"),
        "conditionalRead": "not-match",
        "conditionalUpdate": kind in (*ORDERS, "Observation"),
        "conditionalDelete": "not-supported",
        "referencePolicy": ["literal", "logical"],
    }
    if kind in _NOT_KEPT:
        told["documentation"] = _NOT_KEPT[kind]
    return told | ({"searchParam": parameters} if parameters else {})
