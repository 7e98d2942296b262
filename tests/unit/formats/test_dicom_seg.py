from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms

from hub.domain.finding import Region
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Instance
from hub.errors import IntegrityError, RejectedError
from hub.formats.dicom_objects.cielab import dicom_cielab
from hub.formats.seg import binary as dicom_seg
from tests import builders
from tests.unit.formats.encoded import CONTEXT


def encoded(request: InferenceRequest, result: InferenceResult) -> bytes:
    document = dicom_seg.encode(request, result, builders.model_card(), CONTEXT, {})
    assert document is not None
    return document.content


def masks(content: bytes, region: Region) -> Any:
    """(plane, row, column, segment) as highdicom reads it."""
    segmentation = highdicom.seg.segread(BytesIO(content))
    return segmentation.get_pixels_by_source_instance(
        list(region.sop_instance_uids), assert_missing_frames_are_empty=True
    )


def with_labels(request: InferenceRequest, labels: Any) -> InferenceResult:
    return replace(builders.assessed(request), region=builders.lung_region(request, labels))


def with_images(request: InferenceRequest, **fields: Any) -> InferenceRequest:
    def changed(instance: Instance) -> Instance:
        return replace(instance, **fields)

    [series] = request.study.series
    images = tuple(map(changed, series.instances))
    study = replace(request.study, series=(replace(series, instances=images),))
    return builders.request_for(study)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (13, 9), (1, 1), (8, 3)])
def test_the_pixels_come_back_exactly(rows: int, columns: int) -> None:
    request = builders.request_for(builders.chest_ct_study(5, rows=rows, columns=columns))
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 3, (5, rows, columns), dtype=np.uint8)
    labels[2] = 0
    labels[4, 0, 0] = 2
    result = with_labels(request, labels)
    assert result.region is not None
    got = masks(encoded(request, result), result.region)
    assert np.array_equal(got[..., 0], labels > 0)
    assert np.array_equal(got[..., 1], labels == 2)


def test_nested_segments_overlap_and_say_so() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    assert pydicom.dcmread(BytesIO(encoded(request, result))).SegmentsOverlap == "YES"
    assert result.region is not None
    apart = replace(result, region=replace(result.region, includes=()))
    assert pydicom.dcmread(BytesIO(encoded(request, apart))).SegmentsOverlap == "NO"


def test_empty_frames_are_left_out() -> None:
    request = builders.request_for(builders.chest_ct_study(4))
    labels = np.zeros((4, 64, 64), np.uint8)
    labels[1, 5, 5] = 1
    found = pydicom.dcmread(BytesIO(encoded(request, with_labels(request, labels))))
    assert found.NumberOfFrames == 1
    assert len(found.SegmentSequence) == 2
    [frame] = found.PerFrameFunctionalGroupsSequence
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == "2.25.1001.1.2"
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == [-175.5, -160.25, -290.0]


