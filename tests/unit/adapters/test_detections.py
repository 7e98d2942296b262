"""Boxes with scores become findings, and their absence one that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hub.domain.coding import Code
from hub.domain.critical import CriticalRule
from hub.domain.finding import Evidence, Finding, Presence
from hub.domain.model_output import (
    ClassFinding,
    DetectionMeasurement,
    DetectionsFinding,
    LocationSpec,
    OutputSpec,
    PresenceFinding,
    ScalarFinding,
    Statements,
)
from hub.errors import RejectedError
from model_adapters.tensors.detections import detections
from model_adapters.tensors.postprocessing import findings_of
from model_adapters.tensors.values import Subject, Values
from tests.unit.adapters.test_locations import grid_of, volume
from tests.unit.adapters.test_postprocessing import card

MASS, CYST = Code("M", "99T", "mass"), Code("C", "99T", "cyst")
MILLIMETRE = Code("mm", "UCUM", "mm")
SPEC = DetectionsFinding(
    kind="detections",
    output="boxes",
    scores="scores",
    code=MASS,
    threshold=0.5,
    measurements=(
        DetectionMeasurement(output="widths", code=CYST, unit=MILLIMETRE, statement="{value} wide"),
    ),
    tracking_identifier="mass",
    statements=Statements(positive="Mass {number}: {value}.", negative="No mass."),
)
BOXES = [[0, 1, 1, 2, 5, 5], [1, 2, 2, 3, 9, 9], [2, 3, 3, 3, 4, 4]]


def subject() -> Subject:
    return Subject("toy", "1.2.3", (Evidence("1.1"),), grid_of(volume()))


def values(likely: list[float], **more: Any) -> Values:
    boxes = np.array(BOXES[: len(likely)], np.float32).reshape(-1, 6)
    widths = np.array([4.26, 7.0, 1.0][: len(likely)], np.float32)
    given = {"boxes": boxes, "scores": np.array(likely, np.float32), "widths": widths}
    return Values({**given, **more})


def found(likely: list[float], spec: DetectionsFinding = SPEC, **more: Any) -> list[Finding]:
    return list(detections(spec, values(likely, **more), subject()))


def test_boxes_above_the_threshold_are_findings_the_surest_first() -> None:
    findings = found([0.6, 0.9, 0.4])
    assert [f.tracking_identifier for f in findings] == ["mass 1", "mass 1", "mass 2", "mass 2"]
    first, wide, second, _ = findings
    assert (first.presence, first.code, first.statement) == (
        Presence.PRESENT,
        MASS,
        "Mass 1: 0.90.",
    )
    assert first.probability == pytest.approx(0.9)
    assert (wide.value, wide.unit, wide.statement) == (7.0, MILLIMETRE, "7.0 wide")
    assert wide.locations == first.locations
    assert wide.tracking_uid == first.tracking_uid != second.tracking_uid
    grid = subject().grid
    assert grid is not None
    assert first.locations == (grid.place_box("rectangle", np.array(BOXES[1])),)


def test_no_box_is_an_explicit_negative() -> None:
    for scores, probability in (([0.4, 0.1], 0.4), ([], None)):
        (finding,) = found(scores)
        assert finding.presence is Presence.ABSENT
        assert (finding.tracking_identifier, finding.statement) == ("mass", "No mass.")
        assert finding.probability == (probability and pytest.approx(probability))
        assert finding.locations == ()


def test_scores_in_the_band_are_indeterminate() -> None:
    spec = replace(SPEC, indeterminate_below=0.3, measurements=())
    answers = [(f.tracking_identifier, f.presence) for f in found([0.35, 0.9, 0.2], spec)]
    assert answers == [("mass 1", Presence.PRESENT), ("mass 2", Presence.INDETERMINATE)]


def test_a_box_is_what_its_class_says() -> None:
    spec = replace(SPEC, classes="kinds", class_codes=(MASS, CYST), measurements=())
    findings = found([0.6, 0.9], spec, kinds=np.array([1, 0]))
    assert [f.code for f in findings] == [MASS, CYST]
    with pytest.raises(RejectedError, match="the class 2"):
        found([0.6, 0.9], spec, kinds=np.array([2, 0]))


def test_the_same_box_keeps_its_tracking_uid_whatever_its_number() -> None:
    before = {f.locations: f.tracking_uid for f in found([0.9, 0.6])}
    after = {f.locations: f.tracking_uid for f in found([0.6, 0.9])}
    assert before == after
    assert len(set(before.values())) == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"boxes": np.zeros((2, 5))}, "boxes holds 10 numbers, 2 boxes have 6 each"),
        ({"scores": np.array([0.9, 1.2])}, "not a probability"),
        ({"widths": np.array([1.0])}, "widths has no number for box 1"),
        ({"boxes": np.full((2, 6), 99.0)}, "outside of the images"),
    ],
)
def test_outputs_that_do_not_fit_are_a_broken_result(more: Any, said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        found([0.9, 0.8], **more)
    with pytest.raises(RejectedError, match="2 findings of mass: too many"):
        found([0.9, 0.8], replace(SPEC, maximum=1))


def test_a_rule_for_critical_findings_means_every_detection() -> None:
    rule = CriticalRule(finding="mass", minimum_probability=0.7)
    assert [rule.applies(f) for f in found([0.6, 0.9])] == [True, False, False, False]
    assert not CriticalRule(finding="cyst").applies(found([0.9])[0])
    assert not rule.applies(found([0.1])[0])


# --- locations of other findings ---------------------------------------------------------------

PLACE = LocationSpec(output="where", graphic="point")


def located(spec: Any, value: list[float]) -> Finding:
    outputs = {"p": np.array(value, np.float32), "where": np.array([2, 11, 23])}
    (finding,) = findings_of(card(OutputSpec(findings=(spec,))), outputs, subject()).findings
    return finding


def test_measurements_presences_and_classes_may_lie_somewhere() -> None:
    common: dict[str, Any] = {"output": "p", "code": MASS, "tracking_identifier": "t"}
    specs = (
        ScalarFinding(kind="measurement", unit=MILLIMETRE, location=PLACE, **common),
        PresenceFinding(kind="presence", threshold=0.5, location=PLACE, **common),
    )
    for spec in specs:
        (location,) = located(spec, [0.9]).locations
        assert location.points == ((23.5, 11.5),)
    kinds = ClassFinding(kind="class", classes=(MASS, CYST), location=PLACE, **common)
    assert located(kinds, [0.1, 0.9]).locations == (location,)
    assert located(specs[1], [0.1]).presence is Presence.ABSENT
    assert located(specs[1], [0.1]).locations == ()
