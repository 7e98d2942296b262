"""Back from the grid that the model was given to the source images, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.domain.finding import GraphicType, ImageLocation
from hub.errors import RejectedError
from hub.formats.images.recording import Waveform
from model_adapters.tensors.preprocessing import SINGLE, AxisMap, Data

Array = NDArray[Any]
SEGMENT = "segment"
"""In ``axes`` of probabilities: the axis with a place for each segment."""
_GRAPHICS = {
    "point": GraphicType.POINT,
    "polyline": GraphicType.POLYLINE,
    "ellipse": GraphicType.ELLIPSE,
    "circle": GraphicType.CIRCLE,
}
_POINTS = {"point": 1, "rectangle": 2, "ellipse": 4, "circle": 2}
_FEWEST_OF_A_POLYLINE = 2
_EDGE = 0.5
"""From the centre of a voxel to its edge."""
_SAME_PLANE = 0.5
"""Points of one drawing differ by no more than this across the images, in slices."""
_DECIMALS = 3
"""Of a pixel: more than any model knows."""


# --- points ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceGrid:
    """The source images, and how the voxels that the model was given lie on them."""

    axes: tuple[AxisMap, ...]
    shape: tuple[int, int, int]
    """Planes, rows, columns."""
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int | None, ...]
    """Of each plane; None for an image of one frame."""

    @property
    def dimensions(self) -> int:
        """Numbers of one voxel coordinate: 3 for a volume, 2 for an image."""
        return len(self.axes)

    def place(self, graphic: str, voxels: Array) -> ImageLocation:
        """A drawing on a source image.

        Args:
            graphic: as in ``LocationSpec``.
            voxels: the points in the model's grid, one after another, in any shape.

        Raises:
            RejectedError: another number of points than the graphic has, points outside of the
                images, or on several of them.
        """
        if not voxels.size or voxels.size % self.dimensions:
            raise RejectedError(f"a location holds {voxels.size} numbers, not points")
        points = self._on_source(voxels.reshape(-1, self.dimensions).astype(np.float64))
        fewest = _POINTS.get(graphic, _FEWEST_OF_A_POLYLINE)
        if len(points) < fewest or (graphic in _POINTS and len(points) != fewest):
            raise RejectedError(f"a {graphic} has {fewest} points, the model gives {len(points)}")
        if graphic == "rectangle":
            return self._outline(*self._box(points))
        self._check_inside(points)
        if np.ptp(points[:, 0]) > _SAME_PLANE:
            raise RejectedError(f"the points of a {graphic} lie on several images")
        return self._located(_GRAPHICS[graphic], points[:, 0].mean(), points[:, 1:])

    def place_box(self, graphic: str, box: Array) -> ImageLocation:
        """A box, as a ``rectangle`` or as the ``ellipse`` in it, on the image in its middle."""
        if graphic == "rectangle":
            return self.place(graphic, box)
        points = self._on_source(box.reshape(2, self.dimensions).astype(np.float64))
        plane, low, high = self._box(points)
        (top, left), (bottom, right) = low, high
        row, column = (top + bottom) / 2, (left + right) / 2
        across = [(row, left), (row, right)]
        down = [(top, column), (bottom, column)]
        axes = across + down if right - left >= bottom - top else down + across
        return self._located(GraphicType.ELLIPSE, plane, np.array(axes))

    def _on_source(self, points: Array) -> Array:
        """(n, 3) plane, row, column of the source."""
        result = np.zeros((len(points), 3))
        added = 3 - self.dimensions  # an image is the only plane
        for index, axis in enumerate(self.axes):
            result[:, added + axis.source_axis] = axis.scale * points[:, index] + axis.offset
        return result

    def _box(self, corners: Array) -> tuple[float, Array, Array]:
        """Its middle plane, its top left and its bottom right corner, cut at the image's edges."""
        self._check_inside(corners.mean(axis=0, keepdims=True))
        edges = np.array(self.shape[1:]) - _EDGE
        corners[:, 1:] = np.clip(corners[:, 1:], -_EDGE, edges)
        low, high = corners[:, 1:].min(axis=0), corners[:, 1:].max(axis=0)
        return float(corners[:, 0].mean()), low, high

    def _outline(self, plane: float, low: Array, high: Array) -> ImageLocation:
        (top, left), (bottom, right) = low, high
        corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
        return self._located(GraphicType.POLYLINE, plane, np.array(corners))

    def _check_inside(self, points: Array) -> None:
        if (points < -_EDGE).any() or (points > np.array(self.shape) - _EDGE).any():
            raise RejectedError("the model places a finding outside of the images")

    def _located(self, graphic: GraphicType, plane: float, points: Array) -> ImageLocation:
        index = min(max(round(plane), 0), self.shape[0] - 1)
        pixels = [
            (round(float(column) + _EDGE, _DECIMALS), round(float(row) + _EDGE, _DECIMALS))
            for row, column in points
        ]
        uid, frame = self.sop_instance_uids[index], self.frame_numbers[index]
        return ImageLocation(graphic, uid, tuple(pixels), frame)


