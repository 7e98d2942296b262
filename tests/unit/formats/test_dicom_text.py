"""Hostile texts: escapes, controls, wrong character sets. Nothing of them gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.formats.dicom.text import CharacterSet

TERMS = (
    b"",
    b"ISO_IR 100",
    b"ISO_IR 192",
    b"ISO 2022 IR 6\\ISO 2022 IR 87",
    b"\\ISO 2022 IR 149",
    b"GB18030",
    b"no such set",
)


@pytest.mark.parametrize(
    ("terms", "raw", "expected"),
    [
        (b"ISO_IR 100", b"A\x1b[2J", "A\ufffd[2J"),  # clears a terminal
        (b"\\ISO 2022 IR 87", b"A\x1b[2J", "A\ufffd[2J"),
        (b"\\ISO 2022 IR 87", b"A\x1b\x1b\x1b", "A\ufffd\ufffd\ufffd"),
        (b"ISO_IR 192", b"A\0B", "A\ufffdB"),  # PostgreSQL refuses it
        (b"", b"A\x07\x7f", "A\ufffd\ufffd"),
    ],
)
def test_control_characters_are_replaced_and_told(terms: bytes, raw: bytes, expected: str) -> None:
    assert CharacterSet.of(terms).decode(raw) == (expected, False)


@pytest.mark.parametrize("raw", [b"A\0", b"A\0\\B\0", b"one\ttwo\r\nthree\x0c"])
def test_padding_and_white_space_are_no_fault(raw: bytes) -> None:
    text, clean = CharacterSet.of(b"ISO_IR 100").decode(raw)
    assert clean
    assert text == raw.decode().replace("\0", "")


@given(raw=st.binary(max_size=200), terms=st.sampled_from(TERMS))
def test_no_text_holds_a_control_character(raw: bytes, terms: bytes) -> None:
    text, _ = CharacterSet.of(terms).decode(raw)
    assert not {c for c in text if (ord(c) < 32 and c not in "\t\n\f\r") or c == "\x7f"}
    text.encode()  # no lone surrogate either


@given(raw=st.lists(st.sampled_from((b"\x1b", b"$B", b"(B", b"$)C", b"-A", b"^", b"\\", b"\x83"))))
def test_escape_sequences_in_any_order_are_read(raw: list[bytes]) -> None:
    for terms in TERMS:
        text, _ = CharacterSet.of(terms).decode(b"".join(raw))
        assert "\x1b" not in text


@pytest.mark.parametrize("part", [b"\x1b$B", b"\x1b(B\\", b"\x1b", b"\x1b-A^"])
def test_a_long_text_of_escapes_only_is_read(part: bytes) -> None:
    text, _ = CharacterSet.of(b"\\ISO 2022 IR 87").decode(part * (60_000 // len(part)))
    assert "\x1b" not in text
