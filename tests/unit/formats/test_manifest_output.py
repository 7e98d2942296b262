"""What a manifest may say of places, probabilities and maps, and what does not fit together."""

from __future__ import annotations

import pytest

from hub.domain.model_card import ModelCard
from hub.domain.model_output import DetectionsFinding
from hub.errors import ConfigError, ConfigProblem
from hub.formats.manifest.model_manifest import manifest_schema, read_manifest
from tests.acceptance.disc_model import MANIFEST

DISC = MANIFEST.replace("%ID%", "disc").replace("%SHA%", "0" * 64).replace("%GRAPHIC%", "ellipse")
CODE = "{code_value: C, coding_scheme_designator: 99T, code_meaning: c}"
UNIT = "{code_value: mm3, coding_scheme_designator: UCUM, code_meaning: cubic millimeter}"
SIZE = f"""\
    - kind: measurement
      output: volume
      code: {CODE}
      unit: {UNIT}
      tracking_identifier: size
      location: {{output: centre, graphic: point}}
  region:
"""


def changed(old: str, new: str) -> str:
    assert old in DISC
    return DISC.replace(old, new, 1)


def problems(text: str) -> dict[str, ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        read_manifest(text, "model.yaml")
    return {problem.field: problem for problem in caught.value.problems}


def test_boxes_probabilities_and_maps_are_read() -> None:
    card: ModelCard = read_manifest(changed("  region:\n", SIZE), "model.yaml")
    spec, size = card.output.findings
    assert isinstance(spec, DetectionsFinding)
    assert (spec.graphic, spec.maximum, len(spec.measurements)) == ("ellipse", 100, 1)
    assert not isinstance(size, DetectionsFinding)
    assert size.location is not None
    assert size.location.graphic == "point"
    assert card.output.region is not None
    assert card.output.region.probabilities is not None
    assert [one.label for one in card.output.maps] == ["Attenuation above bone"]


ANOTHER_MAP = f"""\
  maps:
    - output: other
      axes: slice row column
      quantity: {CODE}
      unit: {UNIT}
      label: Attenuation above bone
"""
FINDING, REGION = "output.findings.0", "output.region.probabilities"


@pytest.mark.parametrize(
    ("old", "new", "field", "said"),
    [
        ("threshold: 0.5", "threshold: 1.5", f"{FINDING}.threshold", "between 0 and 1"),
        (
            "threshold: 0.5",
            "threshold: 0.5\n      indeterminate_below: 0.6",
            f"{FINDING}.indeterminate_below",
            "and the threshold",
        ),
        ("threshold: 0.5", "threshold: 0.5\n      maximum: 0", f"{FINDING}.maximum", "at least 1"),
        (
            "threshold: 0.5",
            "threshold: 0.5\n      classes: kinds",
            f"{FINDING}.class_codes",
            "belong together",
        ),
        (
            "graphic: ellipse",
            "graphic: point",
            f"{FINDING}.graphic",
            "must be rectangle or ellipse",
        ),
        (
            "output: diameters",
            "output: diameters\n          decimals: 11",
            f"{FINDING}.measurements.0.decimals",
            "between 0 and 10",
        ),
        (
            "probabilities, axes: slice row column",
            "probabilities, axes: row column",
            f"{REGION}.axes",
            "slice, row, column",
        ),
        (
            "probabilities, axes: slice row column",
            "probabilities, axes: slice row column, channels: [1]",
            f"{REGION}.channels",
            "which axes does not name",
        ),
        (
            "probabilities, axes: slice row column",
            "probabilities, axes: segment slice row column, channels: [1, 2]",
            f"{REGION}.channels",
            "one for each of the 1 segments",
        ),
        (
            "attenuation\n      axes: slice row",
            "attenuation\n      axes: row",
            "output.maps.0.axes",
            "slice, row, column",
        ),
        ("label: Attenuation above bone", "label: ' '", "output.maps.0.label", "not be empty"),
        ("  maps:\n", ANOTHER_MAP, "output.maps.1.label", "another map has this label"),
        ("finding: disc,", "finding: disk,", "output.critical.0.finding", "no finding is 'disk'"),
    ],
)
def test_what_does_not_fit_together_is_told(old: str, new: str, field: str, said: str) -> None:
    found = problems(changed(old, new))
    assert field in found
    assert said in found[field].message
    assert found[field].line > 0


def test_a_waveform_has_no_places_and_no_voxels() -> None:
    text = changed("  region:\n", SIZE).replace("{kind: volume}", "{kind: waveform}")
    found = problems(text)
    for field in ("findings.0", "findings.1.location", "region", "maps.0"):
        assert "a waveform has no" in found[f"output.{field}"].message


def test_the_schema_tells_of_them() -> None:
    named = manifest_schema()["$defs"]
    for name, field in (
        ("DetectionsFinding", "scores"),
        ("LocationSpec", "graphic"),
        ("ProbabilitiesSpec", "channels"),
        ("MapSpec", "outside"),
    ):
        assert named[name]["properties"][field]["description"]
