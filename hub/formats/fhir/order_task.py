"""An order as the hub shows it to those who placed it: a FHIR R4 Task whose status follows the
requests that it led to, and the ServiceRequest where it came as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from hub.domain.identity import PatientIdentity
from hub.domain.inference import Priority
from hub.domain.observation import Observation
from hub.domain.order import Order, OrderState, OrderSubject
from hub.formats.contract.observation import observation_resource
from hub.formats.fhir.order import ORDER_SYSTEM
from hub.formats.fhir.resources import (
    IDENTIFIER_TYPE,
    Json,
    coded,
    compact,
    instant,
    uid_identifier,
)
from hub.ports import PlacedOrder

_STATUS = {
    OrderState.PLACED: "accepted",
    OrderState.WAITING: "accepted",
    OrderState.IN_PROGRESS: "in-progress",
    OrderState.COMPLETED: "completed",
    OrderState.REJECTED: "rejected",
    OrderState.FAILED: "failed",
    OrderState.CANCELLED: "cancelled",
}
_BUSINESS = {
    OrderState.PLACED: "On record",
    OrderState.WAITING: "Waiting for images or values",
    OrderState.IN_PROGRESS: "Models are asked",
    OrderState.COMPLETED: "Every report is made",
    OrderState.REJECTED: "No model can be asked",
    OrderState.FAILED: "No answer came; this is not a negative finding",
    OrderState.CANCELLED: "Taken back",
}
_REQUEST_STATUS = {
    OrderState.COMPLETED: "completed",
    OrderState.REJECTED: "revoked",
    OrderState.FAILED: "revoked",
    OrderState.CANCELLED: "revoked",
}
"""R4 request-status; an order that is open is ``active``."""
_PRIORITIES = {Priority.STAT: "stat", Priority.URGENT: "urgent", Priority.ROUTINE: "routine"}

_DATA_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_NUMBERS_ONLY = "the hub keeps numbers only"

Systems = Mapping[str, str]
"""Issuer as in the images -> URI of its system."""


def order_task(placed: PlacedOrder, systems: Systems, report_ids: Sequence[str]) -> Json:
    """The Task of an order.

    Args:
        placed: the order as it stands.
        systems: for the patient's identifier.
        report_ids: ids of the DiagnosticReports that it led to, as the hub shows them.
    """
    order, sent = placed.order, sent_resource(placed.order)
    reasons = "; ".join(placed.reasons)
    return compact(
        resourceType="Task",
        id=order.order_id,
        meta=order_meta(placed),
        identifier=[{"system": ORDER_SYSTEM, "value": order.order_id}, *_identifiers(sent)],
        basedOn=[orjson.loads(text) for text in order.based_on],
        status=_STATUS[placed.state],
        statusReason={"text": reasons} if reasons else None,
        businessStatus={"text": _BUSINESS[placed.state]},
        intent="order",
        priority=_PRIORITIES[order.priority],
        code=sent.get("code") if sent.get("resourceType") == "Task" else None,
        focus=_focus(order),
        **{"for": patient_reference(order.patient, systems)},
        authoredOn=instant(order.ordered_at),
        lastModified=instant(placed.changed_at),
        owner={"type": "Organization", "display": "CAIDX hub"},
        restriction={"period": {"end": instant(order.deadline)}} if order.deadline else None,
        input=_inputs(order),
        output=[_output(report_id) for report_id in report_ids],
    )


def order_service_request(placed: PlacedOrder, systems: Systems) -> Json:
    """The ServiceRequest that an order came as: what it asks for, and whether it still holds."""
    order, sent = placed.order, sent_resource(placed.order)
    return compact(
        resourceType="ServiceRequest",
        id=order.order_id,
        meta=order_meta(placed),
        identifier=[{"system": ORDER_SYSTEM, "value": order.order_id}, *_identifiers(sent)],
        status=_REQUEST_STATUS.get(placed.state, "active"),
        intent=sent.get("intent", "order"),
        priority=_PRIORITIES[order.priority],
        code=sent.get("code"),
        subject=patient_reference(order.patient, systems),
        authoredOn=instant(order.ordered_at),
        supportingInfo=[_focus(order)] if order.subject is OrderSubject.STUDY else None,
    )


def sent_observation(observation: Observation, systems: Systems) -> Json:
    """A value that a source sent."""
    told = observation_resource(observation)
    if not observation.codes:
        told["code"] = {"text": "not coded"}
    if observation.value is None and not observation.absent_reason:
        told["dataAbsentReason"] = coded(_DATA_ABSENT, "unsupported") | {"text": _NUMBERS_ONLY}
    told["subject"] = patient_reference(observation.patient, systems)
    if observation.identifier is not None:
        system, value = observation.identifier
        told["identifier"] = [compact(system=system, value=value)]
    return told | {"meta": {"versionId": "1"}}


def came_as(order: Order) -> str:
    """``Task`` or ``ServiceRequest``; empty for an order that the hub made."""
    return str(sent_resource(order).get("resourceType", ""))


def order_version(placed: PlacedOrder) -> str:
    """Grows with every change."""
    return str(int(placed.changed_at.timestamp() * 1000))


def order_meta(placed: PlacedOrder) -> Json:
    return {"versionId": order_version(placed), "lastUpdated": instant(placed.changed_at)}


def patient_reference(patient: PatientIdentity, systems: Systems) -> Json:
    """A patient as a logical reference, as in the reports: by the ID and its issuer alone."""
    issuer = patient.issuer_of_patient_id
    identifier = compact(
        type=coded(IDENTIFIER_TYPE, "MR"),
        system=systems.get(issuer),
        value=patient.patient_id,
        assigner=compact(display=issuer),
    )
    return {"type": "Patient", "identifier": identifier}


def sent_resource(order: Order) -> Json:
    """The resource that the order came as; empty where there is none."""
    found: Any = orjson.loads(order.resource) if order.resource else {}
    return found if isinstance(found, dict) else {}


def _identifiers(sent: Json) -> list[Json]:
    listed = sent.get("identifier", [])
    return [one for one in listed if isinstance(one, dict) and one.get("system") != ORDER_SYSTEM]


def _focus(order: Order) -> Json | None:
    if order.subject is not OrderSubject.STUDY:
        return None
    return {"type": "ImagingStudy", "identifier": uid_identifier(order.study_instance_uid)}


def _inputs(order: Order) -> list[Json]:
    named = [{"type": {"text": "route"}, "valueString": order.route}] if order.route else []
    values = [
        {
            "type": {"text": "Value"},
            "valueReference": {"reference": f"Observation/{one.observation_id}"},
        }
        for one in order.observations
    ]
    return [*named, *values]


def _output(report_id: str) -> Json:
    reference = {"reference": f"DiagnosticReport/{report_id}"}
    return {"type": {"text": "Report"}, "valueReference": reference}
