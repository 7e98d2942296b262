"""The preprocessing steps of the model card, in plain numpy.

Each step takes ``Data`` and gives ``Data``. Which voxel of the source an element came from is
kept as a linear map for each axis, so that labels find their way back whatever the chain was.
A step may overwrite the array that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.coding import Code
from hub.domain.model_card import ModelCard
from hub.domain.model_steps import (
    Clip,
    CropOrPad,
    Monochrome2,
    Normalise,
    PreprocessingStep,
    Present,
    RankNormalise,
    Reorient,
    Resample,
    ResampleRate,
    Rescale,
    Resize,
    SelectLead,
    TakeSeconds,
    Window,
)
from hub.errors import RejectedError, UnsuitableError
from hub.formats.images.image import Image
from hub.formats.images.presentation import displayed
from hub.formats.images.recording import Waveform
from hub.formats.images.volume import Volume

Array = NDArray[Any]
SINGLE = "1"
"""In the manifest's ``axes``: an axis of one element."""
MAXIMUM_ELEMENTS = 1 << 31
"""Most elements that resampling or padding may make."""
_FILTER_HALF_WIDTH = 8
"""Lobes of the low-pass filter to each side, in output samples."""


@dataclass(frozen=True, slots=True)
class AxisMap:
    """How one axis lies on the source's grid: source index = scale * index + offset."""

    source_axis: int
    scale: float = 1.0
    offset: float = 0.0

    def after(self, scale: float, offset: float) -> AxisMap:
        """The map of an axis whose index i stands for this axis's scale * i + offset."""
        return AxisMap(self.source_axis, self.scale * scale, self.scale * offset + self.offset)


