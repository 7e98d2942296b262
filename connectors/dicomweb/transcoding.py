"""To Explicit VR Little Endian, where that loses and decodes nothing."""

from __future__ import annotations

import io
import zlib

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from connectors.dicomweb.dicom_file import SOP_CLASS_UID, SOP_INSTANCE_UID, read_file_head
from connectors.dicomweb.dicom_json import UNREADABLE
from hub.errors import RejectedError
from hub.formats.dicom.part10 import part10
from hub.ports import ReceivedObject

EXPLICIT = str(ExplicitVRLittleEndian)
_SOURCES = frozenset({ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
_MOST_INFLATED = 1 << 30


def can_be_explicit(transfer_syntax_uid: str) -> bool:
    """Whether a stored object can be given in Explicit VR Little Endian."""
    return transfer_syntax_uid in _SOURCES


def explicit_file(file: bytes) -> bytes:
    """A DICOM file in Explicit VR Little Endian.

    Raises:
        RejectedError: it cannot be read, or inflates to more than 1 GiB.
    """
    head = read_file_head(bytearray(file[: _head_bytes(file)]))
    if head.transfer_syntax_uid == ExplicitVRBigEndian:
        raise RejectedError("big endian is not converted")
    if head.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return part10(
            ReceivedObject(
                sop_class_uid=head.identifiers.get(SOP_CLASS_UID, ""),
                sop_instance_uid=head.identifiers.get(SOP_INSTANCE_UID, ""),
                transfer_syntax_uid=EXPLICIT,
                data_set=_inflated(memoryview(file)[head.data_start :]),
            )
        )
    return _rewritten(file)


def _head_bytes(file: bytes) -> int:
    """File meta information is far shorter; the data set is not copied for it."""
    return min(len(file), 1 << 16)


def _inflated(data_set: memoryview) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data_set, _MOST_INFLATED)
    except zlib.error as error:
        raise RejectedError("the deflated data set is corrupt") from error
    if not inflater.eof:
        raise RejectedError("the deflated data set has no end, or is too long")
    return inflated


def _rewritten(file: bytes) -> bytes:
    try:
        dataset = pydicom.dcmread(io.BytesIO(file))
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        buffer = io.BytesIO()
        dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    except UNREADABLE as error:
        raise RejectedError(f"the object cannot be converted: {type(error).__name__}") from error
    return buffer.getvalue()
