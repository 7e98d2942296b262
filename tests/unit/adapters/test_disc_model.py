"""A model that sees something, in its worker process: findings with places, and all its voxels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hub.domain.finding import Presence
from hub.domain.inference import InferenceResult
from hub.errors import ConfigError
from hub.ports import AdapterContext
from hub.store.packages import read_package
from model_adapters.onnx_local import ADAPTER
from model_adapters.onnx_local.adapter import OnnxLocalAdapter
from model_adapters.onnx_local.config import OnnxLocalConfig
from tests.acceptance.disc_model import DISC_SCORE, findings_of_a_disc, with_disc
from tests.acceptance.studies import StudyFiles, phantom
from tests.unit.adapters.toy_models import Files, WallClock, request

PIXEL_MM = 2.8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def adapter(store: Files) -> Iterator[OnnxLocalAdapter]:
    made = ADAPTER.build(OnnxLocalConfig(processes=1), AdapterContext("t", store, WallClock()))
    yield made  # type: ignore[misc]
    made.close()


def answer(
    adapter: OnnxLocalAdapter, store: Files, study: StudyFiles, package: Path
) -> InferenceResult:
    loaded = read_package(package)
    adapter.load(loaded)
    files = [file.read_bytes() for file in study.files]
    result = adapter.infer(request(store, files, loaded.key))
    assert isinstance(result, InferenceResult), result
    return result


def test_a_disc_is_found_where_it_is(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    study = with_disc(
        phantom(tmp_path / "plain"),
        tmp_path / "disc",
        slices=(4, 5, 6),
        row=62,
        column=37,
        radius=6,
    )
    result = answer(adapter, store, study, findings_of_a_disc(tmp_path / "model"))
    found, diameter = result.findings
    assert found.presence is Presence.PRESENT
    assert found.probability == pytest.approx(DISC_SCORE, abs=0.005)
    assert diameter.value == pytest.approx(13 * PIXEL_MM)
    (place,) = found.locations
    assert place.sop_instance_uid == study.headers[5].SOPInstanceUID
    assert (min(place.points), max(place.points)) == ((31.0, 56.0), (44.0, 69.0))
    region, (attenuation,) = result.region, result.maps
    assert region is not None
    shape = (8, 128, 128)
    rows, columns = np.ogrid[:128, :128]
    disc = np.zeros(shape, np.bool_)
    disc[4:7] = (rows - 62) ** 2 + (columns - 37) ** 2 <= 36
    labels = np.frombuffer(region.labels, np.uint8).reshape(shape)
    sure = np.frombuffer(region.probabilities, np.uint8).reshape(shape)
    above = np.frombuffer(attenuation.values, "<f4").reshape(shape)
    assert np.array_equal(labels, disc)
    assert set(sure[disc]) == {round(255 / (1 + np.exp(-2)))}
    assert sure[~disc].max() < 10
    assert np.array_equal(above, disc * np.float32(500))
    assert attenuation.sop_instance_uids == region.sop_instance_uids


def test_where_there_is_none_the_answer_says_so(
    adapter: OnnxLocalAdapter, store: Files, tmp_path: Path
) -> None:
    package = findings_of_a_disc(tmp_path / "model")
    result = answer(adapter, store, phantom(tmp_path / "plain"), package)
    (finding,) = result.findings
    assert (finding.presence, finding.statement) == (Presence.ABSENT, "No disc in the images.")
    assert result.region is not None
    assert not any(result.region.labels)


def test_a_map_needs_no_label_map(adapter: OnnxLocalAdapter, store: Files, tmp_path: Path) -> None:
    package = findings_of_a_disc(tmp_path / "model", model_id="map-only")
    text = (package / "model.yaml").read_text()
    begin, end = text.index("  region:\n"), text.index("  maps:\n")
    (package / "model.yaml").write_text(text[:begin] + text[end:])
    study = with_disc(phantom(tmp_path / "plain"), tmp_path / "disc")
    result = answer(adapter, store, study, package)
    assert result.region is None
    (attenuation,) = result.maps
    assert np.frombuffer(attenuation.values, "<f4").max() == 500


@pytest.mark.parametrize(
    ("old", "new", "field", "said"),
    [
        ("scores: scores", "scores: scors", "output.findings.0.scores", "no output scors"),
        ("output: boxes", "output: box", "output.findings.0.output", "no output box"),
        (
            "output: diameters",
            "output: diameter",
            "output.findings.0.measurements.0.output",
            "no output diameter;",
        ),
        (
            "probabilities: {output: probabilities",
            "probabilities: {output: labels",
            "output.region.probabilities.output",
            "float32",
        ),
        ("output: attenuation", "output: hu", "output.maps.0.output", "no output hu"),
        (
            "attenuation\n      axes: slice",
            "attenuation\n      axes: 1 slice",
            "output.maps.0.axes",
            "3 axes",
        ),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_not_loaded(
    adapter: OnnxLocalAdapter, tmp_path: Path, *, old: str, new: str, field: str, said: str
) -> None:
    package = findings_of_a_disc(tmp_path / "model", model_id="other")
    text = (package / "model.yaml").read_text()
    assert old in text
    (package / "model.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        adapter.load(read_package(package))
    found = {problem.field: problem.message for problem in caught.value.problems}
    assert said in found[field]
