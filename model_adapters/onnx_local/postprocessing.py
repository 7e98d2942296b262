"""From the graph's outputs to findings and to labels on the source images, in plain numpy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Evidence, Finding, Presence, Segment
from hub.domain.identity import derived_uid
from hub.domain.inference import Outcome
from hub.domain.model_card import (
    ClassFinding,
    FindingSpec,
    ModelCard,
    PresenceFinding,
    RegionSpec,
    ScalarFinding,
    Statements,
)
from hub.domain.model_steps import EcgIntervals, MeanOverSamples, PostprocessingStep, Softmax
from hub.errors import RejectedError, UnsuitableError
from hub.formats.recording import Waveform
from model_adapters.onnx_local.ecg import intervals_from_wave_classes
from model_adapters.onnx_local.preprocessing import SINGLE, AxisMap, Data

Array = NDArray[Any]
PROBABILITY_TOLERANCE = 1e-3
"""How far outside 0 to 1 rounding may bring a probability."""
_REFERENCE = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<index>\d+)\])?$")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the outputs say, but for the region."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What the findings are about."""

    model_id: str
    study_instance_uid: str
    evidence: tuple[Evidence, ...]

    def tracking_uid(self, tracking_identifier: str) -> str:
        """The same thing keeps its UID over revisions of the study and of the model."""
        return derived_uid(self.study_instance_uid, self.model_id, tracking_identifier)


@dataclass(frozen=True, slots=True)
class Values:
    """Outputs of the graph and what was derived from them, by name."""

    graph: Mapping[str, Array]
    derived: Mapping[str, Array] = field(default_factory=dict)
    """Derived numbers may be NaN: the step could not determine them."""

    def array(self, name: str) -> Array:
        found = self.derived.get(name)
        return self.graph[name] if found is None else found

    def number(self, reference: str) -> float | None:
        """The number ``name`` or ``name[index]``; ``None`` where it was not determined.

        Raises:
            RejectedError: the output is not a single number there.
        """
        matched = _REFERENCE.match(reference)
        values = self.array(matched["name"]).reshape(-1) if matched else np.empty(0)
        index = int(matched["index"]) if matched and matched["index"] else None
        if (index is None and values.size != 1) or (index is not None and index >= values.size):
            raise RejectedError(f"output {reference} is not one number ({values.size} values)")
        value = float(values[index or 0])
        return None if np.isnan(value) else value


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
    findings = tuple(_finding(spec, values, subject) for spec in card.output.findings)
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


def _finding(spec: FindingSpec, values: Values, subject: Subject) -> Finding:
    if isinstance(spec, ClassFinding):
        return _class(spec, values, subject)
    value = values.number(spec.output)
    if isinstance(spec, ScalarFinding):
        return _measurement(spec, value, subject)
    return _presence(spec, value, subject)


def _measurement(spec: ScalarFinding, value: float | None, subject: Subject) -> Finding:
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
    )


def _presence(spec: PresenceFinding, value: float | None, subject: Subject) -> Finding:
    if value is None:
        return _not_assessable(spec, subject, spec.statements.not_assessable)
    probability = _probability(value, spec.output)
    presence = _presence_at(probability, spec)
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        presence=presence,
        probability=probability,
        finding_site=spec.finding_site,
        laterality=spec.laterality,
        evidence=subject.evidence,
        segment_numbers=spec.segments,
        statement=_sentence(spec.statements, presence).replace("{value}", f"{probability:.2f}"),
    )


def _presence_at(probability: float, spec: PresenceFinding) -> Presence:
    if probability >= spec.threshold:
        return Presence.PRESENT
    if spec.indeterminate_below is not None and probability >= spec.indeterminate_below:
        return Presence.INDETERMINATE
    return Presence.ABSENT


def _sentence(statements: Statements, presence: Presence) -> str:
    return {
        Presence.PRESENT: statements.positive,
        Presence.ABSENT: statements.negative,
        Presence.INDETERMINATE: statements.indeterminate,
        Presence.NOT_ASSESSABLE: statements.not_assessable,
    }[presence]


