from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from hub.domain.model_runtime import Artefact
from hub.errors import ConfigError, ConfigProblem
from hub.formats.manifest.model_manifest import load_package, manifest_schema, read_manifest
from tests.unit.adapters import toy_models

GRAPH = b"the graph"
MANIFEST = toy_models.MANIFEST.replace("%TIMEOUT%", "5").replace(
    "%SHA%", hashlib.sha256(GRAPH).hexdigest()
)


def line_of(text: str, part: str) -> int:
    return 1 + next(n for n, line in enumerate(text.splitlines()) if part in line)


def problems(text: str) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigError) as caught:
        read_manifest(text, "model.yaml")
    return caught.value.problems


def changed(old: str, new: str) -> str:
    assert old in MANIFEST
    return MANIFEST.replace(old, new, 1)


def test_a_manifest_becomes_a_card() -> None:
    card = read_manifest(MANIFEST, "model.yaml")
    assert [step.kind for step in card.preprocessing] == ["rescale", "reorient"]
    assert card.output.region is not None
    assert card.output.region.segments[0].recommended_display_rgb == (255, 0, 0)


def test_a_wrong_field_is_named_with_its_line_and_speaks_of_its_kind_only() -> None:
    text = changed("{kind: reorient, to: FAR}", "{kind: window, centre: 3, widht: 4}")
    found = problems(text)
    assert {p.field for p in found} == {"preprocessing.1.width", "preprocessing.1.widht"}
    assert {p.line for p in found} == {line_of(text, "widht")}
    told = " ".join(p.message for p in found)
    assert "did you mean width" in told
    assert "spacing_mm" not in told


def test_an_unknown_kind_lists_the_known_ones() -> None:
    (problem,) = problems(changed("kind: reorient, to: FAR", "kind: rotate"))
    assert problem.field == "preprocessing.1.kind"
    assert "rescale" in problem.message
    assert "select_lead" in problem.message


@pytest.mark.parametrize(
    ("old", "new", "field", "said"),
    [
        ("id: toy", "id: Toy_1", "id", "lower-case"),
        ("version: 1.0.0", "version: 1.0", "version", "text"),
        (
            "      segments: [1]",
            "      segments: [2]",
            "output.findings.0.segments.0",
            "no segment 2",
        ),
        ("to: FAR", "to: FAP", "preprocessing.1.to", "one letter of each pair"),
        ("slice row column}]", "row column}]", "runtime.inputs.0.axes", "slice, row, column"),
        ("path: toy.onnx", "path: ../toy.onnx", "runtime.graph.path", "inside the package"),
        ("path: toy.onnx", "path: /etc/toy.onnx", "runtime.graph.path", "inside the package"),
        ("path: toy.onnx", "path: python:toy", "runtime.graph.path", "python:<package>/<path>"),
        ("timeout_seconds: 5", "timeout_seconds: 0", "runtime.timeout_seconds", "above 0"),
        ("[-1000000, 1000000]", "[3, 1]", "output.findings.0.valid_range", "lower"),
        ("input: {kind: volume}", "input: {kind: waveform}", "preprocessing.0", "works on pixels"),
        ("modalities: [CT]", "modalities: []", "intended_use.modalities", "at least one"),
        ("number: 1", "number: 256", "output.region.segments.0.number", "between 1 and 255"),
        ("minimum: -100000", "minimum: .nan", "output.not_assessable.0.minimum", "finite"),
    ],
)
def test_what_does_not_fit_together_is_told(old: str, new: str, field: str, said: str) -> None:
    text = changed(old, new)
    found = {p.field: p for p in problems(text)}
    assert field in found
    assert said in found[field].message
    assert found[field].line > 0


@pytest.mark.parametrize(
    ("old", "new", "field", "said"),
    [
        (
            "code: {code_value: T, coding_scheme_designator: 99T, code_meaning: Total}",
            "code: {code_value: '118565007', coding_scheme_designator: SCT, code_meaning: Volume}",
            "output.findings.0.code",
            "is a code that SCT cannot have",
        ),
        (
            'unit: {code_value: "1", coding_scheme_designator: UCUM',
            "unit: {code_value: ccm, coding_scheme_designator: UCUM",
            "output.findings.0.unit",
            "is a code that UCUM cannot have",
        ),
        (
            'unit: {code_value: "1", coding_scheme_designator: UCUM',
            "unit: {code_value: mm, coding_scheme_designator: 99T",
            "output.findings.0.unit",
            "must be a unit of UCUM",
        ),
        (
            "property_type: {code_value: B, coding_scheme_designator: 99T, code_meaning: Bright}",
            "property_type: {code_value: B, coding_scheme_designator: 99T, code_meaning: ' '}",
            "output.region.segments.0.property_type",
            "is a code of 99T without a meaning",
        ),
    ],
)
def test_a_code_that_cannot_be_is_told_before_any_result_has_it(
    old: str, new: str, field: str, said: str
) -> None:
    text = changed(old, new)
    (problem,) = problems(text)
    assert (problem.field, problem.message) == (field, said)
    assert problem.line == line_of(text, new)


