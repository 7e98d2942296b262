from __future__ import annotations

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import RejectedError
from hub.formats.hl7v2.message import (
    components,
    encoded_message,
    escaped,
    formatted,
    read_header,
    read_message,
    segment,
    with_header,
)

HEADER = r"MSH|^~\&|RIS|HOSP|CAIDX|X|20260314||ADT^A08^ADT_A01|42|P|2.5.1||||||"


def message(*segments: str, character_set: str = "UNICODE UTF-8", codec: str = "utf-8") -> bytes:
    return "\r".join([HEADER + character_set, *segments, ""]).encode(codec)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"])))
def test_what_is_written_is_read_again(text: str) -> None:
    encoded = message(segment("ZZZ", {1: escaped(text), 3: components("a", text, "b")}))
    read = read_message(encoded).all("ZZZ")[0]
    assert read.text(1) == text
    assert read.text(3, 2) == text
    assert read.text(3, 3) == "b"


@given(st.text())
def test_no_text_ends_a_segment_a_field_or_a_block(text: str) -> None:
    encoded = encoded_message([segment("MSH", {3: escaped(text), 4: formatted(text)})])
    assert encoded.count(b"\r") == 1
    assert encoded.endswith(b"\r")
    assert not {0x0B, 0x1C, 0x0A} & set(encoded)
    assert encoded.count(b"|") == (3 if escaped(text) or formatted(text) else 1)


def test_line_breaks_stay_in_formatted_text_only() -> None:
    assert escaped("one\r\ntwo\nthree") == "one two three"
    assert formatted("one\r\ntwo|") == "one\\.br\\two\\F\\"


def test_another_reader_sees_the_same() -> None:
    hostile = "O'Brien|^~\\&\rPID|2"
    text = message(segment("PID", {5: components(hostile, "x")})).decode()
    parsed = hl7.parse(text)
    assert len(parsed) == 2
    assert parsed.extract_field("PID", 1, 5, 1, 1, 1) == "O'Brien|^~\\& PID|2"


def test_delimiters_are_those_of_the_message() -> None:
    read = read_message(b"MSH#*+!%#RIS#A*B%C#\rPID#1##ID*!S!*x+ID2#\r")
    assert read.header.text(4, 2, 2) == "C"
    assert read.all("PID")[0].text(3, 2) == "*"
    assert read.all("PID")[0].repetitions(3) == ("ID*!S!*x", "ID2")


@pytest.mark.parametrize(
    ("character_set", "codec"),
    [("8859/1", "latin_1"), ("UNICODE UTF-8", "utf-8"), ("", "utf-8"), ("8859/15", "iso8859_15")],
)
def test_names_are_read_in_their_character_set(character_set: str, codec: str) -> None:
    encoded = message("PID|||1||Müller^Jörg", character_set=character_set, codec=codec)
    assert read_message(encoded).all("PID")[0].text(5) == "Müller"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MSH",
        b"PID|1",
        b"\xff\xfeM\x00S\x00H\x00",
        b"MSH|||||||",
        b"MSHA^~\\&A",
        b"MSH|^~\\A|RIS",
        message("PID|||1||M\xfcller", codec="latin_1"),
        message(character_set="KLINGON"),
    ],
)
def test_what_is_no_message_is_rejected(content: bytes) -> None:
    with pytest.raises(RejectedError):
        read_message(content)


@given(st.binary(max_size=300))
def test_garbage_is_rejected_or_read(content: bytes) -> None:
    for garbage in (content, b"MSH|^~\\&|" + content):
        read_header(garbage)
        try:
            read = read_message(garbage)
        except RejectedError:
            continue
        assert [one.text(3, 2, 2) for one in read.segments]


def test_segments_may_end_as_files_do() -> None:
    content = message("PID|||1", "MRG|2")
    for end in (b"\n", b"\r\n"):
        read = read_message(content.replace(b"\r", end))
        assert [one.name for one in read.segments] == ["MSH", "PID", "MRG"]


def test_only_the_header_is_changed() -> None:
    content = message("PID|||1||Müller")
    changed = with_header(content, {5: "RIS2", 6: "", 11: "T", 21: "z"})
    assert changed.split(b"\r")[1:] == content.split(b"\r")[1:]
    header = read_message(changed).header
    assert (header.text(5), header.text(6), header.text(11)) == ("RIS2", "X", "T")
    assert (header.text(10), header.text(21)) == ("42", "z")
