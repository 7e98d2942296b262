"""The beginning of a received DICOM file, read where it lies (PS3.10 7.1)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from hub.errors import RejectedError
from hub.formats.dicom.elements import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    PIXEL_DATA,
    Encoding,
    MoreNeededError,
    walk,
)
from hub.formats.dicom.header import (
    DEFLATED_TRANSFER_SYNTAXES,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from hub.ports import Buffer

UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(?:\.[0-9]+)*\Z")

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_IDENTIFIERS = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID})

_MEDIA_STORAGE = {0x0002: SOP_CLASS_UID, 0x0003: SOP_INSTANCE_UID}
_TRANSFER_SYNTAX = 0x0010
_PREAMBLE = 132
_LONG_VRS = frozenset({b"OB", b"UN", b"UT"})
_HEADER_BYTES = 256 * 1024
"""The identifiers of nearly every object lie within so many bytes."""
_MOST_HEADER_BYTES = 16 << 20
_META_BYTES = 64 << 10
_INFLATED_AT_ONCE = 64 << 10


@dataclass(frozen=True, slots=True)
class FileHead:
    """What the file meta information says, and where the data set begins."""

    transfer_syntax_uid: str
    identifiers: Mapping[int, str]
    """By the tags of the data set's own."""
    data_start: int


def read_file_head(file: bytearray) -> FileHead:
    """Read preamble and file meta information; ``file`` may break off after them.

    Raises:
        RejectedError: it is no DICOM file, or the file meta information cannot be read.
    """
    if file[_PREAMBLE - 4 : _PREAMBLE] != b"DICM":
        raise RejectedError("not a DICOM file: the DICM prefix is missing (PS3.10 7.1)")
    position, found, syntax = _PREAMBLE, dict[int, str](), ""
    while file[position : position + 2] == b"\x02\x00":
        element, start, end = _meta_element(file, position)
        if end > len(file):
            raise RejectedError("the file meta information breaks off")
        if element == _TRANSFER_SYNTAX:
            syntax = _uid_text(file[start:end])
        elif element in _MEDIA_STORAGE:
            found[_MEDIA_STORAGE[element]] = _uid_text(file[start:end])
        position = end
    if not UID.match(syntax):
        raise RejectedError("TransferSyntaxUID (0002,0010) is missing or is no UID")
    return FileHead(syntax, found, position)


def _meta_element(file: bytearray, position: int) -> tuple[int, int, int]:
    """(element number, start, end) of the value at a position."""
    try:
        _, element, vr, length = struct.unpack_from("<HH2sH", file, position)
        start = position + 8
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", file, start)
            start += 4
    except struct.error as error:
        raise RejectedError("the file meta information breaks off") from error
    return element, start, start + length


def _uid_text(raw: bytes | bytearray) -> str:
    return bytes(raw).rstrip(b"\0 ").decode("ascii", "replace")


def read_identifiers(
    data_set: memoryview, transfer_syntax_uid: str, *, whole: bool
) -> Mapping[int, str]:
    """The UIDs of class, instance, study and series in a data set, or its beginning (not
    ``whole``), as far as they are there.

    Raises:
        RejectedError: the data set cannot be read.
    """
    found: Mapping[int, str] = {}
    encoding = _encoding(transfer_syntax_uid)
    for limit, last in ((_HEADER_BYTES, SERIES_INSTANCE_UID), (_MOST_HEADER_BYTES, PIXEL_DATA - 1)):
        head: Buffer = data_set[:limit]
        complete = whole and len(data_set) <= limit
        if transfer_syntax_uid in DEFLATED_TRANSFER_SYNTAXES:
            head, complete = _inflated(head, limit)
        try:
            raw = walk(head, encoding, _IDENTIFIERS, [], whole=complete, last=last)
        except MoreNeededError:
            continue
        found = {tag: _uid_text(value) for tag, value in raw.items()}
        if len(found) == len(_IDENTIFIERS):
            break
    return found


def _encoding(transfer_syntax_uid: str) -> Encoding:
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT
    return BIG_ENDIAN if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else EXPLICIT


def _inflated(head: Buffer, limit: int) -> tuple[bytes, bool]:
    """At most ``limit`` inflated bytes, and whether that is all of them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(head, limit), inflater.eof
    except zlib.error as error:
        raise RejectedError("the deflated data set is corrupt") from error


def must_not_inflate_beyond(file: bytes, limit: int) -> None:
    """Inflate a data set that is deflated, and keep nothing of it.

    Raises:
        RejectedError: it is longer than ``limit`` bytes, or it is no DICOM file.
        zlib.error: it is corrupt.
    """
    head = read_file_head(bytearray(file[:_META_BYTES]))
    if head.transfer_syntax_uid not in DEFLATED_TRANSFER_SYNTAXES:
        return
    inflater, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for start in range(head.data_start, len(file), _INFLATED_AT_ONCE):
        pending = file[start : start + _INFLATED_AT_ONCE]
        while pending and not inflater.eof:
            length += len(inflater.decompress(pending, _INFLATED_AT_ONCE))
            pending = inflater.unconsumed_tail
            if length > limit:
                raise RejectedError("the deflated data set is too long to be read")
