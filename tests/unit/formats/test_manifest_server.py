"""The manifest of a model that an inference server runs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hub.domain.coding import Code
from hub.domain.model_input import ObservationsInput, ObservationSpec
from hub.domain.model_runtime import OpenInferenceRuntime
from hub.errors import ConfigError
from hub.formats.manifest.model_manifest import read_manifest
from hub.formats.manifest.server import server_faults
from tests.unit.adapters import toy_models

RUNTIME = """\
runtime:
  kind: open_inference
  url: https://inference.example/base
  model_name: toy
  inputs: [{name: x, axes: 1 slice row column}]
output:
"""
MANIFEST = re.sub(r"runtime:\n.*?output:\n", RUNTIME, toy_models.MANIFEST, flags=re.DOTALL)


def problems(old: str, new: str) -> dict[str, str]:
    assert old in MANIFEST
    with pytest.raises(ConfigError) as caught:
        read_manifest(MANIFEST.replace(old, new, 1), "model.yaml")
    return {problem.field: problem.message for problem in caught.value.problems}


def test_it_names_a_server_and_a_model_there() -> None:
    runtime = read_manifest(MANIFEST, "model.yaml").runtime
    assert isinstance(runtime, OpenInferenceRuntime)
    assert (runtime.model_name, runtime.model_version, runtime.tensors) == ("toy", "", "json")
    assert runtime.artefacts == ()


@pytest.mark.parametrize(
    "url",
    [
        "inference.example",
        "ftp://inference.example",
        "https://user:secret@inference.example",
        "https://inference.example/v?key=1",
        "https://inference.example/a/../b",
        "https://inference.example/a/%2e%2e/b",
        "https://inference.example:0",
    ],
)
def test_its_url_is_a_plain_base(url: str) -> None:
    assert "runtime.url" in problems("https://inference.example/base", url)


@pytest.mark.parametrize("name", ["''", "a/b", "..", '"a\\nb"'])
def test_its_names_can_stand_in_a_url(name: str) -> None:
    assert "runtime.model_name" in problems("model_name: toy", f"model_name: {name}")
    if name != "''":
        named = f"model_name: toy\n  model_version: {name}"
        assert "runtime.model_version" in problems("model_name: toy", named)


def test_its_inputs_are_checked_as_those_of_a_local_graph() -> None:
    assert "runtime.inputs.0.axes" in problems("1 slice row column", "1 row column")


def test_values_that_may_be_missing_need_binary_tensors() -> None:
    """They are NaN, which JSON does not have."""
    value = ObservationSpec(
        name="albumin",
        codes=(Code("1751-7", "LN", "Albumin"),),
        unit=Code("g/L", "UCUM", "g/L"),
        required=False,
    )
    card = read_manifest(MANIFEST, "model.yaml")
    runtime = card.runtime
    assert isinstance(runtime, OpenInferenceRuntime)
    optional = replace(card, input=ObservationsInput(kind="observations", observations=(value,)))
    ((field, said),) = server_faults(optional, runtime)
    assert field == ("runtime", "tensors")
    assert "albumin may be missing" in said
    needed = ObservationsInput(kind="observations", observations=(replace(value, required=True),))
    assert not list(server_faults(replace(card, input=needed), runtime))
    assert not list(server_faults(optional, replace(runtime, tensors="binary")))
