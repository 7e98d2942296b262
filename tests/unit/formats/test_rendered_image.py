from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate

from hub.errors import RejectedError
from hub.formats.images.rendered_image import rendered
from tests.unit.enhanced import enhanced_ct
from tests.unit.imaging import ct_dataset, ct_slice, file_bytes

RAMP = np.arange(24, dtype=np.int16).reshape(4, 6) * 100


def shown(data: bytes, frame: int = 1) -> Any:
    found = rendered(data, frame)
    shape = (found.rows, found.columns) + ((3,) if found.samples == 3 else ())
    return np.frombuffer(found.pixels, np.uint8).reshape(shape)


def test_the_window_is_applied_after_the_rescale() -> None:
    got = shown(ct_slice(1, RAMP, WindowCenter=-24, WindowWidth=2001, RescaleIntercept=-1024))
    expected = np.clip((RAMP - 1024 + 24 + 0.5) / 2000 + 0.5, 0, 1) * 255
    assert np.abs(got - expected).max() <= 1


def test_an_image_without_a_window_shows_the_range_of_its_values() -> None:
    got = shown(ct_slice(1, RAMP))
    assert got.min() == 0
    assert got.max() == 255
    assert (np.diff(got.ravel().astype(int)) >= 0).all()
    assert shown(ct_slice(1, np.full((4, 6), 7, np.int16))).shape == (4, 6)


def test_the_smallest_value_of_monochrome1_is_white() -> None:
    window = {"WindowCenter": -24, "WindowWidth": 2001}
    plain = shown(ct_slice(1, RAMP, **window))
    inverse = shown(ct_slice(1, RAMP, PhotometricInterpretation="MONOCHROME1", **window))
    assert inverse[0, 0] == 255
    assert np.abs(255 - inverse.astype(int) - plain).max() <= 1


def test_colour_stays_as_it_is() -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    dataset = ct_dataset(1, np.zeros((4, 6), np.uint8))
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.PixelData = pixels.tobytes()
    assert np.array_equal(shown(file_bytes(dataset)), pixels)


def test_a_frame_of_many_is_chosen_by_its_number() -> None:
    slices = [ct_slice(number, np.roll(RAMP, 5 * number)) for number in range(3)]
    volume = enhanced_ct(slices)
    for number, one in enumerate(slices, start=1):
        assert np.array_equal(shown(volume, number), shown(one))
    assert not np.array_equal(shown(volume, 1), shown(volume, 2))
    with pytest.raises(RejectedError, match="3 frames"):
        rendered(volume, 4)


def jpeg_2000(cut: int | None = None) -> bytes:
    dataset = ct_dataset(1, RAMP.astype(np.uint16), WindowCenter=-24, WindowWidth=2001)
    stream = imagecodecs.jpeg2k_encode(RAMP.astype(np.uint16), level=0, codecformat="j2k")
    dataset.PixelData = encapsulate([stream[:cut]])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return file_bytes(dataset, "1.2.840.10008.1.2.4.90")


def test_jpeg_2000_is_decoded() -> None:
    plain = ct_slice(1, RAMP.astype(np.uint16), WindowCenter=-24, WindowWidth=2001)
    assert np.array_equal(shown(jpeg_2000()), shown(plain))


@pytest.mark.parametrize("data", [b"", b"no DICOM", jpeg_2000(50)])
def test_what_cannot_be_decoded_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedError):
        rendered(data)


def test_what_contradicts_itself_is_refused() -> None:
    """Whether white is high or low is not guessed, in a picture least of all."""
    data = ct_slice(1, RAMP, PresentationLUTShape="INVERSE", WindowCenter=0, WindowWidth=100)
    with pytest.raises(RejectedError, match="contradicts"):
        rendered(data)
