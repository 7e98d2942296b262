"""Intervals from wave classes, and the trained ECG network on a real recording."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file

import model_adapters.reference_models
from hub.domain.model_card import ModelCard
from hub.errors import UnsuitableError
from hub.formats.manifest.model_manifest import read_manifest
from model_adapters.tensors.ecg import QRS, P, T, intervals_from_wave_classes

MANIFEST = Path(model_adapters.reference_models.__file__).parent / "ecg-intervals" / "model.yaml"
MACHINE = {"rr_ms": 982, "pr_ms": 161, "qrs_ms": 75, "qt_ms": 368}
"""What the electrocardiograph wrote into waveform_ecg.dcm."""


def recording(
    beats: int = 8, rr: int = 400, *, p: bool = True, t: bool = True
) -> NDArray[np.int64]:
    """Wave classes at 500 Hz: PR 160 ms, QRS 90 ms, QT 380 ms, RR 800 ms."""
    classes = np.zeros(200 + beats * rr, np.int64)
    for onset in range(150, 150 + beats * rr, rr):
        if p:
            classes[onset - 80 : onset - 30] = P
        classes[onset : onset + 45] = QRS
        if t:
            classes[onset + 100 : onset + 190] = T
    return classes


# --- intervals ---------------------------------------------------------------------------


def test_intervals_are_medians_over_the_beats() -> None:
    assert intervals_from_wave_classes(recording(), 500) == {
        "rr_ms": 800,
        "pr_ms": 160,
        "qrs_ms": 90,
        "qt_ms": 380,
        "beats": 8,
    }


def test_the_sampling_frequency_scales_them() -> None:
    doubled = np.repeat(recording(), 2)
    assert intervals_from_wave_classes(doubled, 1000) == intervals_from_wave_classes(
        recording(), 500
    )


def test_spurious_short_runs_and_interrupted_waves_change_nothing() -> None:
    classes = recording()
    classes[400:404] = QRS
    classes[20:28] = T
    classes[1000:1008] = P
    for onset in range(150, 3350, 400):
        classes[onset + 20 : onset + 23] = 0
        classes[onset + 140] = QRS
    assert intervals_from_wave_classes(classes, 500) == intervals_from_wave_classes(
        recording(), 500
    )


def test_a_missed_beat_does_not_change_the_rr_interval() -> None:
    classes = recording()
    classes[150 + 3 * 400 : 150 + 3 * 400 + 45] = 0
    found = intervals_from_wave_classes(classes, 500)
    assert found["rr_ms"] == 800
    assert found["beats"] == 7


def test_without_p_waves_only_the_pr_interval_is_not_determined() -> None:
    found = intervals_from_wave_classes(recording(p=False), 500)
    assert math.isnan(found.pop("pr_ms"))
    assert found == {"rr_ms": 800, "qrs_ms": 90, "qt_ms": 380, "beats": 8}


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (np.zeros(5000, np.int64), "0 heart beats"),
        (recording(beats=2), "2 heart beats"),
        (recording(t=False), "T waves were found in 0 of 8"),
        (np.full(5000, QRS), "0 heart beats"),
        (recording(beats=5, rr=1600), "no heart rhythm"),
    ],
)
def test_what_is_no_readable_ecg_is_refused_with_the_reason(
    classes: NDArray[Any], reason: str
) -> None:
    with pytest.raises(UnsuitableError, match=reason):
        intervals_from_wave_classes(classes, 500)


def test_beats_of_ever_different_duration_are_refused() -> None:
    classes = recording()
    for beat, onset in enumerate(range(150, 3350, 400)):
        classes[onset - 6 * beat : onset] = QRS
    with pytest.raises(UnsuitableError, match="differs from beat to beat"):
        intervals_from_wave_classes(classes, 500)


# --- the network -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return read_manifest(MANIFEST.read_text(), "model.yaml")


@pytest.fixture(scope="module")
def graph(card: ModelCard) -> Path:
    package, _, path = card.runtime.graph.path.removeprefix("python:").partition("/")
    found = importlib.util.find_spec(package)
    assert found is not None, "needs the optional extra: pip install caidx-hub[ecg]"
    assert found.origin is not None
    return Path(found.origin).parent / path


@pytest.fixture(scope="module")
def session(graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def classes_and_rhythm(
    session: onnxruntime.InferenceSession, lead: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    values, index, counts = np.unique(lead, return_inverse=True, return_counts=True)
    assert values.size == counts.size
    ranks = (np.cumsum(counts) - (counts - 1) / 2 - 1)[index]
    signal = (2 * ranks / (lead.size - 1) - 1).astype(np.float32)
    frames, rhythm = session.run(["frame_logits", "rhythm_logits"], {"signal": signal[None]})
    scores = np.exp(rhythm[0] - rhythm[0].max(axis=-1, keepdims=True))
    return frames[0].argmax(-1), (scores / scores.sum(-1, keepdims=True)).mean(0)


def lead_two() -> NDArray[np.float64]:
    """Millivolt at 500 Hz."""
    dataset = dcmread(get_testdata_file("waveform_ecg.dcm"))
    channels = dataset.WaveformSequence[0].ChannelDefinitionSequence
    sources = [channel.ChannelSourceSequence[0].CodeValue for channel in channels]
    lead = dataset.waveform_array(0)[:, sources.index("5.6.3-9-2")] / 1000
    return np.asarray(lead.reshape(-1, 2).mean(axis=1), np.float64)


def test_the_manifest_pins_the_installed_model(card: ModelCard, graph: Path) -> None:
    assert hashlib.sha256(graph.read_bytes()).hexdigest() == card.runtime.graph.sha256


def test_the_rr_interval_is_the_machines_within_one_percent(
    session: onnxruntime.InferenceSession,
) -> None:
    classes, _ = classes_and_rhythm(session, lead_two())
    found = intervals_from_wave_classes(classes, 500)
    assert found["rr_ms"] == pytest.approx(MACHINE["rr_ms"], rel=0.01)
    # One lead instead of twelve, and annotators who set the QRS onset earlier than the machine.
    assert found["pr_ms"] == pytest.approx(MACHINE["pr_ms"], abs=20)
    assert found["qrs_ms"] == pytest.approx(MACHINE["qrs_ms"], abs=25)
    assert found["qt_ms"] == pytest.approx(MACHINE["qt_ms"], abs=25)


def test_the_rhythm_is_the_machines(session: onnxruntime.InferenceSession, card: ModelCard) -> None:
    _, rhythm = classes_and_rhythm(session, lead_two())
    (spec,) = (s for s in card.output.findings if s.kind == "class")
    assert spec.classes[int(rhythm.argmax())].code_meaning == "Sinus rhythm"
    assert rhythm.max() > 0.9
    assert len(spec.classes) == rhythm.size


@pytest.mark.parametrize("noise_mv", [0.05, 0.1, 0.2])
def test_noise_on_the_recording_hardly_moves_the_rr_interval(
    session: onnxruntime.InferenceSession, noise_mv: float
) -> None:
    noise = np.random.default_rng(1).normal(0, noise_mv, 5000)
    classes, _ = classes_and_rhythm(session, lead_two() + noise)
    found = intervals_from_wave_classes(classes, 500)
    assert found["rr_ms"] == pytest.approx(MACHINE["rr_ms"], rel=0.01)


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros(5000),
        np.linspace(0, 1, 5000),
        np.sin(np.arange(5000) * 2 * np.pi * 50 / 500),
    ],
    ids=["flat", "drift", "mains"],
)
def test_a_signal_that_is_no_ecg_is_refused(
    session: onnxruntime.InferenceSession, signal: NDArray[np.float64]
) -> None:
    classes, _ = classes_and_rhythm(session, signal)
    with pytest.raises(UnsuitableError):
        intervals_from_wave_classes(classes, 500)


def test_nearly_all_pure_noise_is_refused(session: onnxruntime.InferenceSession) -> None:
    random = np.random.default_rng(2)
    answered = 0
    for _ in range(20):
        classes, _ = classes_and_rhythm(session, random.normal(size=5000))
        try:
            intervals_from_wave_classes(classes, 500)
        except UnsuitableError:
            continue
        answered += 1
    assert answered <= 3
