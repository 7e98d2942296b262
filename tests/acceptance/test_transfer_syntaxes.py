"""One real chest slice in sixteen transfer syntaxes: the same numbers, or a clear refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from hub.store.overview import ResultRow, StudyTimeline
from tests.acceptance.models import AIR, MEAN, densities
from tests.acceptance.studies import CHEST_SLICE, as_new_study
from tests.running_hub import RESULTS, launch_hub, transfer_syntax_of

pytestmark = pytest.mark.peers

UNCOMPRESSED = "1.2.840.10008.1.2.1"
LOSSLESS = (
    UNCOMPRESSED,
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)
LOSSY = (
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
)
EIGHT_BIT = "1.2.840.10008.1.2.4.50"
"""JPEG baseline: 12 bits became 8, so that the densities of the lung are coarse steps."""
REFUSED = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
"""JPEG with progressive or hierarchical coding, retired in 2001; nobody decodes it faithfully."""

LUNG, DENSITIES = "lung-density", "densities"
ROUTES = [
    {"name": model, "when": "true", "series": "true", "model": model} for model in (LUNG, DENSITIES)
]


@dataclass(frozen=True)
class Answered:
    """What became of the slice in every transfer syntax."""

    timelines: dict[str, StudyTimeline]
    truth: dict[str, float]
    """What the uncompressed file says, read without any code of the hub."""
    results: Path
    """Where results are delivered, one folder per request."""

    def result(self, transfer_syntax_uid: str, model: str) -> ResultRow:
        timeline = self.timelines[transfer_syntax_uid]
        (result,) = [one for one in timeline.results if one.model_id == model]
        return result

    def numbers(self, transfer_syntax_uid: str) -> dict[str, float]:
        result = self.result(transfer_syntax_uid, DENSITIES)
        assert result.outcome == "assessed", result.reasons
        return {f["code"]["code_value"]: f["value"] for f in result.findings}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Answered]:
    folder = tmp_path_factory.mktemp("syntaxes")
    studies = {}
    for file in sorted((shared_data / CHEST_SLICE).glob("*Syntax*.dcm")):
        uid = transfer_syntax_of(file)
        studies[uid] = as_new_study([file], folder / uid, name=uid)
    package = str(densities(folder / DENSITIES))
    models = [{"package": f"builtin:{LUNG}"}, {"package": package}]
    hub = launch_hub(folder, sections={"routes": ROUTES, "models": models})
    for study in studies.values():
        hub.send(study.files)
    timelines = {
        uid: hub.wait_for_study(study.study_instance_uid) for uid, study in studies.items()
    }
    yield Answered(timelines, _truth(studies[UNCOMPRESSED].files[0]), hub.data / RESULTS)
    hub.close()


def _truth(file: Path) -> dict[str, float]:
    data_set = pydicom.dcmread(file)
    stored = np.frombuffer(data_set.PixelData, "<i2")
    hu = stored * np.float64(data_set.RescaleSlope) + np.float64(data_set.RescaleIntercept)
    return {MEAN: round(float(hu.mean()), 3), AIR: round(100 * float((hu < -400).mean()), 3)}


def test_every_transfer_syntax_of_the_set_is_tested(answered: Answered) -> None:
    assert sorted(answered.timelines) == sorted((*LOSSLESS, *LOSSY, EIGHT_BIT, *REFUSED))


@pytest.mark.parametrize("uid", LOSSLESS)
def test_a_lossless_transfer_syntax_gives_the_same_numbers(answered: Answered, uid: str) -> None:
    numbers = answered.numbers(uid)
    assert numbers == answered.numbers(UNCOMPRESSED)
    assert numbers == pytest.approx(answered.truth, abs=0.002), "single precision"


@pytest.mark.parametrize("uid", LOSSY)
def test_a_lossy_transfer_syntax_gives_nearly_the_same_numbers(
    answered: Answered, uid: str
) -> None:
    exact = answered.truth
    assert answered.numbers(uid) == {
        MEAN: pytest.approx(exact[MEAN], abs=1),
        AIR: pytest.approx(exact[AIR], abs=0.1),
    }


def test_eight_bits_give_numbers_as_coarse_as_their_steps(answered: Answered) -> None:
    exact = answered.truth
    assert answered.numbers(EIGHT_BIT) == {
        MEAN: pytest.approx(exact[MEAN], abs=25),
        AIR: pytest.approx(exact[AIR], abs=0.1),
    }


@pytest.mark.parametrize("uid", [*LOSSLESS, *LOSSY, EIGHT_BIT])
def test_the_slice_shows_too_little_lung_in_every_transfer_syntax(
    answered: Answered, uid: str
) -> None:
    result = answered.result(uid, LUNG)
    assert result.outcome == "not-assessable"
    assert all(finding["value"] is None for finding in result.findings)


@pytest.mark.parametrize("uid", REFUSED)
def test_pixels_that_cannot_be_decoded_are_refused_with_the_reason(
    answered: Answered, uid: str
) -> None:
    timeline = answered.timelines[uid]
    for model in (LUNG, DENSITIES):
        result = answered.result(uid, model)
        assert result.outcome == "unsuitable"
        assert result.findings == []
        (reason,) = result.reasons
        assert "progressive JPEG" in reason
    assert len([line for line in timeline.explanation if "progressive JPEG" in line]) == 2
    assert {document.kind for document in timeline.documents} <= {"record"}
    assert not timeline.deliveries
    for request in timeline.requests:
        assert request.attempts == 1, "it can never succeed: no second attempt"
        assert not (answered.results / request.request_id).exists()
