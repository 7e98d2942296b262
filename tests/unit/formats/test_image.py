"""Single images: presentation and colour against pydicom, spacing, absurd headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from hub.domain.model_input import ImageInput
from hub.domain.model_steps import Present
from hub.errors import CaidxError, RejectedError, UnsuitableError
from hub.formats.images.image import Image, read_single_image
from model_adapters.tensors.preprocessing import data_of, present
from tests.unit.imaging import ct_dataset, ct_slice, file_bytes

SAMPLES = Path(data_store.__file__).parent / "data"
RGB = ImageInput(kind="image", colour="rgb", frame="first")
CR = "1.2.840.10008.5.1.4.1.1.1"


def shown(file: bytes) -> Any:
    """(row, column) from 0, black, to 1, white."""
    return present(data_of(read_single_image(file)), Present(kind="present")).array


def sample(name: str) -> Path:
    found = SAMPLES / name
    return found if found.exists() else Path(str(get_testdata_file(name)))


# --- presentation ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(-600, 1500), (40.5, 400), (0, 1)])
def test_a_window_is_applied_as_pydicom_applies_it(
    function: str, centre: float, width: float
) -> None:
    stored = np.arange(-1200, 1200, 100, np.int16).reshape(4, 6)
    data_set = ct_dataset(
        0, stored, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function
    )
    hounsfield = apply_modality_lut(stored, data_set)
    low, high = data_set.RescaleIntercept - 32768, data_set.RescaleIntercept + 32767
    reference = (apply_voi_lut(hounsfield, data_set) - low) / (high - low)
    assert shown(file_bytes(data_set)) == pytest.approx(np.clip(reference, 0, 1), abs=1e-4)


def test_a_voi_lut_is_applied_as_pydicom_applies_it() -> None:
    file = sample("vlut_04.dcm")
    data_set = pydicom.dcmread(file)
    [table] = data_set.VOILUTSequence[:1]
    highest = (1 << table.LUTDescriptor[2]) - 1
    reference = apply_voi_lut(data_set.pixel_array, data_set, index=0) / highest
    assert shown(file.read_bytes()) == pytest.approx(reference, abs=1e-5)


def test_a_modality_lut_is_applied_as_pydicom_applies_it() -> None:
    data_set = pydicom.dcmread(sample("mlut_18.dcm"))
    values = apply_modality_lut(data_set.pixel_array, data_set)
    data_set.WindowCenter, data_set.WindowWidth = float(values.mean()), 500
    data_set.VOILUTFunction = "LINEAR_EXACT"
    expected = np.clip((values.astype(float) - float(values.mean())) / 500 + 0.5, 0, 1)
    assert shown(file_bytes(data_set)) == pytest.approx(expected, abs=1e-3)


def test_monochrome1_is_shown_the_other_way_round() -> None:
    window = {"WindowCenter": 0, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    stored = np.arange(0, 2400, 100, np.int16).reshape(4, 6)
    white_high = shown(ct_slice(0, stored, **window))
    white_low = shown(ct_slice(0, stored, **window, PhotometricInterpretation="MONOCHROME1"))
    assert white_high[0, 0] == 0.0
    assert white_low == pytest.approx(1 - white_high)


@pytest.mark.parametrize(
    ("interpretation", "shape", "contradicts"),
    [
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_a_presentation_shape_that_contradicts_the_polarity_is_refused(
    interpretation: str, shape: str, contradicts: bool
) -> None:
    file = ct_slice(
        0,
        WindowCenter=0,
        WindowWidth=100,
        PhotometricInterpretation=interpretation,
        PresentationLUTShape=shape,
    )
    if not contradicts:
        assert shown(file).shape == (4, 6)
        return
    with pytest.raises(UnsuitableError, match="contradicts"):
        shown(file)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({}, UnsuitableError, "neither a VOI LUT nor a window"),
        ({"WindowCenter": 40, "WindowWidth": 0}, RejectedError, "window of width 0"),
        ({"WindowCenter": 40, "WindowWidth": -5}, RejectedError, "window of width -5"),
        ({"WindowCenter": 4, "WindowWidth": 9, "VOILUTFunction": "X"}, UnsuitableError, "X"),
    ],
)
def test_a_presentation_that_cannot_be_is_refused(
    changes: dict[str, Any], error: type[CaidxError], said: str
) -> None:
    with pytest.raises(error, match=said):
        shown(ct_slice(0, **changes))


def test_a_lookup_table_that_is_shorter_than_it_says_is_refused() -> None:
    table = pydicom.Dataset()
    table.add_new(0x00283002, "US", [4096, 0, 16])
    table.add_new(0x00283006, "US", [1, 2, 3])
    with pytest.raises(RejectedError, match="has not got 4096 entries"):
        shown(ct_slice(0, VOILUTSequence=[table]))


# --- colour ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb.dcm",
        "SC_rgb_expb.dcm",
        "SC_rgb_2frame.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_2frame.dcm",
        "SC_ybr_full_uncompressed.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_jpeg_app14_dcmd.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_jls_lossy_sample.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "US1_J2KR.dcm",
        "US1_UNCR.dcm",
        "color-pl.dcm",
        "color-px.dcm",
        "color3d_jpeg_baseline.dcm",
    ],
)
def test_colours_are_those_that_pydicom_finds(name: str) -> None:
    data_set = pydicom.dcmread(sample(name))
    data_set.SeriesInstanceUID = data_set.get("SeriesInstanceUID") or "1.2.3"
    data_set.StudyInstanceUID = data_set.get("StudyInstanceUID") or "1.2.3.4"
    image = read_single_image(file_bytes(data_set, data_set.file_meta.TransferSyntaxUID), RGB)
    reference = pixel_array(sample(name), index=0)
    assert image.photometric_interpretation == "RGB"
    assert image.stored_values.shape == (3, *reference.shape[:2])
    ours = np.moveaxis(image.stored_values, 0, -1).astype(int)
    assert np.abs(ours - reference).max() <= 1, "rounding"
    assert np.abs(ours - reference).mean() < 0.6


@pytest.mark.parametrize(
    "name",
    ["OBXXXX1A.dcm", "OBXXXX1A_2frame.dcm", "OBXXXX1A_rle_2frame.dcm", "OBXXXX1A_expb.dcm"],
)
def test_palettes_are_applied_as_pydicom_applies_them(name: str) -> None:
    data_set = pydicom.dcmread(sample(name))
    indices = pixel_array(data_set, index=0)
    reference = pydicom.pixels.apply_color_lut(indices, data_set)
    if reference.max() > 255:
        reference = reference >> 8
    image = read_single_image(sample(name).read_bytes(), RGB)
    assert np.array_equal(np.moveaxis(image.stored_values, 0, -1), reference)


def test_a_segmented_palette_is_refused_by_name() -> None:
    with pytest.raises(UnsuitableError, match="segmented colour palette"):
        read_single_image(sample("gdcm-US-ALOKA-16.dcm").read_bytes(), RGB)


def test_colour_becomes_grey_where_the_manifest_says_so() -> None:
    file = sample("SC_rgb.dcm")
    image = read_single_image(file.read_bytes(), ImageInput(kind="image", colour="luminance"))
    reference = pixel_array(file) @ [0.299, 0.587, 0.114]
    assert image.photometric_interpretation == "MONOCHROME2"
    assert np.abs(image.stored_values - reference).max() <= 0.5001


@pytest.mark.parametrize("name", ["SC_rgb.dcm", "OBXXXX1A.dcm", "US1_J2KR.dcm"])
def test_colour_is_refused_where_grey_scale_is_wanted(name: str) -> None:
    with pytest.raises(UnsuitableError, match="not a grey-scale image"):
        read_single_image(sample(name).read_bytes())


@pytest.mark.parametrize("name", ["SC_rgb_16bit.dcm", "SC_rgb_32bit.dcm"])
def test_deep_colour_is_refused_with_its_bits(name: str) -> None:
    with pytest.raises(UnsuitableError, match=r"pixels of (16|32) bits; 8 are read in colour"):
        read_single_image(sample(name).read_bytes(), RGB)


@pytest.mark.parametrize("name", ["liver.dcm", "rtdose.dcm"])
def test_objects_that_are_no_pictures_are_refused_with_their_bits(name: str) -> None:
    with pytest.raises(UnsuitableError, match=r"pixels of (1|32) bits"):
        read_single_image(sample(name).read_bytes(), RGB)


def test_every_sample_is_read_or_refused_and_never_more() -> None:
    """All that pydicom ships, malformed files among it."""
    read = 0
    folders = (SAMPLES, Path(str(get_testdata_file("CT_small.dcm"))).parent)
    for file in sorted(path for folder in folders for path in folder.glob("*.dcm")):
        if file.stat().st_size > 1_000_000:
            continue
        for colour in ("refuse", "rgb", "luminance"):
            wanted = ImageInput(kind="image", colour=colour, frame="first")  # type: ignore[arg-type]
            try:
                read += read_single_image(file.read_bytes(), wanted).stored_values.size > 0
            except CaidxError:
                continue
    assert read > 100


# --- millimetres -------------------------------------------------------------------------


def spacing(wanted: Any = "patient", **changes: Any) -> Image:
    changes = {"SOPClassUID": CR, "PixelSpacing": None, **changes}
    return read_single_image(ct_slice(0, **changes), ImageInput(kind="image", spacing=wanted))


@pytest.mark.parametrize(
    ("changes", "in_patient", "at_detector"),
    [
        ({}, None, None),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, None, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.2, 0.1]}, None, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.18, 0.09]}, (0.18, 0.09), None),
        ({"PixelSpacing": [0.2, 0.1]}, None, (0.2, 0.1)),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"}, (0.2, 0.1), None),
    ],
)
def test_the_detector_is_never_passed_off_as_the_patient(
    changes: dict[str, Any], in_patient: Any, at_detector: Any
) -> None:
    patient, detector = spacing(**changes), spacing("detector", **changes)
    assert patient.spacing_mm == in_patient
    assert not patient.warnings
    assert detector.spacing_mm == (at_detector or in_patient)
    assert bool(detector.warnings) == (at_detector is not None)
    if at_detector:
        assert "at the detector" in patient.no_spacing


def test_cross_sections_have_millimetres_as_they_are() -> None:
    assert read_single_image(ct_slice(0)).spacing_mm == (2.0, 0.5)
