"""A model is asked, or asked after an answer that it gives later."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ObservationInput,
    Outcome,
    Unsuitable,
)
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import VendorHttpRuntime
from hub.domain.observed_input import chosen_input
from hub.errors import RejectedError, TransientError, UnsuitableError
from hub.ports import Resuming, at_first_call
from hub.prior_steps import too_few_priors
from hub.registry import Registry, RunningModel
from hub.store.abandoning import AbandonLedger
from hub.store.deferred import DeferredAnswer
from hub.store.results import RequestRow

_value_in = at_first_call("hub.formats.ucum:value_in")


def asked(
    model: RunningModel, request: InferenceRequest, held: DeferredAnswer | None
) -> InferenceResult | Deferred:
    """What the model says. Outside its intended use it is not asked: that is an answer too.

    Args:
        model: which is pinned.
        request: what it is asked.
        held: of a model that said that it answers later; None: it is asked for the first time.

    Raises:
        TransientError: as of the adapter.
        RejectedError: as of the adapter; or it answers later, and cannot be asked after that.
    """
    try:
        answer = _answer(model, request) if held is None else _resumed(model, request, held)
    except UnsuitableError as error:
        answer = Unsuitable(request.request_id, error.reasons)
    if isinstance(answer, Deferred) and not isinstance(model.adapter, Resuming):
        raise RejectedError("the adapter answers later, and cannot be asked after its answer")
    if isinstance(answer, InferenceResult):
        return _noting_values(model.package.card, request, answer)
    if isinstance(answer, Deferred):
        return answer
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=Outcome.UNSUITABLE,
        reasons=answer.reasons,
        ran_on=answer.ran_on,
    )


def with_chosen_values(card: ModelCard, request: InferenceRequest) -> InferenceRequest:
    """The request with those of a case's values that the model gets; of images, as it is."""
    if not request.study.is_case:
        return request
    chosen = chosen_input(card, request.study, _value_in).observations
    return replace(request, inputs=(ObservationInput(InputRole.CURRENT, chosen),))


def _noting_values(
    card: ModelCard, request: InferenceRequest, result: InferenceResult
) -> InferenceResult:
    if not request.study.is_case:
        return result
    notes = chosen_input(card, request.study, _value_in).notes
    return replace(result, warnings=(*result.warnings, *notes))


def _answer(
    model: RunningModel, request: InferenceRequest
) -> InferenceResult | Unsuitable | Deferred:
    card = model.package.card
    reasons = unsuitable_reasons(card, request.study, request.series, _value_in)
    reasons += too_few_priors(card, request.images)
    if reasons:
        return Unsuitable(request.request_id, reasons)
    return model.adapter.infer(request)


def _resumed(
    model: RunningModel, request: InferenceRequest, held: DeferredAnswer
) -> InferenceResult | Unsuitable | Deferred:
    if not isinstance(model.adapter, Resuming):
        raise RejectedError("the adapter cannot be asked after its answer")
    return model.adapter.resume(request, held.job, held.answer)


def answer_within(card: ModelCard) -> timedelta | None:
    """How long a model that answers later may take; None: it has no time of its own."""
    if not isinstance(card.runtime, VendorHttpRuntime):
        return None
    return timedelta(seconds=card.runtime.answer_within_seconds)


def must_be_in_time(row: RequestRow, now: datetime) -> None:
    """An answer that is here already came in time.

    Raises:
        RejectedError: nobody waits for one any more.
    """
    held = row.deferred
    if row.deadline_at is None or now < row.deadline_at or (held and held.answer is not None):
        return
    raise RejectedError("no answer came by the deadline")


def tell_abandoned(registry: Registry, ledger: AbandonLedger, argument: str) -> None:
    """The job that tells a vendor that nobody waits for its answer any more; also where its model
    was suspended, and does not run here."""
    one = ledger.begin(argument)
    if one is None:
        return
    try:
        model = registry.pinned(one.row.model)
        if isinstance(model.adapter, Resuming):
            model.adapter.abandon(one.row.model, one.job)
    except TransientError as error:
        ledger.failed(one, str(error))
    except RejectedError as error:
        ledger.failed(one, str(error), for_good=True)
    else:
        ledger.told(one)
