"""Enhanced multi-frame objects: the same numbers as the classic slices that they hold."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import data_store
import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from hub.domain.model_input import ImageInput
from hub.errors import CaidxError, RejectedError, UnsuitableError
from hub.formats.images.image import read_single_image
from hub.formats.images.pixel_data import read_object
from hub.formats.images.volume import Volume, read_volume
from tests.unit.enhanced import enhanced_ct
from tests.unit.imaging import ct_dataset, ct_series, ct_slice, file_bytes

SAMPLES = Path(data_store.__file__).parent / "data"


def read(*files: bytes) -> Volume:
    return read_volume(iter(files), len(files), spacing_tolerance=0.01)


def slices(count: int = 5, **changes: Any) -> list[bytes]:
    """Slices that differ in every pixel, with a rescale of their own."""
    generator = np.random.default_rng(3)
    return [
        ct_slice(n, generator.integers(-900, 900, (4, 6), dtype=np.int16), **changes)
        for n in range(count)
    ]


def assert_same_volume(got: Volume, expected: Volume) -> None:
    assert np.array_equal(got.stored_values, expected.stored_values)
    assert np.allclose(got.geometry.affine, expected.geometry.affine)
    assert got.rescale is not None
    assert expected.rescale is not None
    assert got.rescale.type == expected.rescale.type
    assert np.array_equal(got.rescale.slope, expected.rescale.slope)
    assert np.array_equal(got.rescale.intercept, expected.rescale.intercept)


# --- volumes -----------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("order", [None, [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_an_enhanced_object_is_the_volume_of_its_slices(
    order: list[int] | None, shared: bool
) -> None:
    classic = read(*slices())
    enhanced = read(enhanced_ct(slices(), order=order, shared=shared))
    assert_same_volume(enhanced, classic)
    numbers = [frame.number for frame in enhanced.frames]
    assert numbers == [(order or range(5)).index(place) + 1 for place in range(5)]
    assert len(set(enhanced.sop_instance_uids)) == 1
    assert classic.frames == ()


def test_a_rescale_that_differs_from_frame_to_frame_is_that_of_each_frame() -> None:
    files = [ct_slice(n, RescaleSlope=n + 1, RescaleIntercept=-n) for n in range(3)]
    enhanced = read(enhanced_ct(files, shared=True))
    assert enhanced.rescale is not None
    assert enhanced.rescale.slope.tolist() == [1, 1, 1], "what is shared holds for all"
    data_set = pydicom.dcmread(io.BytesIO(enhanced_ct(files)))
    for n, groups in enumerate(data_set.PerFrameFunctionalGroupsSequence):
        own = pydicom.Dataset()
        own.RescaleSlope, own.RescaleIntercept, own.RescaleType = n + 1, -n, "HU"
        groups.PixelValueTransformationSequence = [own]
    enhanced = read(file_bytes(data_set))
    assert enhanced.rescale is not None
    assert enhanced.rescale.slope.tolist() == [1, 2, 3], "a frame's own goes before"
    assert enhanced.rescale.intercept.tolist() == [0, -1, -2]


def _jpeg_2000(plane: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(plane, codecformat="j2k", level=0))


def _jpeg_ls(plane: Any) -> bytes:
    return bytes(imagecodecs.jpegls_encode(plane.view(np.uint16)))


def _rle(plane: Any) -> bytes:
    """PS3.5 annex G with literal runs only: high bytes, then low bytes."""
    raw = plane.view("<u2")
    parts = []
    for byte in (raw >> 8, raw & 0xFF):
        values = byte.astype(np.uint8).tobytes()
        parts.append(bytes([len(values) - 1]) + values + b"\0" * ((len(values) + 1) % 2))
    offsets = [64, 64 + len(parts[0])]
    return struct.pack("<16I", 2, *offsets, *[0] * 13) + b"".join(parts)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [(JPEG2000Lossless, _jpeg_2000), (JPEGLSLossless, _jpeg_ls), (RLELossless, _rle)],
)
def test_compressed_frames_are_those_of_the_slices(syntax: str, encode: Any) -> None:
    enhanced = enhanced_ct(slices(), compress=(syntax, encode))
    assert_same_volume(read(enhanced), read(*slices()))


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_frames_of_several_fragments_are_found(table: str) -> None:
    planes = [pydicom.dcmread(io.BytesIO(file)).pixel_array for file in slices()]
    frames = [_jpeg_2000(plane) for plane in planes]
    data_set = pydicom.dcmread(io.BytesIO(enhanced_ct(slices())))
    data_set.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=table == "basic")
    if table == "extended":
        # each frame is two items with headers of 8 bytes
        starts = np.cumsum([0, *(len(f) + len(f) % 2 + 16 for f in frames[:-1])])
        data_set.ExtendedOffsetTable = np.asarray(starts, "<u8").tobytes()
        lengths = np.asarray([len(frame) for frame in frames], "<u8")
        data_set.ExtendedOffsetTableLengths = lengths.tobytes()
    data_set["PixelData"].VR = "OB"
    data_set["PixelData"].is_undefined_length = True
    assert_same_volume(read(file_bytes(data_set, JPEG2000Lossless)), read(*slices()))


def test_sequences_of_undefined_length_are_read_like_those_with_one() -> None:
    data_set = pydicom.dcmread(io.BytesIO(enhanced_ct(slices())))
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        sequence = data_set[keyword]
        sequence.is_undefined_length = True
        for item in sequence.value:
            item.is_undefined_length_sequence_item = True
            for nested in item:
                nested.is_undefined_length = True
    assert_same_volume(read(file_bytes(data_set)), read(*slices()))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_functional_groups_are_read_in_every_data_encoding(syntax: str) -> None:
    data_set = pydicom.dcmread(io.BytesIO(enhanced_ct(slices())))
    assert_same_volume(read(file_bytes(data_set, syntax)), read(*slices()))


def test_an_enhanced_object_of_one_frame_lies_where_its_groups_say() -> None:
    (frame,) = read(enhanced_ct(slices(1))).frames
    assert frame.image_position_patient == (-10.0, 20.0, 0.0)
    assert frame.pixel_spacing == (2.0, 0.5)


def test_several_objects_of_one_series_become_one_volume() -> None:
    files = slices(6)
    halves = enhanced_ct(files[3:]), enhanced_ct(files[:3])
    whole = read(*halves)
    assert_same_volume(whole, read(*files))
    assert [frame.number for frame in whole.frames] == [1, 2, 3, 1, 2, 3]
    assert len(set(whole.sop_instance_uids)) == 2
    mixed = read(files[0], files[1], enhanced_ct(files[2:4]), files[4], files[5])
    assert_same_volume(mixed, read(*files))


def test_a_real_enhanced_ct_is_read_as_highdicom_reads_it() -> None:
    file = SAMPLES / "eCT_Supplemental.dcm"
    volume = read(file.read_bytes())
    reference = highdicom.imread(file).get_volume(apply_real_world_transform=False)
    assert volume.stored_values.shape == (2, 512, 512)
    assert volume.spacing_mm == pytest.approx(reference.spacing)
    # highdicom may count the slices from the other end
    theirs = reference.match_geometry(volume.geometry)
    assert volume.rescale is not None
    ours = volume.stored_values * volume.rescale.slope[:, None, None]
    ours = ours + volume.rescale.intercept[:, None, None]
    assert np.array_equal(ours, theirs.array)


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("emri_small.dcm", "1.2.840.10008.1.2.1"),
        ("emri_small_big_endian.dcm", "1.2.840.10008.1.2.2"),
        ("emri_small_RLE.dcm", RLELossless),
        ("emri_small_jpeg_2k_lossless.dcm", JPEG2000Lossless),
        ("emri_small_jpeg_ls_lossless.dcm", JPEGLSLossless),
    ],
)
def test_every_frame_of_a_real_enhanced_mr_in_every_syntax(name: str, syntax: str) -> None:
    data = (SAMPLES / name).read_bytes()
    reference = pydicom.dcmread(SAMPLES / "emri_small.dcm").pixel_array
    assert read_object(data).frames[0].header.transfer_syntax_uid == syntax
    for number in (1, 5, 10):
        image = read_single_image(data, ImageInput(kind="image", frame=number))
        assert np.array_equal(image.stored_values, reference[number - 1])
        assert image.frames[0].number == number
    with pytest.raises(UnsuitableError, match="10 of 10 images have no ImagePositionPatient"):
        read(data)


# --- which frame -------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "stored"), [("first", 1), ("middle", 5), ("last", 10), (7, 7)])
def test_the_frame_that_the_manifest_names_is_read(wanted: Any, stored: int) -> None:
    data = (SAMPLES / "emri_small.dcm").read_bytes()
    image = read_single_image(data, ImageInput(kind="image", frame=wanted))
    assert image.frames[0].number == stored


def test_a_frame_that_is_not_there_is_refused() -> None:
    data = (SAMPLES / "emri_small.dcm").read_bytes()
    with pytest.raises(UnsuitableError, match="reads frame 11, the image has 10"):
        read_single_image(data, ImageInput(kind="image", frame=11))
    with pytest.raises(UnsuitableError, match="multi-frame image \\(10 frames\\)"):
        read_single_image(data)


# --- refused -----------------------------------------------------------------------------


def test_frames_at_one_position_are_no_volume() -> None:
    """Phases of a heart, echoes, b-values: which of them is meant is not ours to say."""
    files = [*slices(3), *slices(3)]
    with pytest.raises(UnsuitableError, match="same position"):
        read(enhanced_ct(files))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NumberOfFrames": 4}, "functional groups of 5 or more frames, the object has 4"),
        ({"NumberOfFrames": 6}, "240 bytes of pixel data where 288 are needed"),
        ({"NumberOfFrames": 0}, "0 frames"),
        ({"NumberOfFrames": -3}, "-3 frames"),
        ({"NumberOfFrames": 1_000_000}, "1000000 frames"),
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 1_000_000}, "larger than any real"),
        ({"Rows": 9000, "Columns": 9000, "NumberOfFrames": 5}, "bytes of pixel data where"),
    ],
)
def test_more_than_the_bytes_can_hold_is_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        read(enhanced_ct(slices(), **changes))


def test_compressed_claims_are_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("memory was asked for")

    syntax = (JPEG2000Lossless, _jpeg_2000)
    huge = enhanced_ct(slices(), compress=syntax, Rows=9000, Columns=9000)
    many = enhanced_ct(slices(), compress=syntax, NumberOfFrames=60000)
    monkeypatch.setattr("hub.formats.images.volume.np.empty", never)
    with pytest.raises(RejectedError, match="compressed bytes cannot hold 810000000 bytes"):
        read(huge)
    with pytest.raises(RejectedError, match="holds 5 frames, not 60000"):
        read(many)


@pytest.mark.parametrize("count", ["nan", "inf", "1e400", "x", "2.5"])
def test_a_number_of_frames_that_is_none_is_refused(count: str) -> None:
    whole = ct_slice(0, NumberOfFrames=12)
    at = whole.index(b"\x28\x00\x08\x00IS")
    (length,) = struct.unpack_from("<H", whole, at + 6)
    text = count.encode().ljust(len(count) + len(count) % 2)
    data = whole[: at + 6] + struct.pack("<H", len(text)) + text + whole[at + 8 + length :]
    with pytest.raises(RejectedError):
        read(data)


def test_damaged_enhanced_objects_raise_nothing_but_our_own_errors() -> None:
    generator = np.random.default_rng(11)
    whole = enhanced_ct(slices(3))
    for _ in range(1500):
        data = bytearray(whole)
        for at in generator.integers(132, len(data), generator.integers(1, 6)):
            data[at] = generator.integers(0, 256)
        try:
            read(bytes(data))
        except CaidxError:
            continue


def test_classic_slices_are_read_as_before() -> None:
    volume = read(*ct_series(range(3)))
    assert volume.frames == ()
    assert read_object(file_bytes(ct_dataset(0))).frames[0].header.frame_number == 1
