"""Points and boxes of a model find their way back to a pixel of a source image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hub.domain.finding import GraphicType, ImageLocation
from hub.domain.model_steps import CropOrPad, Reorient, Resample, Resize
from hub.errors import RejectedError
from hub.formats.images.image import read_single_image
from hub.formats.images.volume import read_volume
from hub.formats.manifest.model_manifest import read_manifest
from model_adapters.tensors.preprocessing import (
    Data,
    crop_or_pad,
    data_of,
    reorient,
    resample,
    resize,
)
from model_adapters.tensors.source_grid import SourceGrid, source_grid
from tests.unit.adapters.toy_models import MANIFEST
from tests.unit.imaging import ct_series, ct_slice

ROWS, COLUMNS = 20, 30
VOXEL = (2, 11, 23)
"""Slice, row, column of the one bright voxel."""


def volume() -> Data:
    planes = [np.zeros((ROWS, COLUMNS), np.int16) for _ in range(4)]
    planes[VOXEL[0]][VOXEL[1:]] = 1000
    files = [ct_slice(number, plane) for number, plane in enumerate(planes)]
    return data_of(read_volume(files, len(files), spacing_tolerance=0.01))


def grid_of(data: Data) -> SourceGrid:
    found = source_grid(data)
    assert found is not None
    return found


def brightest(data: Data) -> np.ndarray[Any, Any]:
    return np.array(np.unravel_index(int(np.argmax(data.array)), data.array.shape), np.float32)


CHAINS: dict[str, list[Any]] = {
    "as it is": [],
    "turned and flipped": [lambda d: reorient(d, Reorient(kind="reorient", to="LAF"))],
    "cropped": [lambda d: crop_or_pad(d, CropOrPad(kind="crop_or_pad", shape=(3, 12, 26)))],
    "padded": [lambda d: crop_or_pad(d, CropOrPad(kind="crop_or_pad", shape=(9, 41, 50)))],
    "turned, then padded": [
        lambda d: reorient(d, Reorient(kind="reorient", to="HPL")),
        lambda d: crop_or_pad(d, CropOrPad(kind="crop_or_pad", shape=(9, 41, 50))),
    ],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_voxel_of_the_input_is_the_pixel_that_it_came_from(chain: list[Any]) -> None:
    source = data = volume()
    for step in chain:
        data = step(data)
    location = grid_of(data).place("point", brightest(data))
    uid = source.source.sop_instance_uids[VOXEL[0]]  # type: ignore[union-attr]
    assert location == ImageLocation(GraphicType.POINT, uid, ((VOXEL[2] + 0.5, VOXEL[1] + 0.5),))


def test_a_resampled_point_keeps_its_place_in_the_patient() -> None:
    data = volume()
    half = tuple(spacing / 2 for spacing in data.spacing_mm or ())
    finer = resample(data, Resample(kind="resample", spacing_mm=half))
    # The voxel k is covered by 2k and 2k + 1 of the finer grid: its centre lies between them.
    between = np.array([2 * index + 0.5 for index in VOXEL])
    assert grid_of(finer).place("point", between) == grid_of(data).place("point", np.array(VOXEL))


def test_a_point_on_an_image_has_two_numbers() -> None:
    text = MANIFEST.replace("%SHA%", "0" * 64).replace("%TIMEOUT%", "1")
    text = text.replace("{kind: volume}", "{kind: image}").replace("slice row", "row")
    text = text.replace("  - {kind: reorient, to: FAR}\n", "")
    spec = read_manifest(text, "model.yaml").input
    image = read_single_image(ct_slice(1, np.zeros((ROWS, COLUMNS), np.int16)), spec)  # type: ignore[arg-type]
    data = resize(data_of(image), Resize(kind="resize", shape=(ROWS * 2, COLUMNS * 2)))
    location = grid_of(data).place("point", np.array([2 * 4 + 0.5, 2 * 7 + 0.5]))
    assert location.points == ((7.5, 4.5),)
    assert location.sop_instance_uid == image.sop_instance_uids[0]
    assert location.frame_number is None


def test_a_box_is_drawn_on_the_image_in_its_middle_and_cut_at_the_edges() -> None:
    grid = grid_of(volume())
    box = np.array([[0.5, 2.5, -4.0], [3.4, 9.5, 5.5]])
    location = grid.place("rectangle", box)
    assert location.sop_instance_uid == grid.sop_instance_uids[2]
    corners = ((0.0, 3.0), (6.0, 3.0), (6.0, 10.0), (0.0, 10.0), (0.0, 3.0))
    assert (location.graphic_type, location.points) == (GraphicType.POLYLINE, corners)
    assert grid.place("rectangle", box[::-1]) == location
    round_one = grid.place_box("ellipse", box)
    ends = ((3.0, 3.0), (3.0, 10.0), (0.0, 6.5), (6.0, 6.5))
    assert (round_one.graphic_type, round_one.points) == (GraphicType.ELLIPSE, ends)


@pytest.mark.parametrize(
    ("graphic", "points", "said"),
    [
        ("point", [[1, 2, 3], [1, 2, 4]], "a point has 1 points, the model gives 2"),
        ("polyline", [[1, 2, 3]], "a polyline has 2 points"),
        ("circle", [[1, 2, 3, 4]], "holds 4 numbers, not points"),
        ("circle", [[1, 5, 5], [2, 5, 8]], "several images"),
        ("point", [[4, 2, 3]], "outside of the images"),
        ("point", [[1, -0.6, 3]], "outside of the images"),
        ("rectangle", [[1, 25, 3], [1, 30, 8]], "outside of the images"),
    ],
)
def test_what_lies_nowhere_is_a_broken_result(graphic: str, points: Any, said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        grid_of(volume()).place(graphic, np.array(points, np.float32))


def test_a_frame_is_named_with_its_number() -> None:
    grid = SourceGrid(volume().axes, (2, ROWS, COLUMNS), ("1.1", "1.1"), (1, 2))
    assert grid.place("point", np.array([1, 2, 3])).frame_number == 2


def test_several_series_positions_have_their_own_images() -> None:
    data = data_of(read_volume(ct_series(range(3)), 3, spacing_tolerance=0.01))
    grid = grid_of(data)
    shown = [grid.place("point", np.array([n, 0, 0])).sop_instance_uid for n in range(3)]
    assert shown == list(data.source.sop_instance_uids)  # type: ignore[union-attr]
