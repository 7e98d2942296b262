"""The lung density graph against known truth and real images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from hub.formats.images.ct_phantom import (
    FIELD_OF_VIEW_MM,
    ChestPhantom,
    PhantomTruth,
    chest_phantom,
)
from hub.formats.manifest.model_manifest import read_manifest
from model_adapters.reference_models.lung_density_graph import GRAPH_FILE, graph_bytes

Volume = NDArray[np.float32]
Answer = dict[str, Any]
Run = Callable[[Volume, tuple[float, float, float]], Answer]


@pytest.fixture(scope="module")
def run() -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        GRAPH_FILE.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def infer(volume: Volume, spacing_mm: tuple[float, float, float]) -> Answer:
        feeds = {"volume": volume[None, None], "spacing_mm": np.array(spacing_mm, np.float32)}
        answer = dict(zip(names, session.run(None, feeds), strict=True))
        return {k: v[0, 0] if k == "labels" else float(v) for k, v in answer.items()}

    return infer


def hounsfield(files: list[bytes]) -> Volume:
    datasets = sorted(
        (dcmread(BytesIO(file)) for file in files), key=lambda d: float(d.ImagePositionPatient[2])
    )
    return np.stack(
        [
            d.pixel_array * np.float32(d.RescaleSlope) + np.float32(d.RescaleIntercept)
            for d in datasets
        ]
    ).astype(np.float32)


def assert_close(
    answer: Answer, truth: PhantomTruth, *, volume: float, laa: float, hu: float
) -> None:
    assert answer["assessable"] == 1
    assert answer["lung_volume_ml"] == pytest.approx(truth.lung_volume_ml, rel=volume)
    assert answer["laa_950_percent"] == pytest.approx(truth.laa_950_percent, abs=laa)
    assert answer["mean_lung_density_hu"] == pytest.approx(truth.mean_lung_density_hu, abs=hu)


@pytest.fixture(scope="module")
def phantom() -> ChestPhantom:
    return chest_phantom(rows=256, columns=256)


# --- the file ----------------------------------------------------------------------------


def test_the_committed_graph_is_what_the_script_builds() -> None:
    built = hashlib.sha256(graph_bytes()).hexdigest()
    assert hashlib.sha256(GRAPH_FILE.read_bytes()).hexdigest() == built


def test_the_manifest_is_valid_and_pins_the_graph() -> None:
    card = read_manifest(GRAPH_FILE.with_name("model.yaml").read_text(), "model.yaml")
    assert card.runtime.graph.path == GRAPH_FILE.name
    assert card.runtime.graph.sha256 == hashlib.sha256(GRAPH_FILE.read_bytes()).hexdigest()


def test_the_graph_is_plain_onnx_without_weights() -> None:
    model = onnx.load(GRAPH_FILE)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18}
    assert not model.graph.initializer
    for node in every_node(model.graph):
        assert node.domain == ""
        for attribute in node.attribute:
            assert np.prod(attribute.t.dims) <= 4


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from every_node(attribute.g)


# --- known truth -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slices", "size", "seed"), [(1, 512, 1), (8, 128, 2), (8, 200, 3), (5, 301, 4), (2, 1030, 5)]
)
def test_the_phantom_is_measured_exactly(run: Run, slices: int, size: int, seed: int) -> None:
    phantom = chest_phantom(slices=slices, rows=size, columns=size, seed=seed)
    pixel = FIELD_OF_VIEW_MM / size
    answer = run(hounsfield(phantom.files), (2.5, pixel, pixel))
    assert_close(answer, phantom.truth, volume=0.0001, laa=0.01, hu=0.01)


def test_whole_lungs_are_measured_exactly(run: Run, phantom: ChestPhantom) -> None:
    answer = run(hounsfield(phantom.files), (2.5, 1.4, 1.4))
    assert_close(answer, phantom.truth, volume=0.0001, laa=0.01, hu=0.01)


@pytest.mark.parametrize("noise_hu", [0, 20, 40])
def test_blur_and_noise_change_little(run: Run, noise_hu: int) -> None:
    phantom = chest_phantom(slices=24)
    noise = np.random.default_rng(7).normal(0, noise_hu, (24, 512, 512))
    volume = (blurred(hounsfield(phantom.files)) + noise).astype(np.float32)
    # Soft edges brighten the rim of the lung: the mean moves, volume and LAA-950 hardly do.
    assert_close(run(volume, (2.5, 0.7, 0.7)), phantom.truth, volume=0.01, laa=0.5, hu=10)


def blurred(volume: Volume) -> Volume:
    """Gaussian of 1 pixel in the plane."""
    weights = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    for axis in (1, 2):
        volume = sum(
            weight / weights.sum() * np.roll(volume, step, axis)
            for step, weight in zip(range(-3, 4), weights, strict=True)
        )
    return volume


def test_labels_are_lung_and_low_attenuation_and_leave_out_the_trachea(
    run: Run, phantom: ChestPhantom
) -> None:
    volume = hounsfield(phantom.files)
    answer = run(volume, (2.5, 1.4, 1.4))
    labels = answer["labels"]
    assert labels.shape == volume.shape
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (volume[labels == 2] < -950).all()
    assert (volume[labels == 1] >= -950).all()
    assert (labels > 0).sum() * 1.4 * 1.4 * 2.5 / 1000 == pytest.approx(answer["lung_volume_ml"])
    trachea = labels[:, 128:142, 122:134]
    assert (volume[:, 128:142, 122:134] < -900).any()
    assert not trachea.any()


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.rot90])
def test_numbers_do_not_depend_on_how_the_slice_is_turned(run: Run, turn: Any) -> None:
    phantom = chest_phantom(slices=1, rows=256, columns=256)
    volume = hounsfield(phantom.files)
    turned = np.ascontiguousarray(turn(volume[0])[None])
    assert_close(run(turned, (2.5, 1.4, 1.4)), phantom.truth, volume=0.002, laa=0.01, hu=0.1)


def test_severe_emphysema_is_still_lung(run: Run, phantom: ChestPhantom) -> None:
    volume = hounsfield(phantom.files)
    noise = np.random.default_rng(3).normal(0, 40, volume.shape).astype(np.float32)
    lung = run(volume, (2.5, 1.4, 1.4))["labels"] > 0
    volume[lung] += noise[lung] - 65
    answer = run(volume, (2.5, 1.4, 1.4))
    assert answer["laa_950_percent"] == pytest.approx(100 * (volume[lung] < -950).mean(), abs=0.5)
    assert answer["laa_950_percent"] > 15
    assert answer["lung_volume_ml"] == pytest.approx(phantom.truth.lung_volume_ml, rel=0.01)


# --- no lung, no answer ------------------------------------------------------------------


def not_assessable(answer: Answer) -> bool:
    numbers = [value for name, value in answer.items() if name != "labels"]
    return answer["assessable"] == 0 and bool(np.isfinite(numbers).all())


def test_a_body_full_of_gas_is_not_a_lung(run: Run) -> None:
    side = (np.arange(256) - 127.5) * 1.4
    x, y = side[None, :], side[:, None]
    plane = np.where((x / 165) ** 2 + (y / 115) ** 2 < 1, 40.0, -1000.0)
    plane[(x / 90) ** 2 + ((y + 30) / 50) ** 2 < 1] = -990.0
    volume = blurred(np.repeat(plane[None], 3, axis=0)).astype(np.float32)
    assert not_assessable(run(volume, (2.0, 1.4, 1.4)))


@pytest.mark.parametrize("hu", [-1024, -850, 40])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (3, 100, 90)])
def test_a_uniform_image_of_any_size_is_not_assessable(
    run: Run, hu: int, shape: tuple[int, int, int]
) -> None:
    assert not_assessable(run(np.full(shape, hu, np.float32), (1.0, 0.7, 0.7)))


def test_an_abdomen_is_not_assessable(run: Run, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "ct-abdomen-totalsegmentator" / "example_ct_dicom"
    volume = hounsfield([path.read_bytes() for path in sorted(folder.iterdir())])
    assert volume.shape == (20, 512, 512)
    assert not_assessable(run(volume, (2.0, 0.9765625, 0.9765625)))


def test_a_slice_through_larynx_and_shoulders_is_not_assessable(
    run: Run, shared_data: Path
) -> None:
    path = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes" / "CTImage.dcm"
    volume = hounsfield([path.read_bytes()])
    assert (volume < -950).any()
    assert not_assessable(run(volume, (5.0, 0.675781, 0.675781)))


# --- size --------------------------------------------------------------------------------


def test_two_hundred_slices_are_assessed(run: Run) -> None:
    plane = hounsfield(chest_phantom(slices=1).files)
    volume = np.repeat(plane, 200, axis=0)
    assert run(volume, (1.0, 0.7, 0.7))["assessable"] == 1
