from __future__ import annotations

import gzip
import io
import random
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from hub.errors import CaidxError, RejectedError, UnsuitableError
from hub.formats.images.image import read_single_image
from hub.formats.images.pixel_data import read_image
from hub.formats.images.volume import Volume, read_volume
from tests.unit.imaging import ct_dataset, ct_series, ct_slice, file_bytes

ALL_SYNTAXES = "dicom/ct-chest-one-slice-all-syntaxes"
LOSSLESS = (
    "1.2",
    "1.2.1",
    "1.2.1.99",
    "1.2.2",
    "1.2.4.57",
    "1.2.4.70",
    "1.2.4.80",
    "1.2.4.90",
    "1.2.5",
)
LOSSY_HU = {"1.2.4.50": 600.0, "1.2.4.51": 36.0, "1.2.4.81": 1.0, "1.2.4.91": 5.0}
"""Largest deviation in HU; .50 has 8 bits for 4000 HU and clips above them."""


def read(files: list[bytes], tolerance: float = 0.01) -> Volume:
    return read_volume(files, len(files), spacing_tolerance=tolerance)


def reasons(files: list[bytes]) -> str:
    with pytest.raises(UnsuitableError) as caught:
        read(files)
    return str(caught.value)


def hounsfield(volume: Volume) -> np.ndarray:
    assert volume.rescale is not None
    slope = volume.rescale.slope[:, None, None]
    return volume.stored_values * slope + volume.rescale.intercept[:, None, None]


def one_of(folder: Path, syntax: str) -> list[bytes]:
    (found,) = folder.glob(f"*_1.2.840.10008.{syntax}.dcm")
    return [found.read_bytes()]


# --- real data ---------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_lossless_syntax_gives_exactly_the_same_values(
    shared_data: Path, syntax: str
) -> None:
    folder = shared_data / ALL_SYNTAXES
    reference = hounsfield(read([(folder / "CTImage.dcm").read_bytes()]))
    assert reference.min() == -3024
    assert np.array_equal(hounsfield(read(one_of(folder, syntax))), reference)


@pytest.mark.parametrize(("syntax", "tolerance"), LOSSY_HU.items())
def test_lossy_syntaxes_stay_within_their_tolerance(
    shared_data: Path, syntax: str, tolerance: float
) -> None:
    folder = shared_data / ALL_SYNTAXES
    reference = hounsfield(read([(folder / "CTImage.dcm").read_bytes()]))
    difference = np.abs(hounsfield(read(one_of(folder, syntax))) - reference)
    assert 0 < difference.max() <= tolerance


@pytest.mark.parametrize("syntax", ["1.2.4.53", "1.2.4.55"])
def test_progressive_jpeg_is_refused_by_name(shared_data: Path, syntax: str) -> None:
    assert "progressive JPEG" in reasons(one_of(shared_data / ALL_SYNTAXES, syntax))


def test_a_tilted_uneven_head_is_refused_with_both_reasons(shared_data: Path) -> None:
    files = [path.read_bytes() for path in (shared_data / "dicom/ct-head-ge-tilt").glob("*.dcm")]
    said = reasons(files)
    assert "gantry tilt" in said
    assert "vary from 1.08 to 7.00 mm" in said


def test_the_liver_of_a_real_abdomen_has_the_reference_density(shared_data: Path) -> None:
    folder = shared_data / "dicom/ct-abdomen-totalsegmentator"
    files = []
    for path in sorted((folder / "example_ct_dicom").iterdir()):
        dataset = pydicom.dcmread(path)  # its UIDs were blanked
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        files.append(buffer.getvalue())
    volume = read(files)
    assert volume.stored_values.shape == (20, 512, 512)
    assert volume.spacing_mm == pytest.approx((2.0, 0.9765625, 0.9765625))
    labels = labels_on(volume, folder / "example_seg_dicom.nii.gz")
    assert hounsfield(volume)[labels == 5].mean() == pytest.approx(89.3, abs=0.05)


