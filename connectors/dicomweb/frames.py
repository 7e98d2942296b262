"""Frames and other bulk data of a stored object, as they lie (PS3.18 10.4.1.1.4, 10.4.1.1.6)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import get_expected_length, get_nr_frames
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from connectors.dicomweb.dicom_json import UNREADABLE
from connectors.dicomweb.http import Problem
from connectors.dicomweb.negotiation import OCTETS

_MEDIA_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
"""PS3.18 Table 8.7.3-5; what is not here is given as octets of its transfer syntax."""

_PIXEL_DATA = 0x7FE00010
_MOST_FRAMES = 10_000
_WORDS = {"OW": "H", "OF": "I", "OL": "I", "OD": "Q", "OV": "Q"}
_BITS_PER_BYTE = 8
_STEP = re.compile(r"[0-9A-Fa-f]{8}\Z")
_NUMBER = re.compile(r"[0-9]{1,8}\Z")


@dataclass(frozen=True, slots=True)
class BulkData:
    """Values to send, each as one part."""

    values: Sequence[bytes]
    media_type: str
    transfer_syntax_uid: str


def frame_numbers(text: str) -> list[int]:
    """Read ``1,2,5``; the first frame is 1.

    Raises:
        Problem: 400, it is no list of frames.
    """
    pieces = text.split(",")
    usable = len(pieces) <= _MOST_FRAMES and all(_NUMBER.match(piece) for piece in pieces)
    if not usable or any(int(piece) < 1 for piece in pieces):
        raise Problem(HTTPStatus.BAD_REQUEST, "not a list of frame numbers")
    return [int(piece) for piece in pieces]


def frames(dataset: FileDataset, numbers: Sequence[int]) -> BulkData:
    """The frames of these numbers.

    Raises:
        Problem: 404, it has no such frame; 406, its frames cannot be told apart.
    """
    if _PIXEL_DATA not in dataset:
        raise Problem(HTTPStatus.NOT_FOUND, "the instance has no pixel data")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        count = get_nr_frames(dataset)
        if max(numbers) > count:
            raise Problem(HTTPStatus.NOT_FOUND, f"the instance has {count} frame(s)")
        if syntax.is_encapsulated:
            values = _encapsulated(dataset, numbers, count)
            return BulkData(values, _MEDIA_TYPES.get(syntax, OCTETS), str(syntax))
        return BulkData(_native(dataset, numbers, count), OCTETS, ExplicitVRLittleEndian)
    except UNREADABLE as error:
        raise Problem(
            HTTPStatus.NOT_ACCEPTABLE, "the frames of the instance cannot be told apart"
        ) from error


def all_frames(dataset: FileDataset) -> BulkData:
    """Pixel data as one value, or each encapsulated frame."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return BulkData([_value(dataset, dataset)], OCTETS, ExplicitVRLittleEndian)
    try:
        count = get_nr_frames(dataset)
    except UNREADABLE as error:
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, "NumberOfFrames cannot be read") from error
    return frames(dataset, range(1, count + 1))


def bulk_data(dataset: FileDataset, path: Sequence[str]) -> BulkData:
    """The value at a path of a BulkDataURI: tag, or tag / item / tag and so on.

    Raises:
        Problem: 404, there is none.
    """
    missing = Problem(HTTPStatus.NOT_FOUND, "the instance has no such bulk data")
    if not path or len(path) % 2 == 0:
        raise missing
    if [step.upper() for step in path] == ["7FE00010"] and _PIXEL_DATA in dataset:
        return all_frames(dataset)
    inner: Dataset = dataset
    try:
        for tag, item in zip(path[0:-1:2], path[1:-1:2], strict=True):
            if not _STEP.match(tag) or not _NUMBER.match(item):
                raise missing
            inner = inner[int(tag, 16)].value[int(item)]
        if not _STEP.match(path[-1]):
            raise missing
        value = _value(dataset, inner, int(path[-1], 16))
    except UNREADABLE as error:
        raise missing from error
    return BulkData([value], OCTETS, ExplicitVRLittleEndian)


def _value(dataset: FileDataset, inner: Dataset, tag: int = _PIXEL_DATA) -> bytes:
    """A binary value in little endian."""
    element = inner[tag]
    if not isinstance(element.value, bytes):
        raise TypeError("not a binary value")
    code = _WORDS.get(element.VR)
    if code and dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        words = array(code, element.value)
        words.byteswap()
        return words.tobytes()
    return element.value


def _encapsulated(dataset: FileDataset, numbers: Sequence[int], count: int) -> list[bytes]:
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return [
        get_frame(dataset.PixelData, number - 1, number_of_frames=count, extended_offsets=offsets)
        for number in numbers
    ]


def _native(dataset: FileDataset, numbers: Sequence[int], count: int) -> list[bytes]:
    total = get_expected_length(dataset, unit="bytes")
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    whole = int(dataset.BitsAllocated) >= _BITS_PER_BYTE or bits % _BITS_PER_BYTE == 0
    value = _value(dataset, dataset)
    if not whole or total % count or len(value) < total:
        raise ValueError("frames do not begin at whole bytes")
    length = total // count
    return [value[(number - 1) * length : number * length] for number in numbers]
