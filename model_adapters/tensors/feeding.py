"""From preprocessed data to the tensors that a model is fed with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.model_card import ModelCard
from hub.domain.model_runtime import TensorBinding, TensorRuntime
from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.recording import Waveform
from hub.formats.images.volume import Volume
from model_adapters.tensors.preprocessing import SINGLE, Data

Array = NDArray[Any]


def bindings_of(card: ModelCard) -> tuple[TensorBinding, ...]:
    """What the model is fed with."""
    return card.runtime.inputs if isinstance(card.runtime, TensorRuntime) else ()


def feed(binding: TensorBinding, data: Data) -> Array:
    """The tensor for one input of the model, contiguous and of the manifest's type."""
    if binding.feed == "data":
        return _converted(_with_axes(binding.axes, data), binding.dtype)
    if binding.feed == "frequency_hz":
        return _converted(np.array([data.frequency_hz]), binding.dtype)
    if data.spacing_mm is None:
        raise UnsuitableError((f"the model needs millimetres: {data.no_spacing}",))
    return _converted(np.array(data.spacing_mm), binding.dtype)


def _with_axes(axes: str, data: Data) -> Array:
    tokens = axes.split()
    names = axis_names(data)
    array = data.array.transpose([names.index(token) for token in tokens if token != SINGLE])
    return np.expand_dims(array, [index for index, token in enumerate(tokens) if token == SINGLE])


def axis_names(data: Data) -> tuple[str, ...]:
    """What the axes of the data are called in the manifest."""
    if isinstance(data.source, Waveform):
        return ("lead", "sample")[-data.array.ndim :]
    if isinstance(data.source, Volume):
        return ("slice", "row", "column")
    return ("channel", "row", "column")[-data.array.ndim :]


def _converted(array: Array, dtype: str) -> Array:
    if dtype != "float32":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise RejectedError(f"the input does not fit into {dtype}")
        if array.dtype.kind == "f":
            array = np.rint(array)
    return np.ascontiguousarray(array, dtype=dtype)
