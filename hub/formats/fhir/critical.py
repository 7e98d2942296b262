"""A critical finding has to be seen where nobody opened the report yet: a Flag on the patient's
record, and a CommunicationRequest of priority ``stat`` that asks somebody to tell the person in
charge. Both are updated with every version, so that none stays up after its finding is gone.

It is a CommunicationRequest and not a Communication because the hub knows that somebody has to be
told, and not that anybody was (R4 Communication, "Scope and Usage").
"""

from __future__ import annotations

from collections.abc import Sequence

from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.observations import ReportedObservation
from hub.formats.fhir.resources import (
    AI_ASSERTED,
    Json,
    coded,
    coding,
    compact,
    device_url,
    instant,
    lasting_uuid,
    subject,
    urn,
)
from hub.formats.fhir.transaction import update
from hub.formats.report_state import WITHDRAWN_NOTE, standing

FLAG_CATEGORY = "http://terminology.hl7.org/CodeSystem/flag-category"
COMMUNICATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/communication-category"
FLAG_DETAIL = "http://hl7.org/fhir/StructureDefinition/flag-detail"


def critical_entries(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    *,
    found: Sequence[ReportedObservation],
    report_url: str,
) -> list[Json]:
    """Flag and CommunicationRequest; none where no finding is critical, nor was in the report
    that this one replaces."""
    earlier = any(finding.critical for finding in context.report.replaced_findings)
    now = any(finding.critical for finding in result.findings)
    if not (earlier or now):
        return []
    withdrawn = context.report.is_withdrawn
    # R4 flag-status and request-status have different words for "no longer"
    states = ("active", "active") if now else ("inactive", "revoked")
    flag_state, request_state = ("entered-in-error", "entered-in-error") if withdrawn else states
    flagged = [one for one in found if one.critical and not withdrawn]
    resources = [
        _flag(request, result, context, flag_state, flagged),
        _communication_request(request, card, context, request_state, report_url),
    ]
    return [update(_url(request, resource["resourceType"]), resource) for resource in resources]


def critical_statement(result: InferenceResult) -> str:
    """What the report says of them, without a full stop; empty where none is critical."""
    names = dict.fromkeys(
        f.tracking_identifier or f.code.code_meaning for f in result.findings if f.critical
    )
    return f"CRITICAL, to be seen at once: {', '.join(names)}" if names else ""


def _uuid(request: InferenceRequest, resource_type: str) -> str:
    return lasting_uuid(request, resource_type)


def _url(request: InferenceRequest, resource_type: str) -> str:
    return urn(_uuid(request, resource_type))


def _flag(
    request: InferenceRequest,
    result: InferenceResult,
    context: EncodingContext,
    status: str,
    flagged: Sequence[ReportedObservation],
) -> Json:
    findings = (*result.findings, *context.report.replaced_findings)
    codes = dict.fromkeys(finding.code for finding in findings if finding.critical)
    when = "start" if status == "active" else "end"
    names = ", ".join(dict.fromkeys(code.code_meaning for code in codes))
    return compact(
        resourceType="Flag",
        meta={"security": [AI_ASSERTED]},
        extension=[
            {"url": FLAG_DETAIL, "valueReference": {"reference": one.full_url}} for one in flagged
        ],
        identifier=[{"system": context.result_system, "value": _uuid(request, "Flag")}],
        status=status,
        category=[coded(FLAG_CATEGORY, "clinical", "Clinical")],
        code={
            "coding": [coding(code) for code in codes],
            "text": _flag_text(status, names, context),
        },
        subject=subject(request.study, context),
        period={when: instant(context.made_at)},
        author={"reference": device_url(request.model)},
    )


def _flag_text(status: str, names: str, context: EncodingContext) -> str:
    """Systems that show the text alone show no status."""
    if context.report.is_withdrawn:
        return f"{WITHDRAWN_NOTE} ({names})"
    if status != "active":
        return f"No longer critical: {names}"
    return f"Critical finding: {names} ({standing(context.report)})"


def _communication_request(
    request: InferenceRequest,
    card: ModelCard,
    context: EncodingContext,
    status: str,
    report_url: str,
) -> Json:
    resource_type = "CommunicationRequest"
    words = f"Critical finding in {card.procedure.title}. {standing(context.report)}."
    words = f"{words} See the report at once."
    if status != "active":
        words = f"No longer critical: the alert of {card.procedure.title} does not hold any more."
    if context.report.is_withdrawn:
        words = f"{WITHDRAWN_NOTE}: the alert of {card.procedure.title} does not hold."
    return compact(
        resourceType=resource_type,
        meta={"security": [AI_ASSERTED]},
        identifier=[{"system": context.result_system, "value": _uuid(request, resource_type)}],
        status=status,
        category=[coded(COMMUNICATION_CATEGORY, "alert", "Alert")],
        priority="stat",
        subject=subject(request.study, context),
        about=[{"reference": report_url}],
        payload=[{"contentString": words}],
        authoredOn=instant(context.made_at),
        requester={"reference": device_url(request.model)},
    )