def read(data: bytes) -> Callable[[Artefact], bytes]:
    return lambda artefact: data


def test_the_key_of_a_package_covers_manifest_and_files() -> None:
    _, key = load_package(MANIFEST, "model.yaml", read(GRAPH))
    assert str(key) == "toy|1.0.0"
    assert load_package(MANIFEST, "elsewhere.yaml", read(GRAPH))[1] == key
    _, other = load_package(changed("name: Toy", "name: Doll"), "model.yaml", read(GRAPH))
    assert other.sha256 != key.sha256


def test_another_file_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="not the file that is pinned") as caught:
        load_package(MANIFEST, "model.yaml", read(b"another graph"))
    (problem,) = caught.value.problems
    assert (problem.field, problem.line) == ("runtime.graph.sha256", line_of(MANIFEST, "sha256"))


def test_the_schema_documents_every_field_of_a_step() -> None:
    schema: dict[str, Any] = manifest_schema()
    window = schema["$defs"]["Window"]
    assert window["required"] == ["kind", "centre", "width"]
    assert window["additionalProperties"] is False
    assert schema["$defs"]["IntendedUse"]["properties"]["sexes"]["description"]


IMAGE_MANIFEST = MANIFEST.replace("{kind: volume}", "{kind: image}").replace(
    "slice row column", "row column"
)


def image_manifest(wanted: str, *steps: str, axes: str = "1 row column") -> str:
    text = IMAGE_MANIFEST.replace("{kind: image}", f"{{kind: image{wanted}}}")
    text = text.replace("name: x, axes: 1 row column", f"name: x, axes: {axes}")
    before, rest = text.split("preprocessing:\n")
    after = rest[rest.index("runtime:") :]
    return before + "preprocessing:\n" + "".join(f"  - {{{s}}}\n" for s in steps) + after


@pytest.mark.parametrize(
    ("wanted", "steps", "axes"),
    [
        ("", ("kind: present", "kind: resize, shape: [4, 4]"), "1 row column"),
        ("", ("kind: rescale, unit: HU", "kind: monochrome2"), "1 row column"),
        (", colour: rgb, frame: 3", ("kind: resize, shape: [4, 4]",), "1 channel row column"),
        (", colour: luminance, spacing: detector", ("kind: present",), "1 row column"),
    ],
)
def test_steps_for_images_are_taken(wanted: str, steps: tuple[str, ...], axes: str) -> None:
    assert read_manifest(image_manifest(wanted, *steps, axes=axes), "model.yaml").preprocessing


@pytest.mark.parametrize(
    ("wanted", "steps", "axes", "said"),
    [
        ("", ("kind: clip, minimum: 0, maximum: 1", "kind: present"), "1 row column", "first step"),
        ("", ("kind: present", "kind: monochrome2"), "1 row column", "inverts MONOCHROME1 already"),
        (
            "",
            ("kind: window, centre: 1, width: 2", "kind: monochrome2"),
            "1 row column",
            "has to come before",
        ),
        (", colour: rgb", ("kind: present",), "1 channel row column", "the input is rgb"),
        (", colour: rgb", ("kind: resize, shape: [4, 4]",), "1 row column", "name row, column, ch"),
        (", frame: 0", ("kind: present",), "1 row column", "counted from 1"),
        (", frame: best", ("kind: present",), "1 row column", ""),
        (", colour: green", ("kind: present",), "1 row column", ""),
    ],
)
def test_steps_that_contradict_the_image_are_refused(
    wanted: str, steps: tuple[str, ...], axes: str, said: str
) -> None:
    found = problems(image_manifest(wanted, *steps, axes=axes))
    assert any(said in problem.message for problem in found)


def test_a_volume_is_not_presented() -> None:
    (problem,) = problems(changed("kind: rescale, unit: HU", "kind: present"))
    assert "present needs an image" in problem.message
