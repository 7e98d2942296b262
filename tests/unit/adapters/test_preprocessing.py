from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hub.domain.coding import Code
from hub.domain.model_steps import (
    Clip,
    CropOrPad,
    Monochrome2,
    Normalise,
    RankNormalise,
    Reorient,
    Resample,
    ResampleRate,
    Rescale,
    Resize,
    SelectLead,
    TakeSeconds,
    Window,
)
from hub.errors import UnsuitableError
from hub.formats.images.image import Image, read_single_image
from hub.formats.images.volume import Volume, read_volume
from hub.formats.images.waveform import Waveform
from model_adapters.tensors import preprocessing as steps
from model_adapters.tensors.preprocessing import Data, data_of
from model_adapters.tensors.regions import source_labels
from tests.unit.adapters.test_postprocessing import region_spec
from tests.unit.imaging import ct_slice


def volume(shape: tuple[int, int, int] = (2, 4, 6)) -> Volume:
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return read_volume(
        [ct_slice(n, plane) for n, plane in enumerate(values)], shape[0], spacing_tolerance=0.01
    )


def image(pixels: Any, **changes: Any) -> Image:
    return read_single_image(ct_slice(0, np.asarray(pixels, np.int16), **changes))


def wave(samples: Any, frequency: float = 10.0) -> Waveform:
    leads = (Code("5.6.3-9-1", "SCPECG", "Lead I"), Code("2:2", "MDC", "Lead II"))
    values = np.asarray(samples, np.float32)
    return Waveform(values, frequency, leads, "1.1", "1.2", "1.3", "ECG")


def test_rescale_uses_slope_and_intercept_of_each_slice() -> None:
    files = [ct_slice(0), ct_slice(1, RescaleSlope=2, RescaleIntercept=5)]
    source = read_volume(files, 2, spacing_tolerance=0.01)
    result = steps.rescale(data_of(source), Rescale(kind="rescale", unit="HU")).array
    assert result.dtype == np.float32
    assert result[:, 0, 0].tolist() == [-1024.0, 7.0]


