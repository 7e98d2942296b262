"""A model of measured values is asked: the gate, what it gets, and what the result says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from hub.asking import asked, with_chosen_values
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.ports import ModelPackage
from hub.registry import RunningModel
from tests.unit.observed import (
    AST,
    CREATININE,
    case,
    observation,
    package_of_scores,
    request_of,
    result_of,
    usual_values,
)


@dataclass
class Answering:
    """An adapter that remembers what it was asked."""

    requests: list[InferenceRequest] = field(default_factory=list)

    def infer(self, request: InferenceRequest) -> InferenceResult:
        self.requests.append(request)
        return result_of(request)


@dataclass
class Running:
    """What `asked` needs of a running model."""

    package: ModelPackage
    adapter: Answering


@pytest.fixture
def model() -> Running:
    return Running(package_of_scores(), Answering())


def request_for(model: Running, *values: object) -> InferenceRequest:
    study = case(*values)  # type: ignore[arg-type]
    request = request_of(study, study.observations, model.package.key)
    return with_chosen_values(model.package.card, request)


def answer(model: Running, request: InferenceRequest) -> InferenceResult:
    found = asked(cast("RunningModel", model), request, None)
    assert isinstance(found, InferenceResult)
    return found


def test_the_model_gets_the_values_that_count_and_the_record_has_all(model: Running) -> None:
    older = observation(AST, 90, days=40, number=1)
    pending = observation(AST, 500, days=0.5, number=2, status="preliminary")
    request = request_for(model, *usual_values(), older, pending)
    result = answer(model, request)
    (seen,) = model.adapter.requests
    assert seen.observations == usual_values()
    assert len(seen.study.observations) == 6
    assert result.outcome is Outcome.ASSESSED
    assert result.warnings == ("AST: a value that is not released yet was not used",)


def test_a_model_is_not_asked_without_its_values(model: Running) -> None:
    values = [one for one in usual_values() if CREATININE not in one.codes]
    stale = observation(CREATININE, 0.8, days=812)
    for given, reason in (
        (values, "creatinine: missing (LOINC 2160-0 or 14682-9 or 38483-4 or 59826-8 or 77140-2)."),
        ([*values, stale], "creatinine: 812 days old, at most 365 are allowed."),
    ):
        request = request_for(model, *given)
        result = answer(model, request)
        assert (result.outcome, result.reasons) == (Outcome.UNSUITABLE, (reason,))
        assert result.findings == ()
        assert len(request.observations) == 3
    assert model.adapter.requests == []


def test_units_are_converted_for_the_gate(model: Running) -> None:
    values = [one for one in usual_values() if CREATININE not in one.codes]
    in_grams = observation(CREATININE, 0.008, "g/L")
    assert answer(model, request_for(model, *values, in_grams)).outcome is Outcome.ASSESSED
    too_much = replace(in_grams, value=8.0)
    result = answer(model, request_for(model, *values, too_much))
    assert result.reasons == ("creatinine: 800 mg/dL is outside 0.1 to 40.",)
