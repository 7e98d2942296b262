"""Measured values as the input of a tensor model, in its worker process: no file is read and no
pixel decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Finding
from hub.domain.inference import Timing
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.domain.model_output import DetectionsFinding
from hub.domain.model_runtime import TensorBinding
from hub.errors import RejectedError, UnsuitableError
from model_adapters.tensors.engine import Model
from model_adapters.tensors.feeding import bindings_of
from model_adapters.tensors.messages import Answered, Measured, Run
from model_adapters.tensors.postprocessing import findings_of
from model_adapters.tensors.values import Subject

Array = NDArray[Any]


def answer_measured(model: Model, task: Run, measured: Measured) -> Answered:
    """Infer and postprocess."""
    card = model.card
    begun = perf_counter()
    fed = {binding.name: _tensor(card, binding, measured) for binding in bindings_of(card)}
    outputs = model.engine.run(fed)
    inferred = perf_counter()
    found = findings_of(card, outputs.tensors, Subject(card.id, task.study_instance_uid, ()))
    findings = tuple(_with_sources(card, found.findings, measured.observation_ids))
    timings = (
        Timing("inference", inferred - begun),
        Timing("postprocess", perf_counter() - inferred),
    )
    return Answered(
        outcome=found.outcome,
        findings=findings,
        voxels=None,
        reasons=found.reasons,
        warnings=(),
        timings=timings,
        version=outputs.version,
        ran_on=outputs.ran_on,
    )


def _tensor(card: ModelCard, binding: TensorBinding, measured: Measured) -> Array:
    """One number, float32 (1,)."""
    if binding.feed == "observation":
        number = measured.values.get(binding.name, math.nan)
        if math.isnan(number) and binding.name in _required(card):
            raise RejectedError(f"the value {binding.name} did not come with the request")
    elif binding.feed == "age_years":
        number = measured.age_years
    elif binding.feed == "is_female":
        number = measured.is_female
    else:
        raise RejectedError(f"{binding.feed} does not exist for measured values")
    if binding.feed != "observation" and math.isnan(number):
        raise UnsuitableError(("The patient's age or sex is not known; the model needs it.",))
    return np.array([number], np.float32)


def _required(card: ModelCard) -> frozenset[str]:
    if not isinstance(card.input, ObservationsInput):
        return frozenset()
    return frozenset(spec.name for spec in card.input.observations if spec.required)


def _with_sources(
    card: ModelCard, findings: tuple[Finding, ...], ids: Mapping[str, str]
) -> Iterator[Finding]:
    """Each with the values that it rests on: those that the manifest names, or all."""
    named = {
        spec.tracking_identifier: spec.observations
        for spec in card.output.findings
        if not isinstance(spec, DetectionsFinding)
    }
    for finding in findings:
        names = named.get(finding.tracking_identifier) or tuple(ids)
        yield replace(finding, derived_from=tuple(ids[name] for name in names if name in ids))
