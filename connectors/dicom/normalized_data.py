"""The small data sets of DIMSE-N messages: decoded, checked, encoded."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from connectors.dicom.normalized import NormalizedRequest
from connectors.dicom.services import RefusedError

INVALID_ATTRIBUTE = 0x0106
INVALID_ARGUMENT = 0x0115
MISSING_ATTRIBUTE = 0x0120
NO_SUCH_OPERATION = 0x0211
"""PS3.7 annex C."""

_MOST_BYTES = 16 << 20
_MOST_ITEMS = 50_000
"""Of sequences, in all: pydicom takes a hundred times the memory of an empty one."""
_ITEM = b"\xfe\xff\x00\xe0"
"""Item (FFFE,E000), little endian: the only transfer syntaxes that are offered."""


def decoded(request: NormalizedRequest) -> Dataset:
    """The data set of a request.

    Raises:
        RefusedError: it is too long, or has too many items.
        one of `services.UNREADABLE`: it is none.
    """
    if len(request.data_set) > _MOST_BYTES:
        raise RefusedError(INVALID_ARGUMENT, "the data set is too long")
    if request.data_set.count(_ITEM) > _MOST_ITEMS:
        raise RefusedError(INVALID_ARGUMENT, "the data set has too many items")
    syntax = UID(request.transfer_syntax_uid)
    read = read_dataset(BytesIO(request.data_set), syntax.is_implicit_VR, syntax.is_little_endian)
    return Dataset(read)


def encoded(data_set: Dataset, transfer_syntax_uid: str) -> bytes:
    """The bytes of a data set of ours."""
    syntax, buffer = UID(transfer_syntax_uid), DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, data_set)
    written: bytes = buffer.getvalue()
    return written


def items(data_set: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or empty."""
    return list(data_set.get(keyword) or ())


def text(data_set: Dataset, keyword: str) -> str:
    """A value as text; empty where there is none, or more than one."""
    value: Any = data_set.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def uid(data_set: Dataset, keyword: str) -> str:
    """A UID; empty where there is none.

    Raises:
        RefusedError: it is none (PS3.5 9.1).
    """
    value = text(data_set, keyword)
    if value and not UID(value).is_valid:
        raise RefusedError(INVALID_ATTRIBUTE, f"{keyword} is no UID")
    return value


def required_uid(data_set: Dataset, keyword: str) -> str:
    """A UID that must be there.

    Raises:
        RefusedError: it is missing or none.
    """
    value = uid(data_set, keyword)
    if not value:
        raise RefusedError(MISSING_ATTRIBUTE, f"{keyword} is missing")
    return value