def source_grid(data: Data) -> SourceGrid | None:
    """The grid behind what the model was given; ``None`` of a waveform."""
    source = data.source
    if isinstance(source, Waveform):
        return None
    uids = source.sop_instance_uids
    numbers = tuple(frame.number for frame in source.frames) or (None,) * len(uids)
    rows, columns = source.stored_values.shape[-2:]
    return SourceGrid(data.axes, (len(uids), rows, columns), uids, numbers)


# --- voxels ------------------------------------------------------------------------------


def on_source(what: str, axes: str, output: Array, data: Data, outside: float = 0) -> Array:
    """An output with a value for every voxel on the grid of the source, by nearest neighbour:
    (slice, row, column) or (row, column).

    Args:
        what: its name in messages, e.g. ``the label map``.
        axes: the axes of the output by name; 1 stands for an axis of one element.
        outside: the value of voxels that the model did not see.

    Raises:
        RejectedError: it has another shape than the input.
    """
    placed = on_data_axes(what, axes, output, data)
    order = np.argsort([axis.source_axis for axis in data.axes])
    placed = placed.transpose(order)
    sizes = () if isinstance(data.source, Waveform) else data.source.stored_values.shape
    for axis, (index, size) in enumerate(zip(order, sizes[-len(order) :], strict=True)):
        placed = _on_source_axis(placed, axis, data.axes[index], size, outside)
    return placed


def on_data_axes(what: str, axes: str, output: Array, data: Data) -> Array:
    """An output with the axes of what the model was given, in their order.

    Raises:
        RejectedError: it has another shape.
    """
    tokens = axes.split()
    if output.ndim != len(tokens):
        raise RejectedError(f"{what} has {output.ndim} axes, {axes!r} was promised")
    if isinstance(data.source, Waveform):
        raise RejectedError(f"a waveform has no voxels for {what}")
    single = tuple(index for index, token in enumerate(tokens) if token == SINGLE)
    if any(output.shape[index] != 1 for index in single):
        raise RejectedError(f"{what} has more than one channel or batch")
    named = [token for token in tokens if token != SINGLE]
    names = ("slice", "row", "column")[-len(named) :]
    placed: Array = output.squeeze(single).transpose([named.index(name) for name in names])
    if placed.shape != data.grid:
        raise RejectedError(f"{what} is {placed.shape}, the model was given {data.grid}")
    return placed


def _on_source_axis(values: Array, axis: int, along: AxisMap, size: int, outside: float) -> Array:
    """Nearest neighbour along one axis."""
    nearest = np.rint((np.arange(size) - along.offset) / along.scale).astype(np.intp)
    has = values.shape[axis]
    if has == size and np.array_equal(nearest, np.arange(size)):
        return values
    if has == size and np.array_equal(nearest, np.arange(size)[::-1]):
        return np.flip(values, axis)
    placed: Array = values.take(np.clip(nearest, 0, has - 1), axis)
    unseen = np.flatnonzero((nearest < 0) | (nearest >= has))
    placed[(slice(None),) * axis + (unseen,)] = outside
    return placed


def take_channel(axes: str, output: Array, channel: int) -> tuple[str, Array]:
    """One place of the axis ``segment``, and the axes that are left; the output itself where it
    has no such axis.

    Raises:
        RejectedError: it has no such place.
    """
    tokens = axes.split()
    if SEGMENT not in tokens:
        return axes, output
    axis = tokens.index(SEGMENT)
    if output.ndim != len(tokens) or channel >= output.shape[axis]:
        raise RejectedError(f"the probabilities have no channel {channel}")
    left = [token for token in tokens if token != SEGMENT]
    return " ".join(left), output[(slice(None),) * axis + (channel,)]
