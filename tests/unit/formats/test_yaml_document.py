"""YAML that remembers its lines, and problems that name file, line and field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from hub.errors import ConfigError
from hub.formats.yaml_document import YamlDocument, read_yaml, validate

STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    kind: Literal["crop"]
    rows: int
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    kind: Literal["scale"]
    factor: float
    note: str = ""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    name: str
    steps: tuple[Crop | Scale, ...] = ()
    extra: Crop | Scale | None = None
    labels: dict[str, int] | None = None
    __pydantic_config__ = STRICT


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    port: int = Field(gt=0)
    title: str = "x"


CHAIN = TypeAdapter(Chain)


def problems(text: str, adapter: TypeAdapter[object] = CHAIN) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(adapter, read_yaml(text, "f.yaml"))
    return [str(problem) for problem in caught.value.problems]


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "f.yaml")
    return str(caught.value)


def test_values_are_those_of_yaml_1_2() -> None:
    document = read_yaml("a: no\nb: 012\nc: 1e3\nd: 2024-01-01\ne: 1:30\nf: ~\ng: true\n", "f")
    assert document.data == {
        "a": "no",
        "b": 12,
        "c": 1000.0,
        "d": "2024-01-01",
        "e": "1:30",
        "f": None,
        "g": True,
    }


def test_an_empty_text_is_an_empty_mapping() -> None:
    assert read_yaml("# nothing\n", "f").data == {}


def test_lines_are_those_of_the_field_or_of_its_nearest_parent() -> None:
    document = read_yaml("a:\n  b:\n    - x\n    - y: 1\nz: 2\n", "f")
    assert document.line_of(("a",)) == 1
    assert document.line_of(("a", "b")) == 2
    assert document.line_of(("a", "b", 1, "y")) == 4
    assert document.line_of(("a", "b", 1, "missing", "deeper")) == 4
    assert document.line_of(("nowhere",)) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a: appears twice; the first one is on line 1"),
        ("a: 1\nb: [1\n", 3, "not valid YAML: expected ',' or ']'"),
        ("a: 1\nb: [1\n", 3, "that begins on line 2"),
        ("a: 1\nb: !!python/object:x {}\n", 2, "b: the YAML tag"),
        ("a: 1\nb: !!binary aGk=\n", 2, "b: the YAML tag"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", 3, "merge keys"),
        ("a: 1\n? [x]\n: 2\n", 2, "a field name must be text"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("a: \x01\n", 0, "characters that YAML does not allow"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    message = refusal(text)
    assert message.startswith(f"f.yaml:{line}: ")
    assert words in message


def test_aliases_cannot_make_a_small_text_enormous() -> None:
    text = "a: &a [1,1,1,1,1,1,1,1,1]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    assert "too large" in refusal(text)


def test_a_text_that_contains_itself_is_refused() -> None:
    assert "nested too deeply" in refusal("a: &a [*a]\n")
    assert "nested too deeply" in refusal("[" * 5000)


def test_a_valid_document_becomes_typed_values() -> None:
    text = "name: n\nsteps:\n  - {kind: crop, rows: 3}\n  - {kind: scale, factor: 2}\n"
    chain = validate(CHAIN, read_yaml(text, "f"))
    assert chain.steps == (Crop(kind="crop", rows=3), Scale(kind="scale", factor=2.0))


def test_a_part_of_a_document_is_validated_with_the_whole_documents_lines() -> None:
    document = read_yaml("people:\n  - port: 1\n  - port: -1\n", "f.yaml")
    adapter = TypeAdapter(Person)
    assert validate(adapter, document, prefix=("people", 0)).port == 1
    with pytest.raises(ConfigError) as caught:
        validate(adapter, document, prefix=("people", 1))
    assert str(caught.value) == "f.yaml:3: people.1.port: must be greater than 0"


def test_every_problem_is_listed_in_the_order_of_the_lines() -> None:
    text = "steps:\n  - {kind: crop, rows: many}\n  - kind: scale\n    factor: wide\nextra: 5\n"
    assert problems(text) == [
        "f.yaml:1: name: is required",
        "f.yaml:2: steps.0.rows: must be a whole number",
        "f.yaml:4: steps.1.factor: must be a number",
        "f.yaml:5: extra: must be a mapping (name: value)",
    ]


def test_only_the_member_that_kind_names_is_reported() -> None:
    found = problems("name: n\nsteps:\n  - kind: scale\n    rows: 4\n")
    assert found == [
        "f.yaml:3: steps.0.factor: is required",
        "f.yaml:4: steps.0.rows: is not a known field; known are kind, factor, note",
    ]


def test_an_unknown_kind_lists_the_known_ones() -> None:
    assert problems("name: n\nsteps:\n  - kind: corp\n    rows: 4\n") == [
        "f.yaml:3: steps.0.kind: must be one of crop, scale"
    ]


def test_a_missing_kind_lists_the_known_ones() -> None:
    assert problems("name: n\nsteps:\n  - rows: 4\nextra: {}\n") == [
        "f.yaml:3: steps.0.kind: is required: one of crop, scale",
        "f.yaml:4: extra.kind: is required: one of crop, scale",
    ]


def test_an_unknown_field_names_the_nearest_known_ones() -> None:
    assert problems("nmae: n\nname: m\n") == [
        "f.yaml:1: nmae: is not a known field; did you mean name?"
    ]
    assert problems("name: m\nextra: {kind: scale, factor: 1, fctor: 2}\n") == [
        "f.yaml:2: extra.fctor: is not a known field; did you mean factor?"
    ]


def test_a_number_where_text_is_meant_says_how_to_mend_it() -> None:
    assert problems("name: 1.0\n") == ["f.yaml:1: name: must be text: put it in quotes"]


def test_a_problem_inside_a_mapping_names_its_key() -> None:
    assert problems("name: n\nlabels:\n  a: 1\n  b: x\n") == [
        "f.yaml:4: labels.b: must be a whole number"
    ]


def test_a_document_that_is_no_mapping_is_refused_as_a_whole() -> None:
    assert problems("- a\n") == ["f.yaml:1: (document): must be a mapping (name: value)"]


def test_a_document_keeps_its_file_name_for_later_problems() -> None:
    document = YamlDocument("g.yaml", {}, {(): 1})
    assert str(document.problem(("a", 0), "is odd")) == "g.yaml:1: a.0: is odd"
