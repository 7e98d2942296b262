"""Label maps, probabilities and parametric maps of a model, on its source images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import Segment
from hub.domain.model_output import MapSpec, RegionSpec
from hub.errors import RejectedError
from model_adapters.tensors.preprocessing import Data
from model_adapters.tensors.source_grid import on_data_axes, on_source, take_channel
from model_adapters.tensors.values import PROBABILITY_TOLERANCE, Subject

Array = NDArray[Any]
_CERTAIN = 255
"""What stands for the probability 1."""


def source_labels(spec: RegionSpec, output: Array, data: Data) -> Array:
    """A label map on the grid of the source: (slice, row, column) or (row, column).

    Raises:
        RejectedError: the map has another shape than the input or labels that are not named.
    """
    _check_labels(spec, on_data_axes("the label map", spec.axes, output, data))
    return on_source("the label map", spec.axes, output, data)


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


def source_probabilities(spec: RegionSpec, output: Array, data: Data) -> list[Array]:
    """For each segment, on the grid of the source: uint8, 255 standing for 1.

    Raises:
        RejectedError: another shape than the input, or no probabilities.
    """
    wanted = spec.probabilities
    if wanted is None:
        return []
    channels = wanted.channels or range(len(spec.segments))
    taken = (take_channel(wanted.axes, output, channel) for channel in channels)
    placed = [on_source("a probability map", axes, values, data) for axes, values in taken]
    lowest, highest = float(output.min()), float(output.max())
    if lowest < -PROBABILITY_TOLERANCE or highest > 1 + PROBABILITY_TOLERANCE:
        raise RejectedError(f"the probabilities lie between {lowest:g} and {highest:g}")
    return [_in_255ths(values) for values in placed]


def _in_255ths(values: Array) -> Array:
    scaled = values * np.float32(_CERTAIN)
    np.clip(np.rint(scaled, out=scaled), 0, _CERTAIN, out=scaled)
    return scaled.astype(np.uint8)


def source_map(spec: MapSpec, output: Array, data: Data) -> Array:
    """A number for every voxel of the source.

    Raises:
        RejectedError: the map has another shape than the input.
    """
    return on_source(f"the map {spec.output}", spec.axes, output, data, spec.outside)


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
