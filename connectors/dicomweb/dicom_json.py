"""A stored object's data set as DICOM JSON (PS3.18 annex F), large values by reference."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from connectors.dicomweb.dicom_file import must_not_inflate_beyond
from hub.errors import RejectedError

Model = dict[str, dict[str, Any]]

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on objects that are not as they should be."""

_INLINE_BYTES = 1024
"""Longer binary values are told by BulkDataURI."""
_BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_SPECIFIC_CHARACTER_SET = "00080005"
_AVAILABLE_TRANSFER_SYNTAX_UID = "00083002"
_MOST_DEPTH = 64
_MOST_INFLATED = 256 << 20
"""Bytes of a deflated data set: pydicom inflates all of it, and takes twice as much for that."""


def read_file(file: bytes) -> pydicom.FileDataset:
    """Read a stored object.

    Raises:
        RejectedError: it cannot be read, or is deflated and too long.
    """
    try:
        must_not_inflate_beyond(file, _MOST_INFLATED)
        return pydicom.dcmread(io.BytesIO(file))
    except UNREADABLE as error:
        raise RejectedError(f"the object cannot be read: {type(error).__name__}") from error


def file_model(file: bytes, url: str) -> Model:
    """All of a stored object but its bulk data, which lies under ``<url>/bulkdata``.

    Raises:
        RejectedError: it cannot be read.
    """
    dataset = read_file(file)
    try:
        model = _model(dataset, f"{url}/bulkdata", 0)
    except UNREADABLE as error:
        raise RejectedError(f"the object cannot be read: {type(error).__name__}") from error
    if _SPECIFIC_CHARACTER_SET in model:
        model[_SPECIFIC_CHARACTER_SET] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    syntax = dataset.file_meta.TransferSyntaxUID
    model[_AVAILABLE_TRANSFER_SYNTAX_UID] = {"vr": "UI", "Value": [str(syntax)]}
    return dict(sorted(model.items()))


def _model(dataset: Dataset, url: str, depth: int) -> Model:
    if depth > _MOST_DEPTH:
        raise ValueError("sequences nest too deep")
    return {f"{e.tag:08X}": _element(e, url, depth) for e in _elements(dataset)}


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Every element that can be read: one bad value does not hide the others."""
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except UNREADABLE:
            continue
        if isinstance(element, DataElement):
            yield element


def _element(element: DataElement, url: str, depth: int) -> dict[str, Any]:
    own = f"{url}/{element.tag:08X}"
    if element.VR == "SQ":
        items = [
            _model(item, f"{own}/{number}", depth + 1)
            for number, item in enumerate(element.value or ())
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BINARY_VRS:
        return _binary(element, own)
    try:
        return dict(element.to_json_dict(None, _INLINE_BYTES))
    except UNREADABLE:
        return {"vr": element.VR}


def _binary(element: DataElement, url: str) -> dict[str, Any]:
    value = element.value
    if not isinstance(value, bytes | bytearray) or not value:
        return {"vr": element.VR}
    if len(value) > _INLINE_BYTES or element.tag in _PIXELS:
        return {"vr": element.VR, "BulkDataURI": url}
    return {"vr": element.VR, "InlineBinary": base64.b64encode(value).decode("ascii")}
