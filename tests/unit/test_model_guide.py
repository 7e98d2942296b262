"""The model guide explains every kind of output, and what it shows of a manifest can be read."""

from __future__ import annotations

import io
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from hub.domain import model_output
from hub.domain.critical import CriticalRule
from hub.domain.delivery import DocumentKind
from hub.domain.model_card import ModelCard
from hub.domain.model_output import FindingSpec, LocationSpec, OutputSpec
from hub.formats.manifest.model_manifest import read_manifest
from tests.unit.documents import blocks, section, spans, table, text_of

YAML_FILE = YAML(typ="safe")
GUIDE = text_of("model-guide.md")
BLOCKS = blocks(GUIDE, "yaml")
CARDS = [block for block in BLOCKS if block.startswith("# model.yaml")]
FRAGMENTS = [block for block in BLOCKS if not block.startswith("# ")]
OUTPUTS = (
    *get_args(FindingSpec),
    model_output.DetectionMeasurement,
    LocationSpec,
    model_output.ProbabilitiesSpec,
    model_output.RegionSpec,
    model_output.SegmentSpec,
    model_output.MapSpec,
    model_output.NotAssessableWhen,
    CriticalRule,
    OutputSpec,
)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=range(len(FRAGMENTS)))
def test_a_part_of_a_manifest_is_valid(fragment: str) -> None:
    """Of its own type; a part of the output beside the rest of the example's."""
    types = get_type_hints(ModelCard)
    for name, value in YAML_FILE.load(fragment).items():
        if name == "output":
            whole = YAML_FILE.load(CARDS[0])
            whole["output"] |= value
            text = io.StringIO()
            YAML_FILE.dump(whole, text)
            card = read_manifest(text.getvalue(), "guide")
            assert {key for key in value if not getattr(card.output, key)} == set()
        else:
            TypeAdapter(types[name]).validate_python(value)


def test_the_detector_has_all_that_a_detector_can_have() -> None:
    card = read_manifest(CARDS[1], "guide")
    (detections,) = card.output.findings
    left_out = {"laterality"}
    assert {f.name for f in fields(detections) if not getattr(detections, f.name)} == left_out
    assert card.output.region is not None
    assert card.output.region.probabilities is not None
    assert card.output.maps
    assert card.output.critical


@pytest.mark.parametrize("spec", OUTPUTS, ids=lambda spec: spec.__name__)
def test_every_field_of_the_output_is_explained_or_shown(spec: Any) -> None:
    shown = {key for card in (*CARDS, *FRAGMENTS) for key in keys(YAML_FILE.load(card))}
    known = shown.union(*(re.findall(r"\w+", span) for span in spans(GUIDE)))
    assert {field.name for field in fields(spec)} - known == set()


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_the_kinds_of_findings_and_graphics_are_listed() -> None:
    named = section(GUIDE, "5. Name what comes out")
    kinds = {get_args(get_type_hints(spec)["kind"])[0] for spec in get_args(FindingSpec)}
    assert {span for row in table(named, "finding | from") for span in spans(row[0])} == kinds
    graphics = set(get_args(get_type_hints(LocationSpec)["graphic"]))
    assert {span for row in table(named, "`graphic`") for span in spans(row[0])} == graphics


def test_documents_that_are_named_exist() -> None:
    kinds = {kind.value for kind in DocumentKind}
    rows = table(section(GUIDE, "6. Know what becomes of it"), "to have")
    assert {name for row in rows for name in spans(row[0])} <= kinds


def test_the_links_of_the_guide_lead_somewhere() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    links = [part.partition(")")[0] for part in GUIDE.split("](")[1:]]
    assert links
    assert [link for link in links if "://" not in link and not (docs / link).is_file()] == []