def test_frames_have_the_geometry_of_their_images() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    found = pydicom.dcmread(BytesIO(encoded(request, builders.assessed(request))))
    assert found.FrameOfReferenceUID == "2.25.1001.9"
    [shared] = found.SharedFunctionalGroupsSequence
    measures = shared.PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [0.7, 0.7]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (5, 5)
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert list(orientation) == [1, 0, 0, 0, 1, 0]
    indices = [
        tuple(frame.FrameContentSequence[0].DimensionIndexValues)
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert indices == [(1, 2), (1, 3), (2, 2), (2, 3)]


def test_uneven_slices_claim_no_spacing() -> None:
    study = builders.chest_ct_study(3)
    [series] = study.series
    first, second, third = series.instances
    third = replace(third, image_position_patient=(-175.5, -160.25, -270.0))
    images = (first, second, third)
    study = replace(study, series=(replace(series, instances=images),))
    request = builders.request_for(study)
    found = pydicom.dcmread(BytesIO(encoded(request, builders.assessed(request))))
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "SpacingBetweenSlices" not in measures


def test_segments_carry_codes_tracking_colour_and_algorithm() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.assessed(request)
    found = pydicom.dcmread(BytesIO(encoded(request, result)))
    assert result.region is not None
    for segment, expected in zip(found.SegmentSequence, result.region.segments, strict=True):
        assert segment.TrackingUID == expected.tracking_uid
        assert segment.TrackingID == expected.tracking_identifier
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert kind.CodeValue == expected.property_type.code_value
        category = segment.SegmentedPropertyCategoryCodeSequence[0]
        assert category.CodeValue == expected.category.code_value
        colour = dicom_cielab(*expected.recommended_display_rgb)
        assert tuple(segment.RecommendedDisplayCIELabValue) == colour
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Lung density", "1.2.0")
        assert segment.SegmentAlgorithmType == "AUTOMATIC"


@pytest.mark.parametrize("rgb", [(255, 255, 255), (0, 0, 0), (79, 156, 249), (240, 90, 60)])
def test_colours_are_those_of_the_icc_colour_space(rgb: tuple[int, int, int]) -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    pixel = ImageCms.applyTransform(Image.new("RGB", (1, 1), rgb), to_lab)
    lightness, a, b = (band[0] for band in np.asarray(pixel).reshape(3, 1))
    expected = (float(lightness) * 100 / 255, float(a.view(np.int8)), float(b.view(np.int8)))
    got = dicom_cielab(*rgb)
    assert got[0] / 65535 * 100 == pytest.approx(expected[0], abs=1)
    assert got[1] / 65535 * 255 - 128 == pytest.approx(expected[1], abs=1.5)
    assert got[2] / 65535 * 255 - 128 == pytest.approx(expected[2], abs=1.5)


def test_a_result_without_a_region_or_voxel_has_no_segmentation() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    empty = with_labels(request, np.zeros((2, 64, 64), np.uint8))
    for result in (empty, builders.presence(request), builders.not_assessable(request)):
        assert dicom_seg.encode(request, result, builders.model_card(), CONTEXT, {}) is None


@pytest.mark.parametrize("stray", [3, 200])
def test_a_label_of_no_segment_is_refused(stray: int) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    labels = builders.lung_labels(2, 64, 64)
    labels[1, 0, 0] = stray
    with pytest.raises(RejectedError, match="no segment"):
        encoded(request, with_labels(request, labels))


def test_a_region_of_another_size_than_its_images_is_refused() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    region = builders.lung_region(request)
    turned = replace(region, rows=32, columns=128)
    with pytest.raises(IntegrityError, match="rows and columns"):
        encoded(request, replace(builders.assessed(request), region=turned))


def test_a_projection_image_needs_no_place_in_space() -> None:
    request = with_images(
        builders.request_for(builders.chest_ct_study(1)),
        frame_of_reference_uid="",
        image_position_patient=None,
        image_orientation_patient=None,
    )
    result = builders.assessed(request)
    found = pydicom.dcmread(BytesIO(encoded(request, result)))
    assert "FrameOfReferenceUID" not in found
    assert found.NumberOfFrames == 2


def test_images_without_a_common_space_are_refused() -> None:
    request = with_images(
        builders.request_for(builders.chest_ct_study(2)), image_position_patient=None
    )
    with pytest.raises(RejectedError, match="frame of reference"):
        encoded(request, builders.assessed(request))


def test_a_segmentation_of_lossy_images_says_so() -> None:
    request = with_images(
        builders.request_for(builders.chest_ct_study(2)),
        transfer_syntax_uid="1.2.840.10008.1.2.4.91",
        attributes={"bits_allocated": "16"},
    )
    found = pydicom.dcmread(BytesIO(encoded(request, builders.assessed(request))))
    assert found.LossyImageCompression == "01"
    assert found.LossyImageCompressionRatio == 8
    assert found.LossyImageCompressionMethod == "ISO_15444_1"
