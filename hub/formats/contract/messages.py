"""The published contract between the hub and a vendor's service, version 1.0 (docs/contract).

Pure: domain <-> JSON. `encode_request` and `decode_answer` are the hub's side; `decode_request`,
`encode_answer`, `encode_deferred` and `encode_failed` the vendor's, for the simulator and tests.

Rules: what is sent to vendors may get more fields in a later 1.x, and they ignore what they do not
know. What vendors answer is read strictly: an unknown field is refused, because a misspelt one
(``lateralty``) would be an answer that nobody reads. Nothing that was sent is repeated in an
error but the names of fields.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hub.domain.identity import StudyIdentity, derived_uid
from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Outcome,
    Timing,
    Unsuitable,
)
from hub.errors import RejectedError, TransientError
from hub.formats.contract.answer import (
    BY_STATUS,
    DeferredMessage,
    FailedMessage,
    FailureReason,
    ResultMessage,
    UnsuitableMessage,
    result_message,
)
from hub.formats.contract.parts import CONTRACT_VERSION
from hub.formats.contract.request import Purpose, RequestMessage, request_message
from hub.formats.validation_messages import plain_message
from hub.ports import Retrieval

MEDIA_TYPE = "application/json"
_MOST_PROBLEMS = 5
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_Message = TypeVar("_Message", bound=BaseModel)


# --- the hub's side ----------------------------------------------------------------------


def encode_request(
    request: InferenceRequest,
    *,
    retrieve: Retrieval | None = None,
    callback_url: str = "",
    purpose: Purpose = "clinical",
) -> bytes:
    """The request as JSON (UTF-8): what a vendor needs; of the patient no more than sex and age.

    Args:
        request: the question.
        retrieve: where the images of all its inputs lie; None where it has none.
        callback_url: where the answer is to be posted; empty: it is given in the response.
        purpose: ``test``: nobody is treated by the answer.
    """
    message = request_message(
        request, retrieve=retrieve, callback_url=callback_url, purpose=purpose
    )
    return _dumped(message)


def decode_answer(
    body: bytes,
    request: InferenceRequest,
    *,
    received_at: datetime,
    poll_seconds: float = 5.0,
) -> InferenceResult | Unsuitable | Deferred:
    """What a vendor answered to a request, in a response or to the callback.

    The identity of a result is what the vendor said: the request's and the examination's
    identifiers and the model are the answer's own, and the identity gate compares them
    (`hub.identity_gate`). Of the patient a vendor knows nothing to say.

    Args:
        body: as it came.
        request: what was asked.
        received_at: UTC; to count ``retry_after_seconds`` from.
        poll_seconds: when to ask again where the answer does not say: Retry-After, or the
            manifest's.

    Raises:
        RejectedError: it is no answer of the contract, with the path of each field that is wrong;
            or the vendor says that it cannot, for good; or something other than a result names
            another request.
        TransientError: the vendor says that it cannot now.
    """
    envelope = _read(_Envelope, body)
    if envelope.contract != CONTRACT_VERSION:
        raise RejectedError(f"the answer: contract: must be {CONTRACT_VERSION}")
    if envelope.status not in BY_STATUS:
        raise RejectedError(f"the answer: status: must be one of {', '.join(BY_STATUS)}")
    answer = _read(BY_STATUS[envelope.status], body)
    if isinstance(answer, ResultMessage):
        return _result(answer, request)
    if answer.request_id != request.request_id:
        raise RejectedError("the answer: request_id: is of another request")
    if isinstance(answer, UnsuitableMessage):
        return Unsuitable(answer.request_id, answer.reasons)
    if isinstance(answer, DeferredMessage):
        wait = answer.retry_after_seconds
        seconds = poll_seconds if wait is None else wait
        return Deferred(
            answer.request_id, answer.job_reference, received_at + timedelta(seconds=seconds)
        )
    raise _failure(answer)


class _Envelope(BaseModel):
    contract: str
    status: str


def _result(answer: ResultMessage, request: InferenceRequest) -> InferenceResult:
    identity = request.study.identity
    study_uid, model_id = answer.study_instance_uid, answer.model.id

    def derived(tracking_identifier: str) -> str:
        """As local models have it, so that the same thing keeps its UID if they change places."""
        return derived_uid(study_uid, model_id, tracking_identifier)

    region = None
    if answer.label_map is not None:
        region = answer.label_map.domain(derived, _voxels(request))
    return InferenceResult(
        request_id=answer.request_id,
        model=ModelKey(model_id, answer.model.version, answer.model.sha256 or request.model.sha256),
        identity=StudyIdentity(
            study_instance_uid=study_uid,
            patient=identity.patient,
            accession_number=identity.accession_number,
            issuer_of_accession_number=identity.issuer_of_accession_number,
        ),
        outcome=Outcome(answer.status),
        findings=tuple(one.domain(derived(one.tracking_identifier)) for one in answer.findings),
        region=region,
        reasons=answer.reasons,
        warnings=answer.warnings,
        timings=tuple(Timing(one.part, one.seconds) for one in answer.timings),
    )


def _voxels(request: InferenceRequest) -> int:
    """That the images of the examination have."""
    return sum((i.rows or 0) * (i.columns or 0) * i.frames for i in request.study.instances)


def _failure(answer: FailedMessage) -> RejectedError | TransientError:
    where = f" (its reference: {answer.reference})" if answer.reference else ""
    text = f"the vendor answers that it failed: {answer.reason}{where}"
    if answer.retryable:
        return TransientError(text, retry_after=answer.retry_after_seconds)
    return RejectedError(text)


# --- the vendor's side -------------------------------------------------------------------


def decode_request(body: bytes) -> RequestMessage:
    """A request as it came to a vendor; fields that are not known are ignored.

    Raises:
        RejectedError: it is none of contract 1.x, with the path of each field that is wrong.
    """
    return _read(RequestMessage, body, "the request")


def encode_answer(answer: InferenceResult | Unsuitable) -> bytes:
    """An answer as JSON.

    Raises:
        RejectedError: the contract cannot say it.
    """
    if isinstance(answer, InferenceResult):
        return _dumped(result_message(answer))
    return _dumped(
        UnsuitableMessage(
            contract=CONTRACT_VERSION,
            request_id=answer.request_id,
            status="unsuitable",
            reasons=answer.reasons,
        )
    )


def encode_deferred(
    request_id: str, job_reference: str, retry_after_seconds: float | None = None
) -> bytes:
    """ "Later" as JSON."""
    return _dumped(
        DeferredMessage(
            contract=CONTRACT_VERSION,
            request_id=request_id,
            status="deferred",
            job_reference=job_reference,
            retry_after_seconds=retry_after_seconds,
        )
    )


def encode_failed(
    request_id: str,
    reason: FailureReason,
    *,
    retryable: bool,
    retry_after_seconds: float | None = None,
    reference: str = "",
) -> bytes:
    """ "It cannot" as JSON."""
    return _dumped(
        FailedMessage(
            contract=CONTRACT_VERSION,
            request_id=request_id,
            status="failed",
            reason=reason,
            retryable=retryable,
            retry_after_seconds=retry_after_seconds,
            reference=reference,
        )
    )


# --- JSON --------------------------------------------------------------------------------


def _dumped(message: BaseModel) -> bytes:
    return message.model_dump_json(exclude_none=True).encode()


def _read(kind: type[_Message], body: bytes, what: str = "the answer") -> _Message:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = [_problem(one) for one in error.errors(include_url=False)]
        more = len(problems) - _MOST_PROBLEMS
        tail = f" (and {more} more)" if more > 0 else ""
        raise RejectedError(f"{what}: {'; '.join(problems[:_MOST_PROBLEMS])}{tail}") from None


def _problem(error: ErrorDetails) -> str:
    if error["type"] == "json_invalid":
        return "is not JSON"
    path = ".".join(_step(part) for part in error["loc"])
    message = plain_message(error)
    return f"{path}: {message}" if path else message


def _step(part: str | int) -> str:
    """The name of a field that is not ours may hold anything."""
    if isinstance(part, int) or _FIELD_NAME.fullmatch(part):
        return str(part)
    return "(a name that is not shown)"
