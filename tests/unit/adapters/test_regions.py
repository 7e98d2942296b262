"""Probabilities and parametric maps on the source images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hub.domain.coding import Code
from hub.domain.model_output import MapSpec, ProbabilitiesSpec, RegionSpec
from hub.domain.model_steps import CropOrPad, Reorient
from hub.errors import RejectedError
from model_adapters.tensors.preprocessing import Data, crop_or_pad, reorient
from model_adapters.tensors.regions import source_map, source_probabilities
from tests.unit.adapters.test_locations import volume
from tests.unit.adapters.test_postprocessing import region_spec

CODE = Code("C", "99T", "a thing")


def with_probabilities(axes: str, segments: int = 1, **more: Any) -> RegionSpec:
    spec = region_spec("slice row column")
    wanted = ProbabilitiesSpec(output="p", axes=axes, **more)
    return replace(spec, segments=spec.segments * segments, probabilities=wanted)


def turned(data: Data) -> Data:
    smaller = crop_or_pad(data, CropOrPad(kind="crop_or_pad", shape=(4, 18, 26)))
    return reorient(smaller, Reorient(kind="reorient", to="LAF"))


def test_probabilities_are_255ths_on_the_source_grid() -> None:
    source = volume()
    data = turned(source)
    values = data.array.astype(np.float32) / 1000 * 0.6
    (placed,) = source_probabilities(with_probabilities("slice row column"), values, data)
    assert placed.dtype == np.uint8
    expected = np.zeros(source.array.shape, np.uint8)
    expected[2, 11, 23] = round(0.6 * 255)
    assert np.array_equal(placed, expected)


def test_each_segment_has_its_channel() -> None:
    data = volume()
    channels = np.stack([np.full(data.array.shape, p, np.float32) for p in (0.1, 0.2, 0.7)])
    spec = with_probabilities("1 segment slice row column", 2)
    assert [m[0, 0, 0] for m in source_probabilities(spec, channels[None], data)] == [26, 51]
    spec = with_probabilities("1 segment slice row column", 2, channels=(1, 2))
    assert [m[0, 0, 0] for m in source_probabilities(spec, channels[None], data)] == [51, 178]
    spec = with_probabilities("1 segment slice row column", 2, channels=(1, 3))
    with pytest.raises(RejectedError, match="no channel 3"):
        source_probabilities(spec, channels[None], data)


def test_what_is_no_probability_is_a_broken_result() -> None:
    data = volume()
    spec = with_probabilities("slice row column")
    for value in (1.2, -0.1):
        with pytest.raises(RejectedError, match="the probabilities lie between"):
            source_probabilities(spec, np.full(data.array.shape, value, np.float32), data)
    (rounded,) = source_probabilities(spec, np.full(data.array.shape, 1.0005, np.float32), data)
    assert rounded.min() == 255
    with pytest.raises(RejectedError, match="was given"):
        source_probabilities(spec, np.zeros((1, 2, 3), np.float32), data)


def test_a_map_has_its_numbers_on_the_source_and_says_where_it_has_none() -> None:
    source = volume()
    data = turned(source)
    spec = MapSpec(
        output="m", axes="slice row column", quantity=CODE, unit=CODE, label="M", outside=-7.0
    )
    placed = source_map(spec, data.array.astype(np.float32) + 0.25, data)
    assert placed.shape == source.array.shape
    assert placed[2, 11, 23] == 1000.25
    assert placed[0, 5, 5] == 0.25
    assert placed[0, 0, 5] == -7.0
    assert placed[0, 5, 29] == -7.0
