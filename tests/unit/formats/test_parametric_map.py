from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.pm.sop import pmread

from hub.domain.coding import Code
from hub.domain.delivery import Document
from hub.domain.finding import ParametricMap
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.errors import IntegrityError, RejectedError
from hub.formats.seg import parametric_map
from tests import builders
from tests.unit.formats.encoded import CONTEXT, validator_errors
from tests.unit.formats.images_of_itk import read_nrrd, run_dcmqi

PERFUSION = Code("126392", "DCM", "Regional Blood Flow")
FLOW_UNIT = Code("mL/min/(100.g)", "UCUM", "ml/(min.100g)")


def map_of(request: InferenceRequest, values: Any, **fields: Any) -> ParametricMap:
    images = request.series[0].instances
    made = ParametricMap(
        sop_instance_uids=tuple(image.sop_instance_uid for image in images),
        rows=images[0].rows or 0,
        columns=images[0].columns or 0,
        values=np.asarray(values, "<f4").tobytes(),
        quantity=PERFUSION,
        unit=FLOW_UNIT,
        label="Blood flow",
        finding_site=builders.LUNG,
    )
    return replace(made, **fields)


def numbers(seed: int, slices: int = 3, rows: int = 8, columns: int = 6) -> Any:
    generator = np.random.default_rng(seed)
    return generator.normal(30, 20, (slices, rows, columns)).astype(np.float32)


def request_of(slices: int = 3) -> InferenceRequest:
    return builders.request_for(builders.chest_ct_study(slices, rows=8, columns=6))


def with_maps(request: InferenceRequest, *maps: ParametricMap) -> InferenceResult:
    return replace(builders.assessed(request, with_region=False), maps=maps)


def encoded(request: InferenceRequest, *maps: ParametricMap) -> Document:
    result = with_maps(request, *maps)
    document = parametric_map.encode(request, result, builders.model_card(), CONTEXT, {})
    assert document is not None
    return document


def test_highdicom_reads_the_same_numbers_quantity_and_unit() -> None:
    request, values = request_of(), numbers(1)
    found = pmread(BytesIO(encoded(request, map_of(request, values)).content))
    volume = found.get_volume(apply_real_world_transform=True, dtype=np.float64)
    # highdicom turns the slices round, so that the axes are right-handed
    assert np.array_equal(volume.array[::-1], values)
    assert volume.spacing == (5.0, 0.7, 0.7)
    assert found.FrameOfReferenceUID == "2.25.1001.9"
    [mapping] = found.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "mL/min/(100.g)"
    [quantity, site] = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == "126392"
    assert site.ConceptCodeSequence[0].CodeValue == builders.LUNG.code_value
    lowest, highest = float(values.min()), float(values.max())
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == lowest
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == highest


def test_each_frame_says_what_of_the_body_it_shows() -> None:
    request = request_of()
    for site, code in ((builders.LUNG, builders.LUNG.code_value), (None, "38266002")):
        made = encoded(request, map_of(request, numbers(1), finding_site=site))
        frame = pydicom.dcmread(BytesIO(made.content)).PerFrameFunctionalGroupsSequence[0]
        [anatomy] = frame.FrameAnatomySequence
        assert anatomy.AnatomicRegionSequence[0].CodeValue == code
        assert anatomy.FrameLaterality == "U"


def test_each_frame_names_the_image_that_it_was_made_on() -> None:
    request = request_of()
    found = pydicom.dcmread(BytesIO(encoded(request, map_of(request, numbers(1))).content))
    sources = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert sources == [i.sop_instance_uid for i in request.study.instances]


