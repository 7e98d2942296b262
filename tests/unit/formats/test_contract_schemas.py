"""The published JSON Schemas are those of the code, and their examples are named in the page."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from hub.cli.contract import app
from hub.formats.contract.schemas import MESSAGES, contract_schema, schema_file
from tests.unit.formats.contract_cases import CONTRACT, EXAMPLES


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_published_schema_is_the_one_of_the_code(name: str) -> None:
    published = json.loads((CONTRACT / schema_file(name)).read_text())
    assert published == contract_schema(name), "run: caidx contract write docs/contract"


def test_there_is_no_schema_that_the_code_does_not_have() -> None:
    assert {file.name for file in CONTRACT.glob("*.json")} == {schema_file(n) for n in MESSAGES}


def test_the_page_names_every_schema_and_example() -> None:
    linked = set(re.findall(r"\]\(([^)]+\.json)\)", (CONTRACT / "README.md").read_text()))
    there = {schema_file(n) for n in MESSAGES}
    there |= {f"examples/{file.name}" for file in EXAMPLES.glob("*.json")}
    assert linked == there


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_answers_allow_no_unknown_field_and_requests_do(name: str) -> None:
    schema = contract_schema(name)
    objects = [schema, *schema.get("$defs", {}).values()]
    closed = {one.get("additionalProperties") for one in objects if one.get("properties")}
    assert closed == ({None} if name == "inference-request" else {False})


def test_every_field_of_a_schema_is_constrained_or_explained() -> None:
    """A field without a word is named so that nothing has to be said."""
    for name in MESSAGES:
        schema = contract_schema(name)
        for kind, definition in [("", schema), *schema.get("$defs", {}).items()]:
            assert definition.get("description"), f"{name} {kind}"


def test_the_command_prints_and_writes_the_schemas(tmp_path) -> None:  # type: ignore[no-untyped-def]
    shown = CliRunner().invoke(app, ["schema", "deferred"])
    assert json.loads(shown.stdout) == contract_schema("deferred")
    assert CliRunner().invoke(app, ["write", str(tmp_path)]).exit_code == 0
    for name in MESSAGES:
        written = (tmp_path / schema_file(name)).read_bytes()
        assert written == (CONTRACT / schema_file(name)).read_bytes()
    assert CliRunner().invoke(app, ["schema", "nonsense"]).exit_code == 2