def labels_on(volume: Volume, nifti: Path) -> np.ndarray:
    """A NIfTI-1 label map on the grid of a volume: the header is 348 bytes (RAS, mm)."""
    data = gzip.decompress(nifti.read_bytes())
    shape = struct.unpack_from("<3h", data, 42)
    dtype = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2"}
    code = dtype[struct.unpack_from("<h", data, 70)[0]]
    offset = int(struct.unpack_from("<f", data, 108)[0])
    voxels = np.frombuffer(data, code, int(np.prod(shape)), offset).reshape(shape, order="F")
    ras = np.vstack([np.frombuffer(data, "<f4", 12, 280).reshape(3, 4), [0, 0, 0, 1]])
    to_nifti = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras) @ volume.geometry.affine
    corner = np.rint(to_nifti @ np.array([0, 0, 0, 1.0]))[:3].astype(int)
    steps = np.rint(to_nifti[:3, :3]).astype(int)
    indices = np.indices(volume.stored_values.shape).reshape(3, -1)
    i, j, k = steps @ indices + corner[:, None]
    return voxels[i, j, k].reshape(volume.stored_values.shape)


# --- geometry ----------------------------------------------------------------------------


def test_slices_in_any_order_come_out_in_the_order_of_their_positions() -> None:
    volume = read(ct_series([2, 0, 3, 1]))
    assert volume.stored_values[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert volume.sop_instance_uids[2] == "1.2.826.0.1.3"


def test_descending_slices_are_turned_without_a_copy() -> None:
    volume = read(ct_series([2, 1, 0]))
    assert volume.stored_values[:, 0, 0].tolist() == [0, 1, 2]
    assert volume.stored_values.base is not None


def test_indices_lead_to_the_position_in_the_patient() -> None:
    volume = read(ct_series(range(4)))
    (place,) = volume.geometry.map_indices_to_reference(np.array([[3, 2, 4]]))
    assert place.tolist() == [-10.0 + 4 * 0.5, 20.0 + 2 * 2.0, 9.0]
    assert volume.spacing_mm == pytest.approx((3.0, 2.0, 0.5))


def test_uneven_slices_are_refused_beyond_the_tolerance_only() -> None:
    files = [*ct_series([0, 1]), ct_slice(2, ImagePositionPatient=[-10.0, 20.0, 6.2])]
    assert "vary from 3.00 to 3.20 mm" in reasons(files)
    assert read(files, tolerance=0.1).stored_values.shape == (3, 4, 6)


def test_a_missing_slice_is_refused() -> None:
    assert "not equally spaced" in reasons(ct_series([0, 1, 2, 4]))


def test_two_slices_at_one_position_are_refused() -> None:
    again = ct_slice(1, SOPInstanceUID="1.2.826.0.1.99")
    assert "same position" in reasons([*ct_series(range(3)), again])


def test_sheared_slices_are_refused() -> None:
    files = [ct_slice(n, ImagePositionPatient=[-10.0, 20.0 + n, 3.0 * n]) for n in range(4)]
    assert "gantry tilt" in reasons(files)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not parallel"),
        ({"PixelSpacing": [2.0, 0.6]}, "differ in pixel spacing"),
        ({"ImagePositionPatient": None}, "1 of 3 images have no ImagePositionPatient"),
        ({"PixelSpacing": None}, "1 of 3 images have no PixelSpacing"),
        ({"FrameOfReferenceUID": "1.2.9"}, "more than one frame of reference"),
        ({"SeriesInstanceUID": "1.2.9"}, "more than one series"),
        ({"RescaleType": "US"}, "different units"),
        ({"RescaleSlope": None}, "no rescale slope"),
        ({"PhotometricInterpretation": "RGB"}, "not a grey-scale image (RGB)"),
    ],
)
def test_one_slice_that_differs_is_refused_with_the_reason(
    changes: dict[str, object], said: str
) -> None:
    assert said in reasons([*ct_series([0, 1]), ct_slice(2, **changes)])