def test_several_maps_are_frames_of_one_object_each_with_its_own_unit() -> None:
    request = request_of()
    first, second = numbers(1), numbers(2)
    seconds = Code("s", "UCUM", "s")
    transit = map_of(
        request,
        second,
        label="Mean transit time",
        quantity=Code("113069", "DCM", "Time To Peak"),
        unit=seconds,
    )
    content = encoded(request, map_of(request, first), transit).content
    found = pmread(BytesIO(content))
    assert np.array_equal(
        found.get_frames(apply_real_world_transform=True), np.concatenate([first, second])
    )
    units = [
        frame.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert units == ["mL/min/(100.g)"] * 3 + ["s"] * 3
    indices = [
        tuple(frame.FrameContentSequence[0].DimensionIndexValues)
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert indices == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == 5


def test_a_voxel_without_a_value_is_padding() -> None:
    request, values = request_of(), numbers(1)
    values[0, 2, 3] = values[2, 0, 0] = np.nan
    found = pydicom.dcmread(BytesIO(encoded(request, map_of(request, values)).content))
    padding = np.float32(found.FloatPixelPaddingValue)
    got = found.pixel_array
    assert padding < np.nanmin(values)
    assert np.array_equal(got == padding, np.isnan(values))
    assert np.array_equal(got[~np.isnan(values)], values[~np.isnan(values)])
    assert "FloatPixelPaddingValue" not in pydicom.dcmread(
        BytesIO(encoded(request, map_of(request, numbers(1))).content)
    )


@pytest.mark.parametrize("number", [np.inf, -np.inf])
@pytest.mark.parametrize("beside", [0.0, np.nan])
def test_infinite_numbers_are_refused(number: float, beside: float) -> None:
    request, values = request_of(), numbers(1)
    values[1, 1, 1], values[0, 0, 0] = number, beside
    with pytest.raises(RejectedError, match="infinite"):
        encoded(request, map_of(request, values))


def test_maps_of_several_sizes_do_not_fit_into_one_object() -> None:
    study = builders.chest_ct_study(2, rows=8, columns=6)
    [series] = study.series
    small = replace(series.instances[1], rows=4)
    study = replace(study, series=(replace(series, instances=(series.instances[0], small)),))
    request = builders.request_for(study)
    maps = [
        replace(
            map_of(request, np.ones((2, 8, 6))),
            sop_instance_uids=(image.sop_instance_uid,),
            rows=image.rows or 0,
            values=np.ones((image.rows or 0, 6), "<f4").tobytes(),
        )
        for image in study.instances
    ]
    with pytest.raises(RejectedError, match="several sizes"):
        encoded(request, *maps)


def test_a_map_of_another_size_than_its_images_is_refused() -> None:
    request = request_of()
    with pytest.raises(IntegrityError, match="rows and columns"):
        encoded(request, replace(map_of(request, numbers(1)), rows=6, columns=8))


def test_no_map_is_made_of_nothing() -> None:
    request = request_of()
    nothing = map_of(request, np.full((3, 8, 6), np.nan))
    gone = map_of(request, numbers(1)).without_voxels()
    for result in (with_maps(request, nothing, gone), with_maps(request)):
        assert parametric_map.encode(request, result, builders.model_card(), CONTEXT, {}) is None


@pytest.mark.peers
@pytest.mark.parametrize("count", [1, 2])
def test_dciodvfy_finds_no_error(count: int, tmp_path: Path) -> None:
    request = request_of()
    values = numbers(1)
    values[0, 0, 0] = np.nan
    maps = [map_of(request, values, label=f"Map {n}") for n in range(count)]
    assert validator_errors(encoded(request, *maps), tmp_path) == []


@pytest.mark.peers
@pytest.mark.parametrize("site", [builders.LUNG, None])
def test_dcmqi_reads_the_same_numbers(site: Code | None, tmp_path: Path) -> None:
    request, values = request_of(), numbers(1)
    file = tmp_path / "map.dcm"
    file.write_bytes(encoded(request, map_of(request, values, finding_site=site)).content)
    run_dcmqi("paramap2itkimage", tmp_path, "--inputDICOM", str(file))
    [written] = tmp_path.glob("*.nrrd")
    assert np.array_equal(read_nrrd(written), values)
    meta = (tmp_path / "meta.json").read_text()
    assert "mL/min/(100.g)" in meta
    assert "126392" in meta
