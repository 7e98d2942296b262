"""DICOM character sets (PS3.3 C.12.1.1.2, PS3.5 6.1) with the codecs of the standard library."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

_CODECS = {
    "": "ascii",
    "ISO_IR_6": "ascii",
    "ISO_IR_13": "shift_jis",
    "ISO_IR_58": "gb2312",
    "ISO_IR_87": "iso2022_jp",
    "ISO_IR_100": "latin_1",
    "ISO_IR_101": "iso8859_2",
    "ISO_IR_109": "iso8859_3",
    "ISO_IR_110": "iso8859_4",
    "ISO_IR_126": "iso8859_7",
    "ISO_IR_127": "iso8859_6",
    "ISO_IR_138": "iso8859_8",
    "ISO_IR_144": "iso8859_5",
    "ISO_IR_148": "iso8859_9",
    "ISO_IR_149": "euc_kr",
    "ISO_IR_159": "iso2022_jp_2",
    "ISO_IR_166": "iso8859_11",
    "ISO_IR_192": "utf_8",
    "ISO_IR_203": "iso8859_15",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
"""Defined term, spelled evenly and without ``2022`` -> Python codec."""

_ESCAPES = {
    b"\x1b(B": "ascii",
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "iso8859_11",
    b"\x1b-b": "iso8859_15",
    b"\x1b$)A": "gb2312",
    b"\x1b$)C": "euc_kr",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
}
"""Escape sequences of PS3.3 Tables C.12-3 and C.12-4 -> Python codec."""

_STATEFUL = frozenset({"iso2022_jp", "iso2022_jp_2"})
"""Codecs that read the escape sequence themselves; their bytes may look like delimiters."""

_ESCAPE = re.compile(rb"\x1b(?:\$[()][A-Za-z]|[$()\-][A-Za-z])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
"""All of C0 but TAB, LF, FF, CR; and DEL."""
_DELIMITER = re.compile(rb"[\\^=\r\n\t\f]")


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """The value of Specific Character Set (0008,0005), ready to decode texts."""

    initial: str
    """Python codec of the text before any escape sequence, and after each delimiter."""
    extended: bool
    """ISO 2022 code extensions are in use."""
    unknown: bool
    """A term was not known; it is read as ASCII."""

    @staticmethod
    def of(raw: bytes) -> CharacterSet:
        """From the raw value; an empty one is the default repertoire (ISO IR 6)."""
        return _character_set(raw)

    def decode(self, raw: bytes) -> tuple[str, bool]:
        """The text, and whether every character could be decoded.

        What could not be decoded becomes U+FFFD; so do control characters that no text may hold
        (PS3.5 6.1.3): a database refuses some, and a terminal obeys others.
        """
        if b"\x1b" in raw and self.extended:
            text, clean = self._decode_extended(raw)
        else:
            text, clean = _decoded(raw, self.initial)
        return _without_controls(text) if _CONTROL.search(text) else (text, clean)

    def _decode_extended(self, raw: bytes) -> tuple[str, bool]:
        """PS3.5 6.1.2.5.3: an escape sequence holds until the next one or a delimiter."""
        texts: list[tuple[str, bool]] = []
        matches = list(_ESCAPE.finditer(raw))
        texts.append(_decoded(raw[: matches[0].start() if matches else len(raw)], self.initial))
        for index, match in enumerate(matches):
            end = matches[index + 1].start() if index + 1 < len(matches) else len(raw)
            codec = _ESCAPES.get(match.group())
            if codec in _STATEFUL:
                texts.append(_decoded(raw[match.start() : end], codec))
                continue
            part = raw[match.end() : end]
            delimiter = _DELIMITER.search(part)
            cut = delimiter.start() if delimiter else len(part)
            texts.append(_decoded(part[:cut], codec or "ascii"))
            texts.append(_decoded(part[cut:], self.initial))
            if codec is None:
                texts.append(("", False))
        return "".join(text for text, _ in texts), all(clean for _, clean in texts)


def _without_controls(text: str) -> tuple[str, bool]:
    """The same text where only its values were padded with NUL."""
    unpadded = "\\".join(value.rstrip("\0") for value in text.split("\\"))
    replaced = _CONTROL.sub("\ufffd", unpadded)
    return replaced, replaced == unpadded and "\ufffd" not in replaced


def _decoded(raw: bytes, codec: str) -> tuple[str, bool]:
    try:
        return raw.decode(codec), True
    except UnicodeDecodeError:
        return raw.decode(codec, "replace"), False


@functools.lru_cache(maxsize=64)
def _character_set(raw: bytes) -> CharacterSet:
    terms = raw.rstrip(b"\0 ").decode("ascii", "replace").upper().split("\\")
    spelled = [re.sub(r"[ _-]+", "_", term.strip()) for term in terms]
    codecs = [_CODECS.get(term.replace("ISO_2022_IR", "ISO_IR")) for term in spelled]
    return CharacterSet(
        initial=codecs[0] or "ascii",
        extended=len(terms) > 1 or spelled[0].startswith("ISO_2022"),
        unknown=None in codecs,
    )
