"""The examples in the documents are true: each one is read by the code that it explains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hub.config import load_settings
from hub.formats.model_manifest import read_manifest
from hub.registry import discover

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```yaml\n(?P<text># (?P<kind>\S+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])


def examples(kind: str) -> list[tuple[str, str]]:
    return [
        (f"{path.name}, example {number}", found["text"])
        for path in DOCUMENTS
        for number, found in enumerate(FENCE.finditer(path.read_text(encoding="utf-8")), start=1)
        if found["kind"] == kind
    ]


@pytest.mark.parametrize(("where", "text"), examples("model.yaml"))
def test_a_model_card_in_a_document_is_valid(where: str, text: str) -> None:
    assert read_manifest(text, where).id


@pytest.mark.parametrize(("where", "text"), examples("caidx.yaml"))
def test_a_configuration_in_a_document_is_valid(
    where: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\benv:(\w+)", text):
        monkeypatch.setenv(name, "postgresql://caidx@db.example/caidx")
    settings = load_settings(text, where, discover())
    assert settings.file == where


def test_the_documents_hold_examples_of_both() -> None:
    assert examples("model.yaml")
    assert examples("caidx.yaml")
