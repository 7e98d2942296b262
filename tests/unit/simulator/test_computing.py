"""What a model at the simulated vendor is asked, and what becomes of its faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InputRole,
    ModelKey,
    ObservationInput,
)
from hub.domain.intended_use import age_years
from hub.domain.study import Completeness, EvidenceKind
from hub.errors import CaidxError, ConfigError, RejectedError, TransientError
from hub.formats.contract.messages import decode_request, encode_request
from hub.ports import AdapterContext, AdapterKind, Health, HealthState, ModelPackage
from hub.registry import Components
from hub.simulator.computing import ComputedAnswers
from tests.builders import chest_ct_study, model_card, not_assessable, request_for
from tests.contracts.recording import WallClock

KEY = ModelKey("at-the-vendor", "7", "12" * 32)


class _Config(BaseModel):
    pass


@dataclass
class Model:
    """A model adapter that does as it is told."""

    answer: Callable[[InferenceRequest], Any]
    asked: list[InferenceRequest] = field(default_factory=list)
    is_closed: bool = False

    def load(self, package: ModelPackage) -> None: ...

    def infer(self, request: InferenceRequest) -> Any:
        self.asked.append(request)
        return self.answer(request)

    def unload(self, model: ModelKey) -> None: ...

    def health(self) -> Health:
        return Health(HealthState.HEALTHY, "", datetime(2026, 1, 1, tzinfo=UTC))

    def close(self) -> None:
        self.is_closed = True


def answers_of(model: Model, tmp_path: Path) -> ComputedAnswers:
    def build(_config: Any, _context: AdapterContext) -> Any:
        return model

    kind = AdapterKind(runtime_kind="onnx", config=_Config, build=build)
    package = ModelPackage(KEY, model_card(), tmp_path)
    return ComputedAnswers(package, Components({}, {"toy": kind}), WallClock(), httpx.Client())


def case() -> InferenceRequest:
    study = replace(
        chest_ct_study(1),
        series=(),
        completeness=Completeness(
            complete=True, evidence=EvidenceKind.ORDERED_VALUES, received=0, expected=None
        ),
    )
    return replace(request_for(study), inputs=(ObservationInput(InputRole.CURRENT, ()),))


def _raising(error: CaidxError) -> Callable[[InferenceRequest], Any]:
    def raise_it(_request: InferenceRequest) -> Any:
        raise error

    return raise_it


def test_the_model_is_asked_under_its_own_name_and_answers_under_the_hubs(tmp_path: Path) -> None:
    request = case()
    model = Model(not_assessable)
    answered = json.loads(
        answers_of(model, tmp_path).answer(decode_request(encode_request(request)))
    )
    (asked,) = model.asked
    assert asked.model == KEY
    assert answered["model"]["id"] == request.model.model_id
    assert answered["request_id"] == request.request_id
    assert answered["status"] == "not-assessable"


@pytest.mark.parametrize(
    ("birth_date", "study_date"),
    [
        ("19580217", "20260314"),
        ("19580314", "20260314"),
        ("19580315", "20260314"),
        ("20040229", "20260228"),
        ("19600101", "20240229"),
        ("20251201", "20260314"),
        ("20260314", "20260314"),
    ],
)
def test_the_age_at_the_examination_arrives_and_the_birth_date_does_not(
    tmp_path: Path, birth_date: str, study_date: str
) -> None:
    request = case()
    patient = replace(request.study.patient, patient_birth_date=birth_date)
    request = replace(request, study=replace(request.study, patient=patient, study_date=study_date))
    model = Model(not_assessable)
    answers_of(model, tmp_path).answer(decode_request(encode_request(request)))
    (asked,) = model.asked
    assert age_years(asked.study, ()) == age_years(request.study, ())
    assert asked.study.patient.patient_sex == request.study.patient.patient_sex
    assert asked.study.patient.patient_id == ""


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (TransientError("busy"), "model-not-available", True),
        (RejectedError("broken"), "internal-error", False),
    ],
)
def test_a_fault_of_the_model_is_an_answer(
    tmp_path: Path, error: CaidxError, reason: str, *, retryable: bool
) -> None:
    answers = answers_of(Model(_raising(error)), tmp_path)
    answered = json.loads(answers.answer(decode_request(encode_request(case()))))
    assert (answered["status"], answered["reason"]) == ("failed", reason)
    assert answered["retryable"] is retryable


def test_a_model_that_answers_later_cannot_be_simulated(tmp_path: Path) -> None:
    later = Deferred("r", "job", datetime(2026, 1, 1, tzinfo=UTC))
    answers = answers_of(Model(lambda _: later), tmp_path)
    answered = json.loads(answers.answer(decode_request(encode_request(case()))))
    assert answered["status"] == "failed"


def test_a_package_that_nothing_runs_is_refused(tmp_path: Path) -> None:
    package = ModelPackage(KEY, model_card(), tmp_path)
    with pytest.raises(ConfigError, match="nothing runs onnx"):
        ComputedAnswers(package, Components({}, {}), WallClock(), httpx.Client())


def test_the_model_stops_with_the_vendor(tmp_path: Path) -> None:
    model = Model(not_assessable)
    answers_of(model, tmp_path).close()
    assert model.is_closed
