"""Boxes with scores become findings: one for each, or one that says that there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hub.domain.coding import Code
from hub.domain.finding import Finding, ImageLocation, Presence
from hub.domain.model_output import DetectionsFinding
from hub.errors import RejectedError
from model_adapters.tensors.source_grid import SourceGrid
from model_adapters.tensors.values import Subject, Values, presence_at, probability, sentence

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Detection:
    """One box that is worth a finding."""

    number: int
    """1-based, the highest score first."""
    row: int
    """Where it stands in the outputs."""
    presence: Presence
    score: float
    code: Code
    location: ImageLocation


def detections(spec: DetectionsFinding, values: Values, subject: Subject) -> Iterator[Finding]:
    """The findings of a detector. A box of the same place on the same image keeps its tracking
    UID over revisions of the study; another one gets another, whatever its number.

    Raises:
        RejectedError: the outputs do not fit each other, a score is no probability, a box lies
            outside of the images, or there are more findings than the manifest allows.
    """
    if subject.grid is None:
        raise RejectedError(f"there is no image on which {spec.output} could lie")
    boxes, scores = _boxes(spec, values, subject.grid)
    found = list(_found(spec, values, boxes, scores, subject.grid))
    if len(found) > spec.maximum:
        raise RejectedError(f"{len(found)} findings of {spec.tracking_identifier}: too many")
    if not found:
        yield _none(spec, scores, subject)
    for detection in found:
        yield from _reported(spec, detection, values, subject)


def _boxes(spec: DetectionsFinding, values: Values, grid: SourceGrid) -> tuple[Array, list[float]]:
    """(n, numbers of a box) and n probabilities."""
    scores = [probability(float(s), spec.scores) for s in values.array(spec.scores).reshape(-1)]
    boxes, numbers = values.array(spec.output), 2 * grid.dimensions
    if boxes.size != len(scores) * numbers:
        raise RejectedError(
            f"{spec.output} holds {boxes.size} numbers, {len(scores)} boxes have {numbers} each"
        )
    return boxes.reshape(-1, numbers), scores


def _found(
    spec: DetectionsFinding, values: Values, boxes: Array, scores: list[float], grid: SourceGrid
) -> Iterator[_Detection]:
    by_score = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    for number, row in enumerate(by_score, start=1):
        presence = presence_at(scores[row], spec.threshold, spec.indeterminate_below)
        if presence is Presence.ABSENT:
            return
        code = _code(spec, values, row)
        location = grid.place_box(spec.graphic, boxes[row])
        yield _Detection(number, row, presence, scores[row], code, location)


def _code(spec: DetectionsFinding, values: Values, row: int) -> Code:
    if not spec.classes:
        return spec.code
    index = int(_number(spec.classes, values, row))
    if not 0 <= index < len(spec.class_codes):
        raise RejectedError(f"the model's output {spec.classes} names the class {index}")
    return spec.class_codes[index]


def _number(output: str, values: Values, row: int) -> float:
    numbers = values.array(output).reshape(-1)
    if row >= numbers.size:
        raise RejectedError(f"the model's output {output} has no number for box {row}")
    return float(numbers[row])


def _none(spec: DetectionsFinding, scores: list[float], subject: Subject) -> Finding:
    highest = max(scores, default=None)
    return Finding(
        tracking_uid=subject.tracking_uid(spec.tracking_identifier),
        tracking_identifier=spec.tracking_identifier,
        code=spec.code,
        presence=Presence.ABSENT,
        probability=highest,
        finding_site=spec.finding_site,
        laterality=spec.laterality,
        evidence=subject.evidence,
        statement=sentence(spec.statements, Presence.ABSENT).replace(
            "{value}", f"{highest or 0:.2f}"
        ),
    )


def _reported(
    spec: DetectionsFinding, detection: _Detection, values: Values, subject: Subject
) -> Iterator[Finding]:
    """The finding, and what was measured of it: one measurement group."""
    identifier = f"{spec.tracking_identifier} {detection.number}"
    where = detection.location
    tracking_uid = subject.tracking_uid(
        f"{spec.tracking_identifier} {where.sop_instance_uid} {where.frame_number} {where.points}"
    )
    text = sentence(spec.statements, detection.presence)
    text = text.replace("{number}", str(detection.number))
    present = Finding(
        tracking_uid=tracking_uid,
        tracking_identifier=identifier,
        code=detection.code,
        presence=detection.presence,
        probability=detection.score,
        finding_site=spec.finding_site,
        laterality=spec.laterality,
        evidence=subject.evidence,
        statement=text.replace("{value}", f"{detection.score:.2f}"),
        locations=(where,),
    )
    yield present
    for measurement in spec.measurements:
        value = f"{_number(measurement.output, values, detection.row):.{measurement.decimals}f}"
        yield Finding(
            tracking_uid=tracking_uid,
            tracking_identifier=identifier,
            code=measurement.code,
            value=float(value),
            unit=measurement.unit,
            finding_site=spec.finding_site,
            laterality=spec.laterality,
            evidence=subject.evidence,
            statement=measurement.statement.replace("{value}", value),
            locations=(where,),
        )
