r"""HL7 v2 messages as text: segments, fields, components, and the escape sequences between them
(HL7 v2.5.1 chapter 2; the encoding is called ER7).

Writing uses the usual delimiters ``|^~\&``; reading takes those that the message names in MSH-1
and MSH-2. Standard library only: the receiver's process reads messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hub.errors import RejectedError

CHARACTER_SETS = {
    "UNICODE UTF-8": "utf_8",
    "UTF-8": "utf_8",
    "ASCII": "ascii",
    "8859/1": "latin_1",
    "8859/2": "iso8859_2",
    "8859/3": "iso8859_3",
    "8859/4": "iso8859_4",
    "8859/5": "iso8859_5",
    "8859/6": "iso8859_6",
    "8859/7": "iso8859_7",
    "8859/8": "iso8859_8",
    "8859/9": "iso8859_9",
    "8859/15": "iso8859_15",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
"""MSH-18 (table 0211) -> Python codec; with UTF-8 as many systems spell it."""

SEGMENT_END = "\r"
NULL = '""'
"""A field that says "delete what you know" (2.5.3)."""

_ESCAPES = {
    "|": "\\F\\",
    "^": "\\S\\",
    "&": "\\T\\",
    "~": "\\R\\",
    "\\": "\\E\\",
}
_DELIMITER = re.compile(r"[|^&~\\]")
_LINE_BREAK = re.compile("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SEGMENT_ENDS = re.compile("\r\n|[\r\n]")
_SEGMENT_NAME = re.compile(r"[A-Z][A-Z0-9]{2}\Z")
_SHORTEST_HEADER = 8
_MSH = "MSH"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class MessageError(RejectedError):
    """A message that cannot be taken, and why in the words of the protocol."""

    def __init__(self, message: str, code: str, location: str = "") -> None:
        super().__init__(message)
        self.code = code
        """Table 0357, e.g. 101: a required field is missing."""
        self.location = location
        """ERL (2.A.28): segment, its number, field; empty where it is none of a field."""


REQUIRED_FIELD_MISSING, DATA_TYPE_ERROR = "101", "102"
UNSUPPORTED_MESSAGE_TYPE, UNSUPPORTED_EVENT = "200", "201"
UNSUPPORTED_PROCESSING_ID, UNSUPPORTED_VERSION = "202", "203"
INTERNAL_ERROR = "207"


# --- writing -----------------------------------------------------------------------------


def escaped(text: str, line_break: str = " ") -> str:
    r"""A text that no delimiter ends (2.7.1).

    Args:
        text: anything.
        line_break: what stands for one: a space in ST, ``\.br\`` in FT (2.7.6). A carriage
            return as it is would end the segment. Other control characters become spaces: two
            of them end an MLLP block.
    """
    lines = _LINE_BREAK.split(text)
    return line_break.join(
        _DELIMITER.sub(lambda found: _ESCAPES[found.group()], _CONTROL.sub(" ", line))
        for line in lines
    )


def formatted(text: str) -> str:
    """A text with line breaks, for FT."""
    return escaped(text, "\\.br\\")


def components(*texts: str) -> str:
    """A field of components, each escaped; empty ones at the end are left out."""
    return "^".join(escaped(text) for text in texts).rstrip("^")


def subcomponents(*texts: str) -> str:
    """A component of subcomponents, for `joined`."""
    return "&".join(escaped(text) for text in texts).rstrip("&")


def joined(*encoded: str) -> str:
    """A field of components that are encoded already."""
    return "^".join(encoded).rstrip("^")


def segment(name: str, fields: Mapping[int, str]) -> str:
    """One segment.

    Args:
        name: e.g. ``PID``.
        fields: by their number from 1, encoded already; those not given are empty. MSH-1 and
            MSH-2 are written by themselves.
    """
    last = max((number for number, field in fields.items() if field), default=0)
    if name == _MSH:
        values = [r"^~\&", *(fields.get(number, "") for number in range(3, last + 1))]
    else:
        values = [fields.get(number, "") for number in range(1, last + 1)]
    return "|".join([name, *values])


def encoded_message(segments: Sequence[str]) -> bytes:
    """The bytes of a message (UTF-8), each segment with its end."""
    return "".join(one + SEGMENT_END for one in segments).encode("utf-8")


def with_header(content: bytes, fields: Mapping[int, str]) -> bytes:
    """A message of ours with other values in MSH; all other bytes stay as they are.

    Args:
        content: as `encoded_message` makes it.
        fields: by number from 3, encoded already; empty ones change nothing.
    """
    end = content.index(SEGMENT_END.encode())
    header = content[:end].decode("utf-8").split("|")
    for number, value in fields.items():
        if value:
            header += [""] * (number - len(header))
            header[number - 1] = value
    return "|".join(header).encode("utf-8") + content[end:]


# --- reading -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The characters between fields and inside them (MSH-1, MSH-2)."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment, as it came."""

    name: str
    fields: tuple[str, ...]
    """``fields[0]`` is field 1; in MSH that is the delimiter of fields itself."""
    delimiters: Delimiters

    def field(self, number: int) -> str:
        """A field as it came, with its delimiters; empty where there is none."""
        return self.fields[number - 1] if number <= len(self.fields) else ""

    def repetitions(self, number: int) -> tuple[str, ...]:
        """Those of a field that hold anything."""
        return tuple(one for one in self.field(number).split(self.delimiters.repetition) if one)

    def text(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """One value of the first repetition of a field, unescaped."""
        first = self.field(number).split(self.delimiters.repetition, 1)[0]
        return self.part(first, component, subcomponent)

    def part(self, repetition: str, component: int, subcomponent: int = 1) -> str:
        """One value of a repetition, unescaped; numbers from 1; empty where there is none."""
        found = _nth(repetition, self.delimiters.component, component)
        found = _nth(found, self.delimiters.subcomponent, subcomponent)
        return _unescaped(found, self.delimiters).strip()


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it came."""

    segments: tuple[Segment, ...]

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    @property
    def control_id(self) -> str:
        """MSH-10, by which the answer names the message."""
        return self.header.text(10)

    @property
    def message_type(self) -> str:
        """``ADT^A08``: code and trigger event of MSH-9."""
        return "^".join((self.header.text(9, 1), self.header.text(9, 2))).rstrip("^")

    def all(self, name: str) -> tuple[Segment, ...]:
        """The segments of a name, in their order."""
        return tuple(one for one in self.segments if one.name == name)


def read_message(content: bytes, default_character_set: str = "UNICODE UTF-8") -> Message:
    """Take a message apart.

    Args:
        content: the bytes, without those of the transport. Segments may end with LF or CR LF,
            too: files are often stored so.
        default_character_set: as in MSH-18, for messages that name none.

    Raises:
        MessageError: there is no MSH, or its character set is unknown or not the real one.
    """
    content = content.removeprefix(_BYTE_ORDER_MARK)
    delimiters = _delimiters(content)
    text = _decoded(content, default_character_set)
    lines = [line for line in _SEGMENT_ENDS.split(text) if line]
    return Message(tuple(_segment(line, delimiters) for line in lines))


def read_header(content: bytes) -> Message | None:
    """MSH alone, of a message that cannot be read otherwise; None where there is none."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    try:
        delimiters = _delimiters(content)
    except MessageError:
        return None
    line = _SEGMENT_ENDS.split(content[:4096].decode("latin_1"), maxsplit=1)[0]
    return Message((_segment(line, delimiters),))


def _delimiters(content: bytes) -> Delimiters:
    head = content[:_SHORTEST_HEADER].decode("latin_1")
    if len(head) < _SHORTEST_HEADER or not head.startswith(_MSH):
        text = "this is no HL7 v2 message: it does not begin with MSH"
        raise MessageError(text, "100", "MSH^1")
    found = Delimiters(head[3], head[4], head[5], head[6], head[7])
    marks = {found.field, found.component, found.repetition, found.escape}
    if found.subcomponent == found.field:  # MSH-2 of three characters: no subcomponents
        found = Delimiters(head[3], head[4], head[5], head[6], "\0")
    if len(marks | {found.subcomponent}) != len(head) - len(_MSH):
        raise MessageError("two delimiters are the same", DATA_TYPE_ERROR, "MSH^1^2")
    if any(mark.isalnum() or mark in "\r\n" for mark in marks | {found.subcomponent}):
        text = "a delimiter is a letter, a digit or a line end"
        raise MessageError(text, DATA_TYPE_ERROR, "MSH^1^2")
    return found


def _decoded(content: bytes, default: str) -> str:
    header = read_header(content)
    named = header.header.repetitions(18) if header is not None else ()
    character_set = named[0].strip().upper() if named else default
    codec = CHARACTER_SETS.get(character_set)
    if codec is None:
        text = "the message's character set (MSH-18) is unknown"
        raise MessageError(text, DATA_TYPE_ERROR, "MSH^1^18")
    try:
        return content.decode(codec)
    except UnicodeDecodeError:
        text = "the message is not in its character set (MSH-18)"
        raise MessageError(text, DATA_TYPE_ERROR, "MSH^1^18") from None


def _segment(line: str, delimiters: Delimiters) -> Segment:
    name, *fields = line.split(delimiters.field)
    if name == _MSH:
        fields.insert(0, delimiters.field)
    return Segment(name if _SEGMENT_NAME.match(name) else "", tuple(fields), delimiters)


def _nth(text: str, delimiter: str, number: int) -> str:
    parts = text.split(delimiter, number)
    return parts[number - 1] if number <= len(parts) else ""


def _unescaped(text: str, delimiters: Delimiters) -> str:
    """The text behind the escape sequences (2.7); those of highlighting and of other character
    sets are left out, and what is no sequence stays."""
    mark = delimiters.escape
    if mark not in text:
        return text
    known = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": mark,
        ".br": "\n",
    }
    parts = text.split(mark)
    found, index = [parts[0]], 1
    while index < len(parts):
        inner = parts[index]
        if index == len(parts) - 1:  # no second mark: no sequence
            found.append(mark + inner)
            break
        found.append(_meaning(inner, known))
        found.append(parts[index + 1])
        index += 2
    return "".join(found)


def _meaning(sequence: str, known: Mapping[str, str]) -> str:
    if sequence in known:
        return known[sequence]
    if sequence[:1] == "X":
        try:
            content = bytes.fromhex(sequence[1:])
        except ValueError:
            return ""
        return _text_of(content)
    return ""


def _text_of(content: bytes) -> str:
    """Bytes of a sequence ``X``: the standard leaves open in which character set they are."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin_1")