def _class(spec: ClassFinding, values: Values, subject: Subject) -> Finding:
    probabilities = values.array(spec.output).reshape(-1)
    if probabilities.size != len(spec.classes):
        raise RejectedError(
            f"output {spec.output} has {probabilities.size} classes, not {len(spec.classes)}"
        )
    best = int(np.argmax(probabilities))
    probability = _probability(float(probabilities[best]), spec.output)
    if probability < spec.minimum_probability:
        return _not_assessable(spec, subject, "")
    answer = spec.classes[best]
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        coded_value=answer,
        probability=probability,
        finding_site=spec.finding_site,
        evidence=subject.evidence,
        statement=spec.statement.replace("{value}", answer.code_meaning),
    )


def _probability(value: float, output: str) -> float:
    if not -PROBABILITY_TOLERANCE <= value <= 1 + PROBABILITY_TOLERANCE:
        raise RejectedError(f"the model's output {output} is not a probability: {value:g}")
    return min(1.0, max(0.0, value))


# --- labels ------------------------------------------------------------------------------


def source_labels(spec: RegionSpec, output: Array, data: Data) -> Array:
    """A label map on the grid of the source: (slice, row, column) or (row, column).

    Raises:
        RejectedError: the map has another shape than the input or labels that are not named.
    """
    labels = _on_data_axes(spec.axes, output, data)
    _check_labels(spec, labels)
    order = np.argsort([axis.source_axis for axis in data.axes])
    placed = labels.transpose(order)
    sizes = data.source.stored_values.shape if not isinstance(data.source, Waveform) else ()
    for axis, (index, size) in enumerate(zip(order, sizes, strict=True)):
        placed = _on_source_axis(placed, axis, data.axes[index], size)
    return placed


def _on_data_axes(axes: str, output: Array, data: Data) -> Array:
    tokens = axes.split()
    if output.ndim != len(tokens):
        raise RejectedError(f"the label map has {output.ndim} axes, {axes!r} was promised")
    if isinstance(data.source, Waveform):
        raise RejectedError("a waveform has no label map")
    single = tuple(index for index, token in enumerate(tokens) if token == SINGLE)
    if any(output.shape[index] != 1 for index in single):
        raise RejectedError("the label map has more than one channel or batch")
    named = [token for token in tokens if token != SINGLE]
    names = ("slice", "row", "column")[-len(named) :]
    labels: Array = output.squeeze(single).transpose([named.index(name) for name in names])
    if labels.shape != data.array.shape:
        raise RejectedError(
            f"the label map is {labels.shape}, the model was given {data.array.shape}"
        )
    return labels


def _check_labels(spec: RegionSpec, labels: Array) -> None:
    known = {0, *(s.number for s in spec.segments), *(v for s in spec.segments for v in s.includes)}
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > max(known):
        raise RejectedError(f"the label map holds values from {lowest} to {highest}")
    if len(known) == max(known) + 1:
        return
    allowed = np.zeros(max(known) + 1, np.bool_)
    allowed[list(known)] = True
    if not allowed[labels.astype(np.uint8)].all():
        raise RejectedError("the label map holds values that no segment names")


def _on_source_axis(labels: Array, axis: int, along: AxisMap, size: int) -> Array:
    """Nearest neighbour along one axis; 0 where the model saw nothing of the source."""
    nearest = np.rint((np.arange(size) - along.offset) / along.scale).astype(np.intp)
    has = labels.shape[axis]
    if has == size and np.array_equal(nearest, np.arange(size)):
        return labels
    if has == size and np.array_equal(nearest, np.arange(size)[::-1]):
        return np.flip(labels, axis)
    placed: Array = labels.take(np.clip(nearest, 0, has - 1), axis)
    unseen = np.flatnonzero((nearest < 0) | (nearest >= has))
    placed[(slice(None),) * axis + (unseen,)] = 0
    return placed


def segments_of(spec: RegionSpec, subject: Subject) -> tuple[Segment, ...]:
    return tuple(
        Segment(
            number=segment.number,
            label=segment.label,
            category=segment.category,
            property_type=segment.property_type,
            tracking_uid=subject.tracking_uid(segment.tracking_identifier),
            tracking_identifier=segment.tracking_identifier,
            recommended_display_rgb=segment.recommended_display_rgb,
        )
        for segment in spec.segments
    )


def includes_of(spec: RegionSpec) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The label values of the segments that have more than their own."""
    return tuple(
        (segment.number, _unique((segment.number, *segment.includes)))
        for segment in spec.segments
        if segment.includes
    )


def _unique(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values))
