"""Fractional and label map segmentations, read back by other people's software."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from hub.domain.delivery import Document
from hub.domain.finding import Region
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.errors import RejectedError
from hub.formats.seg import binary as dicom_seg
from hub.formats.seg import fractional as seg_fractional
from hub.formats.seg import labelmap as seg_labelmap
from hub.formats.seg.reading import read_segmentation
from tests import builders
from tests.unit.formats.encoded import CONTEXT, validator_errors
from tests.unit.formats.images_of_itk import read_nrrd, run_dcmqi

FORMS = (dicom_seg, seg_fractional, seg_labelmap)


def with_region(
    request: InferenceRequest, *, nested: bool = True, seed: int = 3
) -> InferenceResult:
    """Random labels of both segments, an empty plane, and probabilities beside them."""
    images = request.series[0].instances
    shape = (len(images), images[0].rows or 0, images[0].columns or 0)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, shape, dtype=np.uint8)
    labels[0] = 0
    probabilities = generator.integers(0, 256, (2, *shape), dtype=np.uint8)
    probabilities[1, -1] = 0
    region = builders.lung_region(request, labels)
    region = replace(region, probabilities=probabilities.tobytes())
    region = region if nested else replace(region, includes=())
    return replace(builders.assessed(request), region=region)


def encoded(form: Any, request: InferenceRequest, result: InferenceResult) -> Document:
    document = form.encode(request, result, builders.model_card(), CONTEXT, {})
    assert document is not None
    return document  # type: ignore[no-any-return]


def region_of(result: InferenceResult) -> Region:
    assert result.region is not None
    return result.region


def labels_of(result: InferenceResult) -> Any:
    region = region_of(result)
    shape = (len(region.sop_instance_uids), region.rows, region.columns)
    return np.frombuffer(region.labels, np.uint8).reshape(shape)


def probabilities_of(result: InferenceResult) -> Any:
    region = region_of(result)
    shape = (2, len(region.sop_instance_uids), region.rows, region.columns)
    return np.frombuffer(region.probabilities, np.uint8).reshape(shape)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (13, 9), (1, 1)])
def test_probabilities_come_back_exactly(rows: int, columns: int) -> None:
    request = builders.request_for(builders.chest_ct_study(5, rows=rows, columns=columns))
    result = with_region(request)
    content = encoded(seg_fractional, request, result).content
    found = highdicom.seg.segread(BytesIO(content))
    assert found.segmentation_fractional_type.value == "PROBABILITY"
    got = found.get_pixels_by_source_instance(
        list(region_of(result).sop_instance_uids),
        assert_missing_frames_are_empty=True,
        rescale_fractional=False,
    )
    assert np.array_equal(np.moveaxis(got, -1, 0), probabilities_of(result))
    assert pydicom.dcmread(BytesIO(content)).MaximumFractionalValue == 255
    ours = read_segmentation(content)
    filled = probabilities_of(result)[1].reshape(5, -1).max(axis=1) > 0
    assert np.array_equal(ours.mask_of(2), probabilities_of(result)[1][filled])


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (13, 9), (1, 1)])
def test_a_label_map_comes_back_exactly(rows: int, columns: int) -> None:
    request = builders.request_for(builders.chest_ct_study(5, rows=rows, columns=columns))
    result = with_region(request, nested=False)
    content = encoded(seg_labelmap, request, result).content
    found = highdicom.seg.segread(BytesIO(content))
    got = found.get_pixels_by_source_instance(
        list(region_of(result).sop_instance_uids),
        assert_missing_frames_are_empty=True,
        combine_segments=True,
    )
    assert np.array_equal(got, labels_of(result))
    assert list(found.segment_numbers) == [1, 2]
    ours = read_segmentation(content)
    assert np.array_equal(ours.mask_of(2), labels_of(result)[1:] == 2)


def test_probabilities_go_with_their_segments_and_frames_with_their_numbers() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = with_region(request)
    region = region_of(result)
    turned = replace(
        region,
        segments=region.segments[::-1],
        probabilities=probabilities_of(result)[::-1].tobytes(),
    )
    same = encoded(seg_fractional, request, replace(result, region=turned)).content
    assert same == encoded(seg_fractional, request, result).content
    found = pydicom.dcmread(BytesIO(same))
    numbers = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert numbers == sorted(numbers)


def test_frames_of_a_label_map_are_in_the_order_of_their_places() -> None:
    request = builders.request_for(builders.chest_ct_study(4))
    content = encoded(seg_labelmap, request, with_region(request)).content
    found = pydicom.dcmread(BytesIO(content))
    assert [
        (
            frame.FrameContentSequence[0].DimensionIndexValues,
            frame.PlanePositionSequence[0].ImagePositionPatient[2],
        )
        for frame in found.PerFrameFunctionalGroupsSequence
    ] == [(2, -290.0), (3, -285.0), (4, -280.0)]


def test_the_background_of_a_label_map_is_no_segment() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    content = encoded(seg_labelmap, request, with_region(request, nested=False)).content
    found = pydicom.dcmread(BytesIO(content))
    assert (found.PixelPaddingValue, found.SegmentsOverlap) == (0, "NO")
    background = found.SegmentSequence[0]
    assert (background.SegmentNumber, background.SegmentLabel) == (0, "Background")
    assert background.SegmentedPropertyTypeCodeSequence[0].CodeValue == "125040"
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"


def test_what_nesting_leaves_of_a_segment_is_not_called_the_whole() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = with_region(request)
    found = pydicom.dcmread(BytesIO(encoded(seg_labelmap, request, result).content))
    outer, inner = found.SegmentSequence[1:]
    assert outer.SegmentLabel == "Lungs without Low attenuation areas"
    assert "TrackingUID" not in outer
    assert "TrackingID" not in outer
    assert inner.SegmentLabel == "Low attenuation areas"
    assert inner.TrackingUID == region_of(result).segments[1].tracking_uid
    assert seg_labelmap.whole_segments(region_of(result)) == {2}
    apart = with_region(request, nested=False)
    assert seg_labelmap.whole_segments(region_of(apart)) == {1, 2}


def test_the_sum_of_other_segments_has_no_number_in_a_label_map() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = with_region(request, nested=False)
    both = replace(region_of(result).segments[0], number=3, label="Both")
    region = replace(
        region_of(result),
        segments=(*region_of(result).segments, both),
        includes=((3, (1, 2)),),
        probabilities=b"",
    )
    found = pydicom.dcmread(
        BytesIO(encoded(seg_labelmap, request, replace(result, region=region)).content)
    )
    assert [item.SegmentNumber for item in found.SegmentSequence] == [0, 1, 2]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_is_made_of_what_is_not_drawn(form: Any) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    drawn = with_region(request)
    gone = replace(drawn, region=region_of(drawn).without_voxels())
    none = builders.assessed(request, with_region=False)
    for result in (gone, none, builders.unsuitable(request)):
        assert form.encode(request, result, builders.model_card(), CONTEXT, {}) is None


def test_without_probabilities_there_is_no_fractional_segmentation() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    drawn = with_region(request)
    silent = replace(region_of(drawn), probabilities=b"")
    zero = replace(region_of(drawn), probabilities=bytes(2 * 2 * 64 * 64))
    for region in (silent, zero):
        result = replace(drawn, region=region)
        assert seg_fractional.encode(request, result, builders.model_card(), CONTEXT, {}) is None


def test_a_stray_label_is_refused_in_a_label_map_too() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    labels = builders.lung_labels(2, 64, 64)
    labels[1, 0, 0] = 7
    result = replace(builders.assessed(request), region=builders.lung_region(request, labels))
    with pytest.raises(RejectedError, match="no segment"):
        encoded(seg_labelmap, request, result)


def test_a_projection_image_has_a_label_map_too(tmp_path: Path) -> None:
    study = builders.chest_ct_study(1)
    [series] = study.series
    [image] = series.instances
    flat = replace(
        image,
        frame_of_reference_uid="",
        image_position_patient=None,
        image_orientation_patient=None,
    )
    study = replace(study, series=(replace(series, instances=(flat,)),))
    request = builders.request_for(study)
    result = replace(builders.assessed(request), region=builders.lung_region(request))
    content = encoded(seg_labelmap, request, result).content
    got = highdicom.seg.segread(BytesIO(content)).get_pixels_by_source_instance(
        [flat.sop_instance_uid], combine_segments=True
    )
    assert np.array_equal(got, labels_of(result))
    assert (
        validator_errors(as_known_to_dciodvfy(encoded(seg_labelmap, request, result)), tmp_path)
        == []
    )


def as_known_to_dciodvfy(document: Document) -> Document:
    """Debian's dciodvfy is older than label maps: they are shown to it as fractional ones, which
    have the same modules, without the background."""
    found = pydicom.dcmread(BytesIO(document.content))
    if found.SegmentationType != "LABELMAP":
        return document
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    found.SegmentationType = "FRACTIONAL"
    found.SegmentationFractionalType = "PROBABILITY"
    found.MaximumFractionalValue = 255
    del found.SegmentSequence[0]
    for frame in found.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = [pydicom.Dataset()]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    buffer = BytesIO()
    found.save_as(buffer)
    return replace(document, content=buffer.getvalue())


@pytest.mark.peers
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nested", [True, False])
def test_dciodvfy_finds_no_error(form: Any, nested: bool, tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    document = encoded(form, request, with_region(request, nested=nested))
    assert validator_errors(as_known_to_dciodvfy(document), tmp_path) == []


@pytest.mark.peers
@pytest.mark.parametrize("form", FORMS)
def test_dcmqi_reads_the_same_voxels(form: Any, tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(4, rows=16, columns=12))
    result = with_region(request, nested=form is not seg_labelmap)
    file = tmp_path / "seg.dcm"
    file.write_bytes(encoded(form, request, result).content)
    run_dcmqi("segimage2itkimage", tmp_path, "--inputDICOM", str(file))
    labels = labels_of(result)
    volumes = [read_nrrd(path) for path in sorted(tmp_path.glob("*.nrrd"))]
    if form is dicom_seg:
        lungs, low = volumes
        assert np.array_equal(lungs != 0, labels[1:] > 0)
        assert np.array_equal(low != 0, labels[1:] == 2)
    elif form is seg_labelmap:
        [found] = volumes
        assert np.array_equal(found, labels[1:])
    else:
        # of 255 as 1: dcmqi keeps the stored number of a fractional segmentation
        first, second = volumes
        assert np.array_equal(first, probabilities_of(result)[0])
        assert np.array_equal(second, probabilities_of(result)[1])
