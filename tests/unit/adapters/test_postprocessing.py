from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hub.domain.coding import Code
from hub.domain.finding import Evidence, Presence
from hub.domain.inference import Outcome
from hub.domain.model_card import ModelCard
from hub.domain.model_output import (
    ClassFinding,
    OutputSpec,
    PresenceFinding,
    RegionSpec,
    ScalarFinding,
    SegmentSpec,
    Statements,
)
from hub.domain.model_steps import EcgIntervals, Softmax
from hub.errors import RejectedError
from hub.formats.images.volume import read_volume
from hub.formats.manifest.model_manifest import read_manifest
from model_adapters.tensors.postprocessing import (
    Answer,
    findings_of,
    mean_over_samples,
    softmax,
)
from model_adapters.tensors.preprocessing import data_of
from model_adapters.tensors.regions import includes_of, source_labels
from model_adapters.tensors.values import Subject
from tests.unit.adapters.toy_models import MANIFEST
from tests.unit.imaging import ct_series

CODE = Code("C", "99T", "a thing")
SUBJECT = Subject("toy", "1.2.3", (Evidence("1.1"),))


def region_spec(axes: str, **changes: Any) -> RegionSpec:
    segment = SegmentSpec(
        number=1,
        label="One",
        category=CODE,
        property_type=CODE,
        recommended_display_rgb=(1, 2, 3),
        tracking_identifier="one",
    )
    return RegionSpec(output="labels", axes=axes, segments=(replace(segment, **changes),))


def card(output: OutputSpec) -> ModelCard:
    text = MANIFEST.replace("%SHA%", "0" * 64).replace("%TIMEOUT%", "1")
    return replace(read_manifest(text, "model.yaml"), output=output)


def answer(spec: Any, values: Any, *steps: Any, **named: Any) -> Answer:
    output = OutputSpec(findings=(spec,), postprocessing=steps, **named)
    return findings_of(card(output), {"p": np.asarray(values, np.float32)}, SUBJECT)


def presence(**changes: Any) -> PresenceFinding:
    spec = PresenceFinding(
        kind="presence",
        output="p[1]",
        code=CODE,
        threshold=0.5,
        indeterminate_below=0.3,
        tracking_identifier="t",
        statements=Statements(positive="Yes {value}.", negative="No.", indeterminate="Perhaps."),
    )
    return replace(spec, **changes)


@pytest.mark.parametrize(
    ("probability", "expected", "statement"),
    [
        (0.5, Presence.PRESENT, "Yes 0.50."),
        (0.49, Presence.INDETERMINATE, "Perhaps."),
        (0.31, Presence.INDETERMINATE, "Perhaps."),
        (0.29, Presence.ABSENT, "No."),
    ],
)
def test_a_probability_becomes_an_answer_with_a_band_between(
    probability: float, expected: Presence, statement: str
) -> None:
    (finding,) = answer(presence(), [0.0, probability]).findings
    assert (finding.presence, finding.statement) == (expected, statement)
    assert finding.probability == pytest.approx(probability)
    assert finding.evidence == (Evidence("1.1"),)


@pytest.mark.parametrize("value", [1.1, -0.1])
def test_what_is_no_probability_is_a_broken_result(value: float) -> None:
    with pytest.raises(RejectedError, match="not a probability"):
        answer(presence(), [0.0, value])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_a_broken_result(value: float) -> None:
    with pytest.raises(RejectedError, match="not finite"):
        answer(presence(output="p[0]"), [0.7, value])


def test_an_index_beyond_the_output_is_a_broken_result() -> None:
    with pytest.raises(RejectedError, match=r"p\[1\] is not one number"):
        answer(presence(), [0.5])
    with pytest.raises(RejectedError, match="p is not one number"):
        answer(presence(output="p"), [0.5, 0.5])


def classes(**changes: Any) -> ClassFinding:
    named = tuple(Code(str(n), "99T", f"class {n}") for n in range(3))
    spec = ClassFinding(
        kind="class",
        output="q",
        code=CODE,
        classes=named,
        tracking_identifier="t",
        statement="It is {value}.",
    )
    return replace(spec, **changes)


