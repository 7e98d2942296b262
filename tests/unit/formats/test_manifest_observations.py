"""What the manifest of a model of measured values may say, and what does not fit together."""

from __future__ import annotations

import pytest

from hub.domain.model_input import ObservationsInput
from hub.errors import ConfigError
from hub.formats.manifest.model_manifest import manifest_schema, read_manifest
from model_adapters.reference_models import LIVER_KIDNEY_SCORES, LUNG_DENSITY

SCORES = (LIVER_KIDNEY_SCORES / "model.yaml").read_text()
LUNG = (LUNG_DENSITY / "model.yaml").read_text()
CODE = "{code_value: C, coding_scheme_designator: 99T, code_meaning: c}"


def problems(text: str) -> dict[str, str]:
    """Field -> message; every problem has a line."""
    with pytest.raises(ConfigError) as caught:
        read_manifest(text, "model.yaml")
    assert all(problem.line > 0 for problem in caught.value.problems)
    return {problem.field: problem.message for problem in caught.value.problems}


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def test_the_values_that_a_model_needs_are_read() -> None:
    wanted = read_manifest(SCORES, "model.yaml").input
    assert isinstance(wanted, ObservationsInput)
    creatinine = wanted.observations[3]
    assert (creatinine.name, creatinine.unit.code_value) == ("creatinine", "mg/dL")
    assert (creatinine.molar_mass, creatinine.maximum_age_days) == (113.12, 365)
    assert creatinine.valid_range == (0.1, 40.0)
    assert all(spec.required for spec in wanted.observations)
    assert wanted.within_days is None


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        (
            "- name: ALT\n      codes",
            "- name: AST\n      codes",
            "input.observations.0.name",
            "another",
        ),
        (
            "- name: AST\n      codes",
            "- name: ' '\n      codes",
            "input.observations.0.name",
            "empty",
        ),
        ("code_value: 1920-8", "code_value: 1920-9", "input.observations.0.codes.0", "LN cannot"),
        (
            "coding_scheme_designator: LN\n          code_meaning: Asp",
            "coding_scheme_designator: 99LAB\n          code_meaning: Asp",
            "input.observations.0.codes.0",
            "must be a code of LOINC",
        ),
        ("code_value: U/L", "code_value: units", "input.observations.0.unit", "UCUM cannot"),
        ("molar_mass: 113.12", "molar_mass: 0", "input.observations.3.molar_mass", "above 0"),
        (
            "maximum_age_days: 365",
            "maximum_age_days: -1",
            "input.observations.0.maximum_age_days",
            "above 0",
        ),
        (
            "valid_range: [1, 5000]",
            "valid_range: [5, 5]",
            "input.observations.0.valid_range",
            "a lower and a higher",
        ),
        (
            "kind: observations\n",
            "kind: observations\n  within_days: 0\n",
            "input.within_days",
            "above 0",
        ),
        (
            "runtime:\n  kind",
            "preprocessing:\n  - {kind: rescale, unit: HU}\nruntime:\n  kind",
            "preprocessing.0",
            "does not work on measured values",
        ),
        (
            "minimum_age_years",
            "modalities: [CT]\n  minimum_age_years",
            "intended_use.modalities",
            "images",
        ),
        (
            "minimum_age_years",
            "maximum_slice_thickness_mm: 1\n  minimum_age_years",
            "intended_use.maximum_slice_thickness_mm",
            "images",
        ),
        (
            "    - name: ALT\n      feed: observation\n",
            "",
            "runtime.inputs",
            "nothing is fed with ALT",
        ),
        (
            "- name: AST\n      feed: observation",
            "- name: GOT\n      feed: observation",
            "runtime.inputs.0.name",
            "no value is called 'GOT'",
        ),
        (
            "feed: age_years",
            "feed: spacing_mm",
            "runtime.inputs.4.feed",
            "does not exist for the input observations",
        ),
        (
            "feed: age_years",
            "feed: age_years\n      axes: '1'",
            "runtime.inputs.4.axes",
            "a number has no axes",
        ),
        (
            "feed: age_years",
            "feed: age_years\n      dtype: int16",
            "runtime.inputs.4.dtype",
            "must be float32",
        ),
        (
            "observations: [creatinine]",
            "observations: [creatinin]",
            "output.findings.2.observations.0",
            "no value is called 'creatinin'",
        ),
        (
            "observations: [creatinine]",
            "location: {output: egfr, graphic: point}",
            "output.findings.2.location",
            "no image to lie on",
        ),
        (
            "output:\n  findings",
            "output:\n  maps: [{output: egfr, axes: row column, quantity: " + CODE + ", unit:"
            " {code_value: mm, coding_scheme_designator: UCUM, code_meaning: mm}, label: m}]\n"
            "  findings",
            "output.maps.0",
            "measured values have no map",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_line(old: str, new: str, field: str, words: str) -> None:
    found = problems(changed(SCORES, old, new))
    assert field in found, found
    assert words in found[field]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("feed: spacing_mm", "feed: age_years", "runtime.inputs.1.feed"),
        ("feed: spacing_mm", "feed: is_female", "runtime.inputs.1.feed"),
        ("feed: spacing_mm", "feed: observation", "runtime.inputs.1.feed"),
        (
            "decimals: 0\n",
            "decimals: 0\n      observations: [AST]\n",
            "output.findings.0.observations",
        ),
        ("  modalities: [CT]\n", "", "intended_use.modalities"),
    ],
)
def test_a_model_of_images_is_not_fed_with_values(old: str, new: str, field: str) -> None:
    assert field in problems(changed(LUNG, old, new))


def test_the_published_schema_knows_them() -> None:
    text = str(manifest_schema())
    for word in ("ObservationsInput", "within_days", "molar_mass", "has_probabilities"):
        assert word in text
