"""DICOM files: preamble and file meta information around an untouched data set (PS3.10)."""

from __future__ import annotations

import struct

from hub.domain.identity import derived_uid
from hub.errors import RejectedError
from hub.formats.dicom.elements import tag_name
from hub.ports import ReceivedObject

IMPLEMENTATION_CLASS_UID = derived_uid("implementation-class")
IMPLEMENTATION_VERSION_NAME = "CAIDX_HUB"
"""At most 16 characters (PS3.7 D.3.3.2.3)."""

_TRANSFER_SYNTAX_UID = 0x00020010
_PREAMBLE = bytes(128) + b"DICM"


def part10_prefix(
    received: ReceivedObject,
    *,
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID,
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME,
) -> bytes:
    """All that goes before the data set: preamble, ``DICM``, file meta information (PS3.10 7.1)."""
    meta = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _meta_element(0x0002, received.sop_class_uid),
            _meta_element(0x0003, received.sop_instance_uid),
            _meta_element(0x0010, received.transfer_syntax_uid),
            _meta_element(0x0012, implementation_class_uid),
            _meta_element(0x0013, implementation_version_name, vr=b"SH", padding=b" "),
        )
    )
    return _PREAMBLE + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta


def part10(
    received: ReceivedObject,
    *,
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID,
    implementation_version_name: str = IMPLEMENTATION_VERSION_NAME,
) -> bytes:
    """A DICOM file (PS3.10) around the received bytes, which are not touched."""
    prefix = part10_prefix(
        received,
        implementation_class_uid=implementation_class_uid,
        implementation_version_name=implementation_version_name,
    )
    return prefix + received.data_set


def _meta_element(element: int, value: str, *, vr: bytes = b"UI", padding: bytes = b"\0") -> bytes:
    if not value.isascii():
        raise RejectedError(f"{tag_name(0x0002 << 16 | element)} holds characters outside ASCII")
    raw = value.encode("ascii")
    raw += padding * (len(raw) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(raw)) + raw


def split_part10(file: bytes) -> tuple[str, bytes]:
    """The transfer syntax UID and the encoded data set of a DICOM file.

    Raises:
        RejectedError: not a Part 10 file, or its file meta information cannot be read.
    """
    transfer_syntax_uid, start = data_set_of(file)
    return transfer_syntax_uid, file[start:]


def data_set_of(file: bytes) -> tuple[str, int]:
    """The transfer syntax UID of a DICOM file, and where its data set begins.

    Raises:
        RejectedError: as ``split_part10``.
    """
    if file[128:132] != b"DICM":
        raise RejectedError("not a DICOM file: the DICM prefix is missing (PS3.10 7.1)")
    position, transfer_syntax_uid = 132, ""
    while file[position : position + 2] == b"\x02\x00":
        tag, raw, position = _next_meta_element(file, position)
        if tag == _TRANSFER_SYNTAX_UID:
            transfer_syntax_uid = raw.rstrip(b"\0 ").decode("ascii", "replace")
    if not transfer_syntax_uid:
        raise RejectedError("TransferSyntaxUID (0002,0010) is missing")
    return transfer_syntax_uid, position


_LONG_META_VRS = frozenset({b"OB", b"UN", b"UT"})


def _next_meta_element(file: bytes, position: int) -> tuple[int, bytes, int]:
    try:
        group, element, vr, length = struct.unpack_from("<HH2sH", file, position)
        start = position + 8
        if vr in _LONG_META_VRS:
            (length,) = struct.unpack_from("<I", file, start)
            start += 4
    except struct.error as error:
        raise RejectedError(f"the file meta information breaks off at byte {position}") from error
    if start + length > len(file):
        raise RejectedError(f"the file meta information breaks off at byte {position}")
    return (group << 16) | element, file[start : start + length], start + length
