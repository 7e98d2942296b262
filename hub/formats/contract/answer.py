"""What a vendor's service answers, as JSON (contract 1.x): a result, "outside its intended use",
"later", or "it cannot".
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from hub.domain.inference import InferenceResult, Outcome
from hub.errors import RejectedError
from hub.formats.contract.finding import FindingMessage
from hub.formats.contract.label_map import LabelMapMessage
from hub.formats.contract.parts import (
    CONTRACT_VERSION,
    FilledName,
    GivenUid,
    ModelMessage,
    RequestId,
    Sentences,
    Strict,
)

_SAYS_ENOUGH: JsonDict = {
    "if": {"properties": {"status": {"const": "assessed"}}},
    "then": {"properties": {"findings": {"minItems": 1}}, "required": ["findings"]},
    "else": {"properties": {"reasons": {"minItems": 1}}, "required": ["reasons"]},
}
"""In the published schema; as `ResultMessage` checks it."""

Version = Literal["1.0"]
"""Versions that this hub reads."""
MOST_FINDINGS = 1000
LONGEST_WAIT_SECONDS = 86400.0

JobReference = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._~-]{0,199})?$")]
FailureReason = Literal[
    "deadline-passed",
    "images-not-readable",
    "images-not-retrieved",
    "internal-error",
    "model-not-available",
    "overloaded",
    "values-not-readable",
]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_WAIT_SECONDS)]


class AnswerMessage(Strict):
    """What every answer says."""

    contract: Version
    """Version of the contract that the answer follows: at most that of the request."""
    request_id: RequestId
    """As in the request."""


class TimingMessage(Strict):
    """Time spent in one part of the work."""

    part: FilledName
    """`queue`, `retrieve`, `decode`, `preprocess`, `inference`, `postprocess` ..."""
    seconds: float = Field(ge=0)


class ResultMessage(AnswerMessage):
    """A model's answer."""

    model_config = ConfigDict(json_schema_extra=_SAYS_ENOUGH)

    status: Literal["assessed", "not-assessable"]
    """`assessed`: the findings are the answer, also where each of them says "absent".
    `not-assessable`: the model ran and cannot tell; `reasons` say why. It is never "no"."""
    study_instance_uid: GivenUid
    """Of the examination that the answer is about, as the images (or the request) name it. It is
    compared with the request's; an answer about another one is quarantined."""
    model: ModelMessage
    """What answered; another model or version than was asked is quarantined."""
    findings: Annotated[tuple[FindingMessage, ...], Field(max_length=MOST_FINDINGS)] = ()
    """At least one where the status is `assessed`. One that the manifest does not declare is
    refused."""
    label_map: LabelMapMessage | None = None
    """The only image that an answer carries: version 1.0 has no parametric maps, and takes no DICOM
    files. Segments that the manifest does not declare are refused."""
    reasons: Sentences = ()
    """Sentences for people; at least one where the status is `not-assessable`."""
    warnings: Sentences = ()
    """Sentences for people: what to bear in mind with this answer."""
    timings: Annotated[tuple[TimingMessage, ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.status == "assessed" and not self.findings:
            raise ValueError("an assessed result has at least one finding")
        if self.status == "not-assessable" and not self.reasons:
            raise ValueError("a result that is not-assessable has at least one reason")
        return self


class UnsuitableMessage(AnswerMessage):
    """The input is outside the model's intended use: it was not run. A result, not a fault."""

    status: Literal["unsuitable"]
    reasons: Annotated[Sentences, Field(min_length=1)]
    """Sentences for people; they reach the report."""


class DeferredMessage(AnswerMessage):
    """The answer comes later."""

    status: Literal["deferred"]
    job_reference: JobReference = ""
    """Names the job at the vendor; the hub asks `GET {url}/{job_reference}`. Empty where the answer
    is posted to the callback and cannot be asked for."""
    retry_after_seconds: Seconds | None = None
    """When to ask again. Left out: the header `Retry-After`, or what the manifest says."""


class FailedMessage(AnswerMessage):
    """The vendor cannot answer. It is never "nothing found"."""

    status: Literal["failed"]
    reason: FailureReason
    """One of these words, and no sentence: it stands in logs, where nothing of a patient may
    stand."""
    retryable: bool
    """Whether the same request may be answered later."""
    retry_after_seconds: Seconds | None = None
    """When to try again, where it is `retryable`."""
    reference: str = Field(default="", pattern=r"^[A-Za-z0-9._:-]{0,64}$")
    """Where the vendor finds it in its own logs. The hub shows it to its operators."""


Answer = ResultMessage | UnsuitableMessage | DeferredMessage | FailedMessage
BY_STATUS: dict[str, type[ResultMessage | UnsuitableMessage | DeferredMessage | FailedMessage]] = {
    "assessed": ResultMessage,
    "not-assessable": ResultMessage,
    "unsuitable": UnsuitableMessage,
    "deferred": DeferredMessage,
    "failed": FailedMessage,
}


def result_message(result: InferenceResult) -> ResultMessage:
    """The message that says this result.

    Raises:
        RejectedError: the contract cannot say it: parametric maps, or no answer at all.
    """
    if result.maps:
        raise RejectedError("contract 1.0 carries no parametric maps")
    statuses: dict[Outcome, Literal["assessed", "not-assessable"]] = {
        Outcome.ASSESSED: "assessed",
        Outcome.NOT_ASSESSABLE: "not-assessable",
    }
    if result.outcome not in statuses:
        raise RejectedError(f"an outcome {result.outcome} is no result")
    return ResultMessage(
        contract=CONTRACT_VERSION,
        request_id=result.request_id,
        status=statuses[result.outcome],
        study_instance_uid=result.identity.study_instance_uid,
        model=ModelMessage.of(result.model),
        findings=tuple(FindingMessage.of(one) for one in result.findings),
        label_map=None if result.region is None else LabelMapMessage.of(result.region),
        reasons=result.reasons,
        warnings=result.warnings,
        timings=tuple(TimingMessage(part=t.part, seconds=t.seconds) for t in result.timings),
    )
