"""What must fit together in a model card's mapping from outputs to findings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hub.domain.model_card import ModelCard
from hub.domain.model_input import ImageInput, ObservationsInput, VolumeInput, WaveformInput
from hub.domain.model_output import (
    ClassFinding,
    DetectionsFinding,
    FindingSpec,
    LocationSpec,
    MapSpec,
    PresenceFinding,
    ProbabilitiesSpec,
    RegionSpec,
    ScalarFinding,
    SegmentSpec,
)
from hub.domain.model_steps import EcgIntervals, SelectLead

Path = tuple[str | int, ...]
Fault = tuple[Path, str]

SINGLE = "1"
"""In ``axes``: an axis of one element."""
_SEGMENT = "segment"
"""In ``axes`` of probabilities: an axis with a place for each segment."""
_REFERENCE = re.compile(r"[^\[\]]+(\[\d+\])?")
_MAXIMUM_LABEL = 255
_MOST_DECIMALS = 10
"""More than any instrument has."""


def is_rgb(card: ModelCard) -> bool:
    """Whether the model gets the channels of a colour image."""
    return isinstance(card.input, ImageInput) and card.input.colour == "rgb"


def data_axes(card: ModelCard) -> tuple[str, ...]:
    """The axes of the preprocessed data, in order."""
    if isinstance(card.input, VolumeInput):
        return ("slice", "row", "column")
    if isinstance(card.input, ImageInput):
        return ("row", "column", "channel")[: 3 if is_rgb(card) else 2]
    selected = any(isinstance(step, SelectLead) for step in card.preprocessing)
    return ("sample",) if selected else ("lead", "sample")


def _without_image(card: ModelCard) -> str:
    """The beginning of a sentence on what an input without images has not; otherwise empty."""
    if isinstance(card.input, ObservationsInput):
        return "measured values have"
    return "a waveform has" if isinstance(card.input, WaveformInput) else ""


def output_faults(card: ModelCard) -> Iterator[Fault]:
    """Every contradiction in ``output``: the path of the field and a sentence."""
    output = card.output
    if not output.findings:
        yield ("output", "findings"), "must name at least one finding"
    yield from _region(card)
    yield from _maps(card)
    for index, spec in enumerate(output.findings):
        yield from _finding(card, spec, ("output", "findings", index))
    for index, rule in enumerate(output.not_assessable):
        where: Path = ("output", "not_assessable", index)
        if not _REFERENCE.fullmatch(rule.output):
            yield (*where, "output"), "must be name or name[index]"
        if not rule.reason.strip():
            yield (*where, "reason"), "must not be empty"
    for index, step in enumerate(output.postprocessing):
        if isinstance(step, EcgIntervals) and step.frequency_hz <= 0:
            yield ("output", "postprocessing", index, "frequency_hz"), "must be above 0"
    known = {spec.tracking_identifier for spec in output.findings}
    for index, critical in enumerate(output.critical):
        if critical.finding not in known:
            yield ("output", "critical", index, "finding"), f"no finding is {critical.finding!r}"


# --- findings ----------------------------------------------------------------------------


def _finding(card: ModelCard, spec: FindingSpec, at: Path) -> Iterator[Fault]:
    if isinstance(spec, DetectionsFinding):
        if has := _without_image(card):
            yield at, f"{has} no boxes"
        yield from _detections(spec, at)
        return
    yield from _location(card, spec.location, (*at, "location"))
    if isinstance(spec, ClassFinding):
        yield from _class(spec, at)
        return
    region = card.output.region
    numbers = {segment.number for segment in region.segments} if region else set()
    for position, number in enumerate(spec.segments):
        if number not in numbers:
            yield (*at, "segments", position), f"there is no segment {number}"
    yield from _measured(spec, at)


def _location(card: ModelCard, spec: LocationSpec | None, at: Path) -> Iterator[Fault]:
    has = _without_image(card)
    if spec is not None and has:
        yield at, f"{has} no image to lie on"


def _detections(spec: DetectionsFinding, at: Path) -> Iterator[Fault]:
    yield from _thresholds(spec, at)
    if spec.maximum < 1:
        yield (*at, "maximum"), "must be at least 1"
    if bool(spec.classes) != bool(spec.class_codes):
        yield (*at, "class_codes"), "classes and class_codes belong together"
    for index, measurement in enumerate(spec.measurements):
        if not 0 <= measurement.decimals <= _MOST_DECIMALS:
            where = (*at, "measurements", index, "decimals")
            yield where, f"must lie between 0 and {_MOST_DECIMALS}"


def _class(spec: ClassFinding, at: Path) -> Iterator[Fault]:
    if not spec.classes:
        yield (*at, "classes"), "must name at least one class"
    if not 0 <= spec.minimum_probability <= 1:
        yield (*at, "minimum_probability"), "must lie between 0 and 1"


def _measured(spec: ScalarFinding | PresenceFinding, at: Path) -> Iterator[Fault]:
    if not _REFERENCE.fullmatch(spec.output):
        yield (*at, "output"), "must be name or name[index]"
    if isinstance(spec, ScalarFinding):
        if spec.valid_range is not None and spec.valid_range[0] >= spec.valid_range[1]:
            yield (*at, "valid_range"), "must be a lower and a higher number"
        if not 0 <= spec.decimals <= _MOST_DECIMALS:
            yield (*at, "decimals"), f"must lie between 0 and {_MOST_DECIMALS}"
        return
    yield from _thresholds(spec, at)


def _thresholds(spec: PresenceFinding | DetectionsFinding, at: Path) -> Iterator[Fault]:
    if not 0 < spec.threshold <= 1:
        yield (*at, "threshold"), "must lie between 0 and 1"
    lower = spec.indeterminate_below
    if lower is not None and not 0 <= lower < spec.threshold:
        yield (*at, "indeterminate_below"), "must lie between 0 and the threshold"


# --- voxels ------------------------------------------------------------------------------


def _axes(card: ModelCard, axes: str, at: Path, more: tuple[str, ...] = ()) -> Iterator[Fault]:
    wanted = (*more, *(axis for axis in data_axes(card) if axis != "channel"))
    named = [token for token in axes.split() if token != SINGLE]
    if sorted(named) != sorted(wanted):
        yield at, f"must name {', '.join(wanted)} once each, and 1 for other axes"


def _probabilities(
    card: ModelCard, region: RegionSpec, spec: ProbabilitiesSpec, at: Path
) -> Iterator[Fault]:
    has_axis = _SEGMENT in spec.axes.split()
    several = len(region.segments) > 1 or has_axis
    yield from _axes(card, spec.axes, (*at, "axes"), (_SEGMENT,) if several else ())
    if spec.channels and not has_axis:
        yield (*at, "channels"), f"are places of the axis {_SEGMENT}, which axes does not name"
    if spec.channels and len(spec.channels) != len(region.segments):
        yield (*at, "channels"), f"must be one for each of the {len(region.segments)} segments"
    if any(channel < 0 for channel in spec.channels):
        yield (*at, "channels"), "are counted from 0"


def _maps(card: ModelCard) -> Iterator[Fault]:
    labels: list[str] = []
    for index, spec in enumerate(card.output.maps):
        at: Path = ("output", "maps", index)
        yield from _map(card, spec, at)
        if spec.label in labels:
            yield (*at, "label"), "another map has this label"
        labels.append(spec.label)


def _map(card: ModelCard, spec: MapSpec, at: Path) -> Iterator[Fault]:
    if has := _without_image(card):
        yield at, f"{has} no map"
        return
    yield from _axes(card, spec.axes, (*at, "axes"))
    if not spec.label.strip():
        yield (*at, "label"), "must not be empty"


def _region(card: ModelCard) -> Iterator[Fault]:
    region = card.output.region
    if region is None:
        return
    at: Path = ("output", "region")
    if has := _without_image(card):
        yield at, f"{has} no label map"
        return
    yield from _axes(card, region.axes, (*at, "axes"))
    if region.probabilities is not None:
        yield from _probabilities(card, region, region.probabilities, (*at, "probabilities"))
    numbers = [segment.number for segment in region.segments]
    if not numbers:
        yield (*at, "segments"), "must name at least one segment"
    for index, segment in enumerate(region.segments):
        where = (*at, "segments", index)
        if numbers.index(segment.number) != index:
            yield (*where, "number"), "another segment has this number"
        yield from _segment(segment, where)


def _segment(segment: SegmentSpec, at: Path) -> Iterator[Fault]:
    if not 1 <= segment.number <= _MAXIMUM_LABEL:
        yield (*at, "number"), f"must lie between 1 and {_MAXIMUM_LABEL}"
    if any(not 1 <= value <= _MAXIMUM_LABEL for value in segment.includes):
        yield (*at, "includes"), f"must lie between 1 and {_MAXIMUM_LABEL}"
    if any(not 0 <= value <= 255 for value in segment.recommended_display_rgb):  # noqa: PLR2004
        yield (*at, "recommended_display_rgb"), "must be three numbers from 0 to 255"
