"""The project's documents as tests read them: sections, tables, what stands between backticks."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def text_of(name: str) -> str:
    """A document of the folder ``docs``."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """From a heading to the next one of the same or a higher level."""
    prose = _BLOCK.sub(lambda block: " " * len(block[0]), text)  # its comments are no headings
    found = re.search(rf"^(#+) {re.escape(heading)}$", prose, re.MULTILINE)
    assert found is not None, heading
    end = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(prose, found.end())
    return text[found.end() : end.start() if end else len(text)]


def table(text: str, header: str) -> list[list[str]]:
    """The rows of the (first) table whose header line begins so, cell by cell."""
    _, found, rest = text.partition(f"\n| {header}")
    assert found, header
    lines = rest.splitlines()[2:]
    rows = lines[: next((n for n, line in enumerate(lines) if not line.startswith("|")), None)]
    assert rows, header
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def spans(text: str) -> list[str]:
    """What stands between backticks in one line."""
    return _SPAN.findall(text)


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language; the empty one is that of plain text."""
    return [found["text"] for found in _BLOCK.finditer(text) if found["language"] == language]