def test_a_single_slice_takes_its_thickness_as_spacing_and_says_so() -> None:
    volume = read([ct_slice(0, SliceThickness=5.0)])
    assert volume.spacing_mm[0] == 5.0
    assert "thickness of 5 mm" in volume.warnings[0]
    assert "without SliceThickness" in reasons([ct_slice(0, SliceThickness=None)])


# --- pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "bits_stored", "high_bit", "representation", "expected"),
    [
        (0xF801, 12, 11, 1, -2047),  # overlay bits above the sign are dropped
        (0x0801, 12, 11, 1, -2047),  # the sign is extended
        (0xF801, 12, 11, 0, 0x801),
        (0x7FF0, 12, 15, 0, 0x7FF),  # the value sits in the upper bits
        (0x8010, 12, 15, 1, -2047),
        (0x8001, 16, 15, 1, -32767),
        (0x8001, 16, 15, 0, 0x8001),
    ],
)
def test_stored_bits_become_values(
    raw: int, bits_stored: int, high_bit: int, representation: int, expected: int
) -> None:
    file = ct_slice(
        0,
        np.full((4, 6), raw, np.uint16),
        BitsStored=bits_stored,
        HighBit=high_bit,
        PixelRepresentation=representation,
    )
    assert set(read_single_image(file).stored_values.ravel().tolist()) == {expected}


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_signed_compressed_pixels_keep_their_sign(syntax: str) -> None:
    values = np.arange(-12, 12, dtype=np.int16).reshape(4, 6)
    encoded = {
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(values, codecformat="j2k", level=0),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(values.view(np.uint16)),
    }[syntax]()
    dataset = ct_dataset(0, values, PixelData=encapsulate([bytes(encoded)]))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    image = read_single_image(file_bytes(dataset, syntax))
    assert np.array_equal(image.stored_values, values)


def test_a_compressed_image_that_claims_another_size_never_reaches_the_codec() -> None:
    huge = imagecodecs.jpegls_encode(np.zeros((50, 60), np.uint16))
    dataset = ct_dataset(0, PixelData=encapsulate([huge]))
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(RejectedError, match="50 x 60 x 1"):
        read([file_bytes(dataset, JPEGLSLossless)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Rows": 60000, "Columns": 60000}, "larger than any real image"),
        ({"Rows": 40}, "bytes of pixel data where"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelRepresentation": None}, "no PixelRepresentation"),
        ({"BitsStored": 14, "HighBit": 11}, "contradict each other"),
        ({"SOPInstanceUID": ""}, "lacks its SOP Instance"),
    ],
)
def test_inconsistent_images_are_rejected(changes: dict[str, object], said: str) -> None:
    dataset = ct_dataset(0)
    file = ct_slice(0, **changes) if "SOPInstanceUID" not in changes else file_bytes(dataset)
    if "SOPInstanceUID" in changes:
        file = file.replace(
            b"\x08\x00\x18\x00UI\x0e\x001.2.826.0.1.1\x00", b"\x08\x00\x18\x00UI\x00\x00"
        )
    with pytest.raises(RejectedError, match=said):
        read([file])


def test_a_header_with_nested_sequences_of_undefined_length_is_read() -> None:
    inner = pydicom.Dataset()
    inner.CodeValue = "x"
    middle = pydicom.Dataset()
    middle.PurposeOfReferenceCodeSequence = [inner]
    dataset = ct_dataset(0, ReferencedImageSequence=[middle, middle])
    for sequence in (dataset["ReferencedImageSequence"], middle["PurposeOfReferenceCodeSequence"]):
        sequence.is_undefined_length = True
        sequence.value[0].is_undefined_length_sequence_item = True
    assert read_image(file_bytes(dataset)).header.rows == 4


def test_damaged_files_raise_nothing_but_our_own_errors() -> None:
    chance = random.Random(7)
    whole = ct_slice(0)
    for _ in range(3000):
        data = bytearray(whole[: chance.randint(0, len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randint(1, 6)):
            if len(data) > 140:
                data[chance.randrange(132, len(data))] = chance.randrange(256)
        try:
            read([bytes(data)])
        except CaidxError:
            continue
