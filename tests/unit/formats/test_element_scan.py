"""Hostile files before their pixels: bombs, nesting, lengths that lie."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hub.errors import CaidxError, RejectedError
from hub.formats.dicom.element_scan import scan_file
from hub.formats.images.pixel_data import read_object
from tests.unit.enhanced import enhanced_ct
from tests.unit.imaging import ct_dataset, ct_series, ct_slice, file_bytes

_OPEN = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
_CLOSE = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_PER_FRAME = b"\x00\x52\x30\x92SQ\x00\x00"


def before_pixels(extra: bytes) -> bytes:
    """A CT slice with something before its pixel data."""
    whole = ct_slice(0)
    at = whole.index(b"\xe0\x7f\x10\x00OW")
    return whole[:at] + extra + whole[at:]


def test_a_deflate_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.formats.dicom.element_scan.MAXIMUM_INFLATED", 1 << 20)
    whole = file_bytes(ct_dataset(0), DeflatedExplicitVRLittleEndian)
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(bytes(32 << 20)) + deflater.flush()
    group_2 = whole[: 132 + 12 + struct.unpack_from("<I", whole, 140)[0]]
    assert len(bomb) < 1 << 16
    with pytest.raises(RejectedError, match="grows beyond every reasonable size"):
        read_object(group_2 + bomb)
    assert read_object(whole).frames[0].header.rows == 4


@pytest.mark.parametrize("depth", [10, 10_000])
def test_nested_sequences_are_jumped_over_without_recursion(depth: int) -> None:
    file = before_pixels(_OPEN * depth + _CLOSE * depth)
    assert read_object(file).frames[0].header.columns == 6


@pytest.mark.parametrize("depth", [10, 10_000])
def test_nested_functional_groups_are_scanned_without_recursion(depth: int) -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    inside = _OPEN * depth + _CLOSE * depth
    groups = _PER_FRAME + b"\xff\xff\xff\xff" + item + inside + _CLOSE
    (frame,) = read_object(before_pixels(groups)).frames
    assert frame.header.image_position_patient == (-10.0, 20.0, 0.0)


@pytest.mark.parametrize(
    "extra",
    [
        _OPEN * 5,  # never closed
        _PER_FRAME + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xf0\xff\xff\xff",
        _PER_FRAME + b"\x10\x00\x00\x00" + b"\xfe\xff\x00\xe0\xff\xff\xff\x7f" + bytes(8),
        _PER_FRAME + b"\xf0\xff\xff\x7f",
        _PER_FRAME + b"\x08\x00\x00\x00" + b"\x08\x00\x18\x00\x00\x00\x00\x00",
    ],
)
def test_lengths_that_lie_are_refused(extra: bytes) -> None:
    with pytest.raises(RejectedError):
        read_object(before_pixels(extra))


def test_a_sequence_of_a_million_empty_items_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are counted against the frames that there are, one after another."""
    scanned = []

    def counted(*arguments: object, **options: object) -> object:
        scanned.append(1)
        return scan(*arguments, **options)  # type: ignore[arg-type]

    from hub.formats.dicom.element_scan import scan

    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000
    file = before_pixels(_PER_FRAME + struct.pack("<I", len(items)) + items)
    monkeypatch.setattr("hub.formats.dicom.element_scan.scan", counted)
    with pytest.raises(RejectedError, match="functional groups of 2 or more frames"):
        read_object(file)
    assert len(scanned) < 10


def test_items_of_a_sequence_are_found_in_each_of_its_forms() -> None:
    inner = Dataset()
    inner.CodeValue = "x"
    for undefined in (False, True):
        data_set = ct_dataset(0, PurposeOfReferenceCodeSequence=[inner, inner])
        data_set["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
        for item in data_set.PurposeOfReferenceCodeSequence:
            item.is_undefined_length_sequence_item = undefined
        for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
            elements = scan_file(file_bytes(data_set, syntax))
            found = [item.text(0x00080100) for item in elements.items(0x0040A170)]
            assert found == ["x", "x"]
    assert list(scan_file(ct_slice(0)).items(0x0040A170)) == []


def test_an_enhanced_object_cut_at_any_byte_is_read_or_refused() -> None:
    whole = enhanced_ct(ct_series(range(2)))
    for end in np.linspace(0, len(whole) - 1, 400, dtype=int):
        try:
            read_object(whole[:end])
        except CaidxError:
            continue