@dataclass(frozen=True, slots=True)
class Data:
    """What is on its way to the graph."""

    array: Array
    """Volume: (slice, row, column); image: (row, column), of colour (channel, row, column);
    waveform: (lead, sample) or (sample,)."""
    source: Volume | Image | Waveform
    axes: tuple[AxisMap, ...]
    """One for each axis of a volume or image but its channels; empty for a waveform."""
    frequency_hz: float = 0.0
    """Sampling frequency of a waveform."""
    is_rescaled: bool = False

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Distance of neighbours along each axis; ``None`` where the source has none."""
        if isinstance(self.source, Waveform) or self.source.spacing_mm is None:
            return None
        spacing = self.source.spacing_mm
        return tuple(spacing[axis.source_axis] * abs(axis.scale) for axis in self.axes)

    @property
    def grid(self) -> tuple[int, ...]:
        """Elements along each of ``axes``."""
        return self.array.shape[self.array.ndim - len(self.axes) :]

    @property
    def no_spacing(self) -> str:
        """Why ``spacing_mm`` is ``None``."""
        if isinstance(self.source, Image):
            return self.source.no_spacing
        return "the input has no pixel spacing"


def data_of(source: Volume | Image | Waveform) -> Data:
    """The start of the chain: stored values of pixels, millivolt of a waveform."""
    if isinstance(source, Waveform):
        return Data(source.millivolts.view(), source, (), source.frequency_hz)
    array = source.stored_values
    spatial = 3 if isinstance(source, Volume) else 2
    return Data(array, source, tuple(AxisMap(axis) for axis in range(spatial)))


def preprocess(card: ModelCard, source: Volume | Image | Waveform) -> Data:
    """Apply the card's chain.

    Raises:
        UnsuitableError: a step needs what the input does not have.
        RejectedError: the input contradicts itself.
    """
    data = data_of(source)
    for step in card.preprocessing:
        data = _STEPS[type(step)](data, step)
    return data


# --- values ------------------------------------------------------------------------------


def rescale(data: Data, step: Rescale) -> Data:
    """To modality units; (planes) slope and intercept of each plane (PS3.3 C.11.1)."""
    source = _pixels(data)
    if source.rescale is None:
        raise UnsuitableError((f"the images have no rescale to {step.unit}",))
    found = source.rescale.type
    implied = not found and step.unit == "HU" and source.modality == "CT"
    if found != step.unit and not implied:
        raise UnsuitableError((f"the images are in {found or 'an unnamed unit'}, not {step.unit}",))
    if data.is_rescaled or data.array.shape != source.stored_values.shape:
        raise RejectedError("rescale has to be the first step")
    values = np.empty(data.array.shape, np.float32)
    planes = zip(_planes(values), _planes(data.array), strict=True)
    for index, (plane, stored) in enumerate(planes):
        slope = np.float32(source.rescale.slope[index])
        if slope != 1:  # as in most CT: one pass over the memory is enough
            stored = np.multiply(stored, slope, out=plane)  # noqa: PLW2901
        np.add(stored, np.float32(source.rescale.intercept[index]), out=plane)
    return replace(data, array=values, is_rescaled=True)


def _planes(array: Array) -> Array:
    return array if array.ndim == _VOLUME_AXES else array[np.newaxis]


def monochrome2(data: Data, _step: Monochrome2) -> Data:
    """Larger means brighter: a value x of MONOCHROME1 becomes what the lowest and the highest
    value that its bits can hold sum up to, minus x. So the content of the image plays no part:
    an image and the same one stored the other way round become equal."""
    source = _pixels(data)
    if not _is_inverted(source):
        return data
    if source.value_range is None or (data.is_rescaled and source.rescale is None):
        raise RejectedError("the range of the stored values is not known")
    low, high = source.value_range
    values = _floats(data.array)
    np.negative(values, out=values)
    if not data.is_rescaled or source.rescale is None:
        values += np.float32(low + high)
        return replace(data, array=values)
    sums = source.rescale.slope * (low + high) + 2 * source.rescale.intercept
    if np.ptp(sums) == 0 or data.grid[0] != len(sums):
        values += np.float32(sums[0])
    else:
        values += sums.astype(np.float32)[:, np.newaxis, np.newaxis]
    return replace(data, array=values)


def _is_inverted(source: Volume | Image) -> bool:
    if isinstance(source, Image) and source.presentation is not None:
        return source.presentation.is_inverted
    found = source.photometric_interpretation
    if found not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsuitableError((f"the image is {found}, not grey-scale",))
    return found == "MONOCHROME1"


def present(data: Data, _step: Present) -> Data:
    """Stored values to 0, black, ... 1, white, by the image's own statements (PS3.3 C.11)."""
    source = _pixels(data)
    if not isinstance(source, Image) or source.presentation is None:
        raise UnsuitableError(("only a grey-scale image can be presented",))
    if data.array is not source.stored_values:
        raise RejectedError("present has to be the first step")
    slope, intercept = 1.0, 0.0
    if source.rescale is not None:
        slope, intercept = float(source.rescale.slope[0]), float(source.rescale.intercept[0])
    shown = displayed(source.stored_values, source.presentation, slope, intercept)
    return replace(data, array=shown, is_rescaled=True)


def window(data: Data, step: Window) -> Data:
    values = _floats(data.array)
    values -= np.float32(step.centre - step.width / 2)
    values /= np.float32(step.width)
    return replace(data, array=np.clip(values, 0.0, 1.0, out=values))


def clip(data: Data, step: Clip) -> Data:
    values = _floats(data.array)
    return replace(data, array=np.clip(values, step.minimum, step.maximum, out=values))


def normalise(data: Data, step: Normalise) -> Data:
    values = _floats(data.array)
    mean, deviation = step.mean, step.standard_deviation
    if step.per == "input":
        mean = float(values.mean(dtype=np.float64))
        deviation = float(values.std(dtype=np.float64))
    if deviation <= 0:
        raise UnsuitableError(("the input has one value everywhere: there is nothing to see",))
    values -= np.float32(mean)
    values /= np.float32(deviation)
    return replace(data, array=values)


def rank_normalise(data: Data, _step: RankNormalise) -> Data:
    """Rank of each sample along the last axis to [-1, 1]; equal samples share their mean rank."""
    samples = data.array.shape[-1]
    if samples < 2:  # noqa: PLR2004 - a rank needs a second sample
        raise UnsuitableError(("a waveform of less than two samples",))
    ranks = np.apply_along_axis(_mean_ranks, -1, data.array)
    return replace(data, array=(2.0 * ranks / (samples - 1) - 1.0).astype(np.float32))