def test_the_most_probable_class_is_the_answer() -> None:
    step = Softmax(kind="softmax", output="p", to="q")
    (finding,) = answer(classes(), [[0.0, 2.0, 1.0]], step).findings
    assert finding.coded_value == Code("1", "99T", "class 1")
    assert finding.probability == pytest.approx(np.exp(2) / (1 + np.e + np.exp(2)))
    assert finding.statement == "It is class 1."


def test_an_uncertain_class_is_not_assessable() -> None:
    step = Softmax(kind="softmax", output="p", to="q")
    result = answer(classes(minimum_probability=0.9), [[0.0, 2.0, 1.0]], step)
    assert result.outcome is Outcome.NOT_ASSESSABLE
    assert result.findings[0].presence is Presence.NOT_ASSESSABLE


def test_softmax_and_mean_have_hand_computed_values() -> None:
    assert softmax(np.log(np.array([[1.0, 3.0]]))).tolist() == [pytest.approx([0.25, 0.75])]
    assert softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]
    assert mean_over_samples(np.array([[[1.0, 2.0], [3.0, 6.0]]])).tolist() == [2.0, 4.0]


def measurement(output: str, **changes: Any) -> ScalarFinding:
    spec = ScalarFinding(
        kind="measurement",
        output=output,
        code=CODE,
        unit=Code("ms", "UCUM", "ms"),
        tracking_identifier="t",
    )
    return replace(spec, **changes)


def test_a_measurement_is_rounded_as_it_is_shown() -> None:
    (finding,) = answer(measurement("p", decimals=1, statement="{value} ms"), [12.3456]).findings
    assert (finding.value, finding.statement) == (12.3, "12.3 ms")


def test_unreadable_waves_are_not_assessable() -> None:
    step = EcgIntervals(kind="ecg_intervals", output="p", frequency_hz=500)
    result = answer(measurement("rr_ms"), np.zeros((1, 5000, 4)), step)
    assert result.outcome is Outcome.NOT_ASSESSABLE
    assert "heart beats" in result.reasons[0]


def test_a_regular_rhythm_has_its_intervals() -> None:
    classes = np.zeros(5000)
    for beat in range(100, 4500, 400):
        classes[beat - 70 : beat - 30] = 1
        classes[beat : beat + 50] = 2
        classes[beat + 100 : beat + 200] = 3
    step = EcgIntervals(kind="ecg_intervals", output="p", frequency_hz=500)
    for output, expected in {"rr_ms": 800, "pr_ms": 140, "qrs_ms": 100, "qt_ms": 400}.items():
        assert answer(measurement(output), classes, step).findings[0].value == expected
    without_p = np.where(classes == 1, 0, classes)
    result = answer(measurement("pr_ms"), without_p, step)
    assert result.findings[0].presence is Presence.NOT_ASSESSABLE


def test_labels_that_no_segment_names_are_a_broken_result() -> None:
    data = data_of(read_volume(ct_series(range(2)), 2, spacing_tolerance=0.01))
    labels = np.full((2, 4, 6), 2, np.uint8)
    with pytest.raises(RejectedError, match="from 2 to 2"):
        source_labels(region_spec("slice row column"), labels, data)
    assert source_labels(region_spec("slice row column", includes=(2,)), labels, data).all()
    with pytest.raises(RejectedError, match="no segment names"):
        source_labels(region_spec("slice row column", includes=(3,)), labels, data)


def test_a_label_map_of_another_shape_is_a_broken_result() -> None:
    data = data_of(read_volume(ct_series(range(2)), 2, spacing_tolerance=0.01))
    with pytest.raises(RejectedError, match="was given"):
        source_labels(region_spec("slice row column"), np.zeros((2, 4, 5), np.uint8), data)


def test_axes_of_a_label_map_may_be_in_any_order() -> None:
    data = data_of(read_volume(ct_series(range(2)), 2, spacing_tolerance=0.01))
    labels = (data.array == 1).astype(np.uint8)
    turned = labels.transpose(1, 2, 0)[np.newaxis]
    assert np.array_equal(source_labels(region_spec("1 row column slice"), turned, data), labels)


def test_nested_segments_name_all_their_label_values() -> None:
    assert includes_of(region_spec("row column", includes=(2, 3))) == ((1, (1, 2, 3)),)
    assert includes_of(region_spec("row column")) == ()
