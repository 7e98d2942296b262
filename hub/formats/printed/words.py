"""Words and numbers of the printed report, apart from how they are laid out."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from xml.sax.saxutils import escape

from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.model_card import ModelCard
from hub.domain.model_output import DetectionsFinding, ScalarFinding

PRESENCE_WORDS = {
    Presence.PRESENT: "PRESENT",
    Presence.ABSENT: "ABSENT",
    Presence.INDETERMINATE: "INDETERMINATE",
    Presence.NOT_ASSESSABLE: "NOT ASSESSABLE",
}
_UNIT_SYMBOLS = {"1": "", "[hnsf'U]": "HU", "{beats}/min": "bpm", "/min": "/min"}
_RIGHT_TO_LEFT = frozenset({"R", "AL", "RLE", "RLO", "RLI"})
_PERSON_NAME_COMPONENTS = 5


def plain(words: str, has_glyph: Callable[[str], bool]) -> str:
    """The words on one line; each character that the font cannot print, or that would be
    printed in the wrong order, stands as its code point: ``[U+4E2D]``."""
    return "".join(_shown(c, has_glyph) for c in unicodedata.normalize("NFC", words))


def printable(words: str, has_glyph: Callable[[str], bool]) -> str:
    """:func:`plain` as markup of a paragraph."""
    return escape(plain(words, has_glyph))


def _shown(character: str, has_glyph: Callable[[str], bool]) -> str:
    if character.isspace():
        return " "
    ordered = unicodedata.bidirectional(character) not in _RIGHT_TO_LEFT
    return character if ordered and has_glyph(character) else f"[U+{ord(character):04X}]"


def person_name(name: str) -> str:
    """A DICOM person name (PS3.5 section 6.2.1) as people write it: ``Family, Given``, and
    every further representation after a slash."""
    groups = [_component_group(group) for group in name.split("=")]
    return " / ".join(group for group in groups if group) or "not given"


def _component_group(group: str) -> str:
    components = [part.strip() for part in group.split("^")]
    components += [""] * (_PERSON_NAME_COMPONENTS - len(components))
    family, given, middle, prefix, *suffixes = components
    first_names = " ".join(part for part in (prefix, given, middle) if part)
    names = [part for part in (family, first_names, *suffixes) if part]
    return ", ".join(names)


def date(text: str) -> str:
    """A DICOM DA as an ISO date; anything else as it is."""
    is_date = len(text) == len("YYYYMMDD") and text.isdigit()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if is_date else text or "not given"


def time(text: str) -> str:
    """A DICOM TM to the second; anything else as it is."""
    digits = text.split(".", maxsplit=1)[0]
    is_time = len(digits) == len("HHMMSS") and digits.isdigit()
    return f"{digits[:2]}:{digits[2:4]}:{digits[4:]}" if is_time else text


def unit(code: Code) -> str:
    """The UCUM code where people read it as it is, otherwise its meaning."""
    if code.code_value in _UNIT_SYMBOLS:
        return _UNIT_SYMBOLS[code.code_value]
    return code.code_meaning if set("[]{}") & set(code.code_value) else code.code_value


def number(finding: Finding, card: ModelCard) -> str:
    """The value, with the decimals that the manifest gives it."""
    value = finding.value or 0.0
    decimals = next((d for code, d in _decimals(card) if code == finding.code), None)
    return f"{value:.6g}" if decimals is None else f"{value:.{decimals}f}"


def _decimals(card: ModelCard) -> Iterator[tuple[Code, int]]:
    for spec in card.output.findings:
        if isinstance(spec, ScalarFinding):
            yield spec.code, spec.decimals
        elif isinstance(spec, DetectionsFinding):
            yield from ((one.code, one.decimals) for one in spec.measurements)


def answer(finding: Finding, card: ModelCard) -> str:
    """A finding's answer: a number, a coded value, or a word in capitals."""
    if finding.value is not None:
        return number(finding, card)
    if finding.coded_value is not None:
        return finding.coded_value.code_meaning
    return PRESENCE_WORDS[finding.presence or Presence.NOT_ASSESSABLE]


def site(finding: Finding) -> str:
    parts = (finding.finding_site, finding.laterality)
    return ", ".join(part.code_meaning for part in parts if part is not None)


def probability(finding: Finding) -> str:
    return "" if finding.probability is None else f"{finding.probability * 100:.0f} %"