def _mean_ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


# --- grid --------------------------------------------------------------------------------

_VOLUME_AXES = 3


def reorient(data: Data, step: Reorient) -> Data:
    """Turn and flip a volume so that its indices grow into the named directions."""
    if not isinstance(data.source, Volume):
        raise RejectedError("only a volume can be reoriented")
    found = data.source.geometry.get_closest_patient_orientation()
    grows = [str(direction.value) for direction in found]
    now = [
        grows[axis.source_axis] if axis.scale > 0 else _OPPOSITE[grows[axis.source_axis]]
        for axis in data.axes
    ]
    order = [_axis_along(now, letter) for letter in step.to]
    array, axes = data.array.transpose(order), [data.axes[axis] for axis in order]
    for index, letter in enumerate(step.to):
        if now[order[index]] != letter:
            array = np.flip(array, index)
            axes[index] = axes[index].after(-1.0, array.shape[index] - 1)
    return replace(data, array=array, axes=tuple(axes))


_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}


def _axis_along(directions: list[str], letter: str) -> int:
    return next(
        index
        for index, direction in enumerate(directions)
        if direction in (letter, _OPPOSITE[letter])
    )


def resample(data: Data, step: Resample) -> Data:
    """Linear resampling to a spacing: the new grid begins at the old one's outer edge and covers
    all of it."""
    if data.spacing_mm is None:
        raise UnsuitableError((data.no_spacing,))
    ratios = [wanted / has for wanted, has in zip(step.spacing_mm, data.spacing_mm, strict=True)]
    sizes = [math.ceil(size / ratio - 1e-3) for size, ratio in zip(data.grid, ratios, strict=True)]
    return _resampled(data, sizes, ratios)


def resize(data: Data, step: Resize) -> Data:
    """Linear resampling of rows and columns to a size, pixel centres at half indices."""
    sizes = [*data.grid[:-2], *step.shape]
    ratios = [size / wanted for size, wanted in zip(data.grid, sizes, strict=True)]
    return _resampled(data, sizes, ratios)


def _resampled(data: Data, sizes: list[int], ratios: list[float]) -> Data:
    array, axes = data.array, list(data.axes)
    channels = array.ndim - len(axes)
    _check_size([*array.shape[:channels], *sizes])
    for axis, (size, ratio) in enumerate(zip(sizes, ratios, strict=True)):
        if size == data.grid[axis] and abs(ratio - 1.0) < 1e-6:  # noqa: PLR2004
            continue
        offset = 0.5 * ratio - 0.5
        array = _interpolated(array, np.arange(size) * ratio + offset, channels + axis)
        axes[axis] = axes[axis].after(ratio, offset)
    return replace(data, array=array, axes=tuple(axes))


def _interpolated(array: Array, positions: Array, axis: int) -> Array:
    """Linear interpolation along one axis at fractional indices, held at the ends."""
    last = array.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    lower = np.minimum(positions.astype(np.intp), max(last - 1, 0))
    weights = (positions - lower).astype(np.float32)
    shape = [1] * array.ndim
    shape[axis] = -1
    below = _floats(array.take(lower, axis))
    above = array.take(np.minimum(lower + 1, last), axis)
    below += (above - below) * weights.reshape(shape)
    return below


def crop_or_pad(data: Data, step: CropOrPad) -> Data:
    """Centre crop or pad; where the difference is odd, the extra element is at the end."""
    if len(step.shape) != len(data.grid):
        raise RejectedError(f"crop_or_pad names {len(step.shape)} axes of {len(data.grid)}")
    shape = (*data.array.shape[: data.array.ndim - len(data.axes)], *step.shape)
    _check_size(shape)
    result = np.full(shape, step.value, data.array.dtype)
    axes = list(data.axes)
    inside: list[Any] = [...]
    taken: list[Any] = [...]
    for axis, (wanted, has) in enumerate(zip(step.shape, data.grid, strict=True)):
        start = (has - wanted) // 2 if has >= wanted else -((wanted - has) // 2)
        length = min(wanted, has)
        inside.append(slice(max(-start, 0), max(-start, 0) + length))
        taken.append(slice(max(start, 0), max(start, 0) + length))
        if axes:
            axes[axis] = axes[axis].after(1.0, start)
    result[tuple(inside)] = data.array[tuple(taken)]
    return replace(data, array=result, axes=tuple(axes))


