"""From the graph's outputs to findings, in plain numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Finding, ImageLocation, Presence
from hub.domain.inference import Outcome
from hub.domain.model_card import ModelCard
from hub.domain.model_output import (
    ClassFinding,
    DetectionsFinding,
    FindingSpec,
    LocationSpec,
    PresenceFinding,
    ScalarFinding,
)
from hub.domain.model_steps import EcgIntervals, MeanOverSamples, PostprocessingStep, Softmax
from hub.errors import RejectedError, UnsuitableError
from model_adapters.tensors.detections import detections
from model_adapters.tensors.ecg import intervals_from_wave_classes
from model_adapters.tensors.values import Subject, Values, presence_at, probability, sentence

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the outputs say, but for the region."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...] = ()


def findings_of(card: ModelCard, outputs: Mapping[str, Array], subject: Subject) -> Answer:
    """Apply the card's postprocessing and its mapping to findings.

    Raises:
        RejectedError: the answer is broken: NaN, infinite, outside the allowed range.
    """
    _check_finite(outputs)
    try:
        values = _with_derived(card, outputs)
    except UnsuitableError as error:  # the model ran, and its output shows nothing readable
        return _no_answer(card, subject, error.reasons)
    reasons = _not_assessable_reasons(card, values)
    if reasons:
        return _no_answer(card, subject, reasons)
    specs = card.output.findings
    findings = tuple(f for spec in specs for f in _findings(spec, values, subject))
    if all(finding.presence is Presence.NOT_ASSESSABLE for finding in findings):
        missing = "the model determined none of its findings"
        return Answer(Outcome.NOT_ASSESSABLE, findings, (missing,))
    return Answer(Outcome.ASSESSED, findings)


def _check_finite(outputs: Mapping[str, Array]) -> None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RejectedError(f"the model's output {name} is not finite (NaN or infinite)")


# --- steps -------------------------------------------------------------------------------


def _with_derived(card: ModelCard, outputs: Mapping[str, Array]) -> Values:
    values = Values(outputs)
    for step in card.output.postprocessing:
        values = Values(outputs, {**values.derived, **_derived(step, values)})
    return values


def _derived(step: PostprocessingStep, values: Values) -> dict[str, Array]:
    array = values.array(step.output)
    if isinstance(step, Softmax):
        return {step.to: softmax(array)}
    if isinstance(step, MeanOverSamples):
        return {step.to: mean_over_samples(array)}
    return ecg_intervals(array, step)


def softmax(array: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(array - array.max(axis=-1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def mean_over_samples(array: Array) -> Array:
    """Mean over all axes but the last."""
    result: Array = array.reshape(-1, array.shape[-1]).mean(axis=0, dtype=np.float64)
    return result


def ecg_intervals(array: Array, step: EcgIntervals) -> dict[str, Array]:
    """``array``: (..., sample) wave classes, or (..., sample, class) scores of each class."""
    squeezed = array[0] if array.shape[0] == 1 and array.ndim > 1 else array
    classes = squeezed if squeezed.ndim == 1 else squeezed.argmax(axis=-1)
    if classes.ndim != 1:
        raise RejectedError(f"output {step.output} holds more than one recording")
    intervals = intervals_from_wave_classes(classes, step.frequency_hz)
    return {name: np.asarray(value, np.float64) for name, value in intervals.items()}


# --- findings ----------------------------------------------------------------------------


def _not_assessable_reasons(card: ModelCard, values: Values) -> tuple[str, ...]:
    reasons = []
    for rule in card.output.not_assessable:
        value = values.number(rule.output)
        if value is None or value < rule.minimum:
            reasons.append(rule.reason)
    return tuple(reasons)


def _no_answer(card: ModelCard, subject: Subject, reasons: tuple[str, ...]) -> Answer:
    """Never a number: one finding that says that there is no answer."""
    statement = card.output.statements.not_assessable or "; ".join(reasons)
    finding = _not_assessable(card.output.findings[0], subject, statement)
    return Answer(Outcome.NOT_ASSESSABLE, (finding,), reasons)


def _not_assessable(spec: FindingSpec, subject: Subject, statement: str) -> Finding:
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        presence=Presence.NOT_ASSESSABLE,
        finding_site=spec.finding_site,
        evidence=subject.evidence,
        statement=statement,
    )


def _findings(spec: FindingSpec, values: Values, subject: Subject) -> Iterator[Finding]:
    if isinstance(spec, DetectionsFinding):
        yield from detections(spec, values, subject)
    elif isinstance(spec, ClassFinding):
        yield _class(spec, values, subject)
    elif isinstance(spec, ScalarFinding):
        yield _measurement(spec, values, subject)
    else:
        yield _presence(spec, values, subject)


def _locations(
    spec: LocationSpec | None, values: Values, subject: Subject
) -> tuple[ImageLocation, ...]:
    if spec is None:
        return ()
    if subject.grid is None:
        raise RejectedError(f"there is no image on which {spec.output} could lie")
    return (subject.grid.place(spec.graphic, values.array(spec.output)),)


def _measurement(spec: ScalarFinding, values: Values, subject: Subject) -> Finding:
    value = values.number(spec.output)
    if value is None:
        return _not_assessable(spec, subject, "")
    if spec.valid_range and not spec.valid_range[0] <= value <= spec.valid_range[1]:
        raise RejectedError(
            f"the model's value for {spec.tracking_identifier} cannot be: {value:g}"
        )
    text = f"{value:.{spec.decimals}f}"
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        value=float(text),
        unit=spec.unit,
        finding_site=spec.finding_site,
        laterality=spec.laterality,
        evidence=subject.evidence,
        segment_numbers=spec.segments,
        statement=spec.statement.replace("{value}", text),
        locations=_locations(spec.location, values, subject),
    )


def _presence(spec: PresenceFinding, values: Values, subject: Subject) -> Finding:
    value = values.number(spec.output)
    if value is None:
        return _not_assessable(spec, subject, spec.statements.not_assessable)
    certainty = probability(value, spec.output)
    presence = presence_at(certainty, spec.threshold, spec.indeterminate_below)
    is_there = presence is not Presence.ABSENT
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        presence=presence,
        probability=certainty,
        finding_site=spec.finding_site,
        laterality=spec.laterality,
        evidence=subject.evidence,
        segment_numbers=spec.segments,
        statement=sentence(spec.statements, presence).replace("{value}", f"{certainty:.2f}"),
        locations=_locations(spec.location, values, subject) if is_there else (),
    )


def _class(spec: ClassFinding, values: Values, subject: Subject) -> Finding:
    probabilities = values.array(spec.output).reshape(-1)
    if probabilities.size != len(spec.classes):
        raise RejectedError(
            f"output {spec.output} has {probabilities.size} classes, not {len(spec.classes)}"
        )
    best = int(np.argmax(probabilities))
    certainty = probability(float(probabilities[best]), spec.output)
    if certainty < spec.minimum_probability:
        return _not_assessable(spec, subject, "")
    answer = spec.classes[best]
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        coded_value=answer,
        probability=certainty if spec.has_probabilities else None,
        finding_site=spec.finding_site,
        evidence=subject.evidence,
        statement=spec.statement.replace("{value}", answer.code_meaning),
        locations=_locations(spec.location, values, subject),
    )
