"""The hub's own Task of a request: what became of it, also where there is no answer.

One Task per request, updated by its identifier. A failure is a Task that failed, with the
reasons as an OperationOutcome: whoever waits for the answer never has to conclude from silence.
"""

from __future__ import annotations

from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome, Priority
from hub.domain.model_card import ModelCard
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.resources import (
    Json,
    compact,
    device_url,
    imaging_study_url,
    instant,
    organization,
    subject,
    urn,
)
from hub.formats.fhir.sources import based_on, sources

REQUEST_SYSTEM = "urn:caidx:requests"

_PRIORITIES = {Priority.STAT: "stat", Priority.URGENT: "urgent", Priority.ROUTINE: "routine"}
_STATUS = {
    Outcome.ASSESSED: "completed",
    Outcome.NOT_ASSESSABLE: "completed",
    Outcome.UNSUITABLE: "rejected",
    Outcome.FAILED: "failed",
}
_BUSINESS = {
    Outcome.ASSESSED: "Assessed",
    Outcome.NOT_ASSESSABLE: "Not assessable",
    Outcome.UNSUITABLE: "Not analysed: outside intended use",
    Outcome.FAILED: "Processing failed",
}
_ISSUE = {Outcome.UNSUITABLE: ("error", "not-supported"), Outcome.FAILED: ("fatal", "exception")}
_OUTCOME = "outcome"


def task_url(request: InferenceRequest) -> str:
    return urn(_uuid(request))


def _uuid(request: InferenceRequest) -> str:
    return str(derived_uuid("fhir", "Task", request.request_id))


def task(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    report_url: str,
) -> Json:
    """The Task after this version of the report, whose ``fullUrl`` is ``report_url``."""
    study, outcome = request.study, result.outcome
    images = None if study.is_case else {"reference": imaging_study_url(study)}
    broke = outcome in _ISSUE
    return compact(
        resourceType="Task",
        contained=[_operation_outcome(result)] if broke else None,
        identifier=[
            {"system": context.result_system, "value": _uuid(request)},
            {"system": REQUEST_SYSTEM, "value": request.request_id},
        ],
        basedOn=based_on(request, context),
        status=_STATUS[outcome],
        statusReason={"text": "; ".join(result.reasons)} if result.reasons else None,
        businessStatus={"text": _business_status(result, context)},
        intent="order",
        priority=_PRIORITIES[request.priority],
        code={"text": f"AI analysis: {card.procedure.title}"},
        focus=images,
        **{"for": subject(study, context)},
        lastModified=instant(context.made_at),
        requester=organization(context),
        owner={"reference": device_url(request.model)},
        input=_input(request) if study.is_case else None,
        output=_output(report_url, broke=broke),
    )


def _business_status(result: InferenceResult, context: EncodingContext) -> str:
    if context.report.is_withdrawn:
        return "Withdrawn: the report must not be used"
    said = _BUSINESS[result.outcome]
    return f"{said}, verified" if context.report.verifier else f"{said}, not verified"


def _input(request: InferenceRequest) -> list[Json]:
    """The values that the model was given."""
    named = {"text": "Measured value"}
    return [{"type": named, "valueReference": reference} for reference in sources(request)]


def _output(report_url: str, *, broke: bool) -> list[Json]:
    made = [{"type": {"text": "Report"}, "valueReference": {"reference": report_url}}]
    issues = {"type": {"text": "Outcome"}, "valueReference": {"reference": f"#{_OUTCOME}"}}
    return [*made, issues] if broke else made


def _operation_outcome(result: InferenceResult) -> Json:
    severity, code = _ISSUE[result.outcome]
    return {
        "resourceType": "OperationOutcome",
        "id": _OUTCOME,
        "issue": [
            {"severity": severity, "code": code, "details": {"text": reason}}
            for reason in result.reasons
        ],
    }