# --- waveforms ---------------------------------------------------------------------------


def select_lead(data: Data, step: SelectLead) -> Data:
    wave = _waveform(data)
    wanted = lead_number(step.lead)
    for index, lead in enumerate(wave.leads):
        if lead_number(lead) == wanted:
            return replace(data, array=data.array[index])
    raise UnsuitableError((f"the recording has no {step.lead.code_meaning}",))


def lead_number(code: Code) -> tuple[str, str]:
    """What makes two lead codes the same: MDC ``2:x`` (CID 3001) and the older SCPECG
    ``5.6.3-9-x`` share the numbers of SCP-ECG (ISO 11073-91064)."""
    for scheme, prefix in (("MDC", "2:"), ("SCPECG", "5.6.3-9-")):
        if code.coding_scheme_designator == scheme and code.code_value.startswith(prefix):
            return "SCP-ECG", code.code_value.removeprefix(prefix)
    return code.coding_scheme_designator, code.code_value


def resample_rate(data: Data, step: ResampleRate) -> Data:
    """Linear interpolation, after a low-pass filter where the rate goes down."""
    _waveform(data)
    ratio = data.frequency_hz / step.frequency_hz
    if abs(ratio - 1.0) < 1e-9:  # noqa: PLR2004 - the same rate
        return data
    size = max(1, round(data.array.shape[-1] / ratio))
    _check_size((size,))
    array = _low_passed(data.array, ratio) if ratio > 1 else data.array
    positions = np.arange(size) * ratio
    return replace(
        data,
        array=_interpolated(array, positions, array.ndim - 1),
        frequency_hz=step.frequency_hz,
    )


def _low_passed(array: Array, ratio: float) -> Array:
    """Windowed-sinc filter along the last axis that keeps what the lower rate can carry."""
    half = round(_FILTER_HALF_WIDTH * ratio)
    taps = np.sinc(np.arange(-half, half + 1) / ratio) * np.hamming(2 * half + 1)
    taps /= taps.sum()

    def filtered(samples: Array) -> Array:
        return np.convolve(np.pad(samples, half, mode="edge"), taps, mode="valid")

    result: Array = np.apply_along_axis(filtered, -1, array).astype(np.float32)
    return result


def take_seconds(data: Data, step: TakeSeconds) -> Data:
    wave = _waveform(data)
    samples = round(step.seconds * data.frequency_hz)
    if data.array.shape[-1] < samples:
        raise UnsuitableError((f"{wave.seconds:.1f} s recorded, {step.seconds:g} s are needed",))
    return replace(data, array=data.array[..., :samples])


# --- shared ------------------------------------------------------------------------------


def _pixels(data: Data) -> Volume | Image:
    if isinstance(data.source, Waveform):
        raise RejectedError("this step works on pixels, the input is a waveform")
    return data.source


def _waveform(data: Data) -> Waveform:
    if not isinstance(data.source, Waveform):
        raise RejectedError("this step works on waveforms, the input is an image")
    return data.source


def _floats(array: Array) -> Array:
    """As float32 that may be overwritten: the source's own values never are."""
    if array.dtype == np.float32 and array.base is None and array.flags.owndata:
        return array
    return array.astype(np.float32)


def _check_size(shape: tuple[int, ...] | list[int]) -> None:
    if np.prod([float(size) for size in shape]) > MAXIMUM_ELEMENTS:
        raise UnsuitableError((f"the input would become {'x'.join(map(str, shape))} elements",))


_STEPS: dict[type[PreprocessingStep], Callable[[Data, Any], Data]] = {
    Rescale: rescale,
    Monochrome2: monochrome2,
    Present: present,
    Reorient: reorient,
    Resample: resample,
    Resize: resize,
    Window: window,
    Clip: clip,
    Normalise: normalise,
    RankNormalise: rank_normalise,
    CropOrPad: crop_or_pad,
    SelectLead: select_lead,
    ResampleRate: resample_rate,
    TakeSeconds: take_seconds,
}