def test_rescale_accepts_an_absent_type_as_hounsfield_on_ct_only() -> None:
    step = Rescale(kind="rescale", unit="HU")
    assert steps.rescale(data_of(image([[3]], RescaleType=None)), step).array.tolist() == [
        [-1021.0]
    ]
    with pytest.raises(UnsuitableError, match="unnamed unit"):
        steps.rescale(data_of(image([[3]], RescaleType=None, Modality="MR")), step)
    with pytest.raises(UnsuitableError, match="in US, not HU"):
        steps.rescale(data_of(image([[3]], RescaleType="US")), step)
    without = image([[3]], RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(UnsuitableError, match="no rescale"):
        steps.rescale(data_of(without), step)


def test_monochrome1_is_turned_round() -> None:
    step = Monochrome2(kind="monochrome2")
    turned = steps.monochrome2(
        data_of(image([[1, 5]], PhotometricInterpretation="MONOCHROME1")), step
    )
    assert turned.array.tolist() == [[-2.0, -6.0]], "-32768 + 32767 - x"
    assert steps.monochrome2(data_of(image([[1, 5]])), step).array.tolist() == [[1, 5]]


def test_window_clip_and_normalise() -> None:
    source = image([[0, 50, 100, 200]])
    windowed = steps.window(data_of(source), Window(kind="window", centre=75, width=50))
    assert windowed.array.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    clipped = steps.clip(data_of(source), Clip(kind="clip", minimum=10, maximum=90))
    assert clipped.array.tolist() == [[10.0, 50.0, 90.0, 90.0]]
    constant = Normalise(kind="normalise", mean=50, standard_deviation=25)
    assert steps.normalise(data_of(source), constant).array.tolist() == [[-2.0, 0.0, 2.0, 6.0]]
    by_input = steps.normalise(data_of(image([[2, 4]])), Normalise(kind="normalise", per="input"))
    assert by_input.array.tolist() == [[-1.0, 1.0]]
    assert source.stored_values.tolist() == [[0, 50, 100, 200]]
    with pytest.raises(UnsuitableError, match="one value everywhere"):
        steps.normalise(data_of(image([[2, 2]])), Normalise(kind="normalise", per="input"))


def test_reorient_agrees_with_highdicom() -> None:
    source = volume()
    for orientation in ("FPL", "HAR", "RFP", "LHA", "ARF"):
        result = steps.reorient(data_of(source), Reorient(kind="reorient", to=orientation))
        whole = source.geometry.with_array(source.stored_values)
        assert np.array_equal(result.array, whole.to_patient_orientation(orientation).array)
        expected = whole.to_patient_orientation(orientation).spacing
        assert result.spacing_mm == pytest.approx(tuple(expected))


def test_resample_interpolates_between_voxel_centres() -> None:
    source = image([[0, 10, 20, 30]], PixelSpacing=[1.0, 1.0])
    coarse = steps.resample(data_of(source), Resample(kind="resample", spacing_mm=(1.0, 2.0)))
    assert coarse.array.tolist() == [[5.0, 25.0]]
    fine = steps.resample(data_of(source), Resample(kind="resample", spacing_mm=(1.0, 0.5)))
    assert fine.array.tolist() == [[0.0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30.0]]
    assert fine.spacing_mm == (1.0, 0.5)
    unknown = image([[0, 1]], PixelSpacing=None)
    with pytest.raises(UnsuitableError, match="no pixel spacing"):
        steps.resample(data_of(unknown), Resample(kind="resample", spacing_mm=(1.0, 2.0)))


def test_resize_keeps_pixel_centres_at_half_indices() -> None:
    result = steps.resize(data_of(image([[0, 10, 20, 30]])), Resize(kind="resize", shape=(1, 2)))
    assert result.array.tolist() == [[5.0, 25.0]]


def test_crop_or_pad_works_from_the_centre() -> None:
    step = CropOrPad(kind="crop_or_pad", shape=(3, 2), value=-1)
    assert steps.crop_or_pad(data_of(image([[1, 2, 3, 4]])), step).array.tolist() == [
        [-1, -1],
        [2, 3],
        [-1, -1],
    ]


def test_labels_find_their_way_back_through_any_chain() -> None:
    source = volume((5, 6, 8))
    data = steps.reorient(data_of(source), Reorient(kind="reorient", to="RFP"))
    data = steps.crop_or_pad(data, CropOrPad(kind="crop_or_pad", shape=(6, 7, 4)))
    spacing = tuple(value / 2 for value in data.spacing_mm or ())
    data = steps.resample(data, Resample(kind="resample", spacing_mm=spacing))
    seen = np.zeros(source.stored_values.shape, bool)
    seen[:, 1:5, 1:7] = True  # 4 of 6 rows and 6 of 8 columns were left, all slices
    everywhere = np.ones(data.array.shape, np.uint8)
    marked = source_labels(region_spec("slice row column"), everywhere, data)
    assert np.array_equal(marked, np.where(seen, 1, 0))


def test_a_single_marked_voxel_returns_to_its_place() -> None:
    source = volume((3, 4, 6))
    data = steps.reorient(data_of(source), Reorient(kind="reorient", to="RFP"))
    marked = (data.array == 31).astype(np.uint8)[np.newaxis]
    labels = source_labels(region_spec("1 slice row column"), marked, data)
    assert np.array_equal(labels, (source.stored_values == 31).astype(np.uint8))


def test_ranks_reach_from_minus_one_to_one_and_ties_share() -> None:
    data = Data(np.array([5.0, 1.0, 1.0, 9.0, 7.0], np.float32), wave([[0]]), (), 10.0)
    result = steps.rank_normalise(data, RankNormalise(kind="rank_normalise")).array
    assert result.tolist() == [0.0, -0.75, -0.75, 1.0, 0.5]


def test_a_lead_is_found_by_either_of_its_codes() -> None:
    data = data_of(wave([[1, 2], [3, 4]]))
    for code in (Code("2:1", "MDC", "Lead I"), Code("5.6.3-9-1", "SCPECG", "Lead I")):
        selected = steps.select_lead(data, SelectLead(kind="select_lead", lead=code))
        assert selected.array.tolist() == [1.0, 2.0]
    v1 = Code("2:3", "MDC", "Lead V1")
    with pytest.raises(UnsuitableError, match="no Lead V1"):
        steps.select_lead(data, SelectLead(kind="select_lead", lead=v1))


def test_the_rate_changes_and_what_is_too_fast_for_it_is_filtered_out() -> None:
    time = np.arange(2000) / 1000
    slow, fast = np.sin(2 * np.pi * 5 * time), np.sin(2 * np.pi * 480 * time)
    step = ResampleRate(kind="resample_rate", frequency_hz=500)
    result = steps.resample_rate(data_of(wave([slow + fast], 1000.0)), step)
    assert result.array.shape == (1, 1000)
    assert result.frequency_hz == 500
    assert np.abs(result.array[0, 20:-20] - slow[::2][20:-20]).max() < 0.01
    up = steps.resample_rate(
        data_of(wave([[0.0, 1.0]], 10.0)), ResampleRate(kind="resample_rate", frequency_hz=20)
    )
    assert up.array.tolist() == [[0.0, 0.5, 1.0, 1.0]]


def test_a_recording_that_is_too_short_is_unsuitable() -> None:
    data = data_of(wave([np.arange(30)]))
    assert steps.take_seconds(data, TakeSeconds(kind="take_seconds", seconds=2)).array.shape == (
        1,
        20,
    )
    with pytest.raises(UnsuitableError, match=r"3\.0 s recorded, 4 s are needed"):
        steps.take_seconds(data, TakeSeconds(kind="take_seconds", seconds=4))
