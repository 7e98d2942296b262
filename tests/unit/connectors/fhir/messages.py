"""Messages as a hospital's record system sends them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fhir_source import PATIENTS

Json = dict[str, Any]

UID = "1.2.826.0.1.3680043.8.498.7"
V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"
LOINC = "http://loinc.org"
PERSON = "urn:uuid:11111111-1111-4111-8111-111111111111"
IMAGES = "urn:uuid:22222222-2222-4222-8222-222222222222"
WISH = "urn:uuid:33333333-3333-4333-8333-333333333333"
VALUE = "urn:uuid:44444444-4444-4444-8444-444444444444"
ASKED = "urn:uuid:55555555-5555-4555-8555-555555555555"


def identified(value: str = "P-7", system: str = PATIENTS) -> Json:
    """A patient by identifier."""
    return {"identifier": {"system": system, "value": value}}


def patient(value: str = "P-7", **more: Any) -> Json:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": PATIENTS, "value": value}],
        "name": [{"family": "Canary", "given": ["Yellow"]}],
        "birthDate": "1960-02-03",
        "gender": "female",
        **more,
    }


def imaging_study(uid: str = UID, **more: Any) -> Json:
    return {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "status": "available",
        "subject": {"reference": PERSON},
        "numberOfInstances": 4,
        **more,
    }


def observation(code: str = "1920-8", value: float = 21.9, unit: str = "U/L", **more: Any) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": code, "display": "a value"}]},
        "subject": identified(),
        "effectiveDateTime": "2026-11-20T08:00:00+01:00",
        "valueQuantity": {
            "value": value,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
        **more,
    }


def task(**more: Any) -> Json:
    """On the study, by identifiers alone."""
    return {
        "resourceType": "Task",
        "identifier": [{"system": "https://ehr.example/tasks", "value": "T-1"}],
        "status": "requested",
        "intent": "order",
        "for": identified(),
        "focus": study_by_uid(),
        **more,
    }


def study_by_uid(uid: str = UID) -> Json:
    return {
        "type": "ImagingStudy",
        "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"},
    }


def service_request(**more: Any) -> Json:
    return {
        "resourceType": "ServiceRequest",
        "identifier": [
            numbered("PLAC", "PL-9", "https://ehr.example/orders"),
            numbered("FILL", "FI-9", "https://ris.example/orders"),
        ],
        "status": "active",
        "intent": "order",
        "subject": identified(),
        "supportingInfo": [study_by_uid()],
        **more,
    }


def numbered(kind: str, value: str, system: str) -> Json:
    coding = {"system": V2, "code": kind}
    return {"type": {"coding": [coding]}, "system": system, "value": value}


def value_input(reference: Json) -> Json:
    return {"type": {"text": "value"}, "valueReference": reference}


def posted(resource: Json, full_url: str = "", **request: Any) -> Json:
    """An entry that creates."""
    asked = {"method": "POST", "url": resource["resourceType"], **request}
    named = {"fullUrl": full_url} if full_url else {}
    return {**named, "resource": resource, "request": asked}


def bundle(entries: Iterable[Json], kind: str = "transaction", **more: Any) -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


def order_bundle(**of_task: Any) -> Json:
    """Patient, study, request and Task, linked by urn:uuid."""
    wish = task(**{"for": {"reference": PERSON}, "focus": {"reference": IMAGES}, **of_task})
    return bundle(
        [
            posted(patient(), PERSON),
            posted(imaging_study(), IMAGES),
            posted(wish, WISH),
        ]
    )
