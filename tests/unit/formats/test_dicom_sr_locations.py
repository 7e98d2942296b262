"""Where findings lie, in structured reports: on the image, and in space."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Evidence, Finding, FramePlace, GraphicType, ImageLocation, Region
from hub.domain.inference import ImagingInput, InferenceRequest, InferenceResult, InputRole
from hub.domain.study import Instance
from tests import builders
from tests.unit.formats.encoded import output_of, validator_errors
from tests.unit.formats.report_states import encoded

SQUARE = ((10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0), (10.0, 10.0))


def report_of(
    request: InferenceRequest, result: InferenceResult, kind: DocumentKind = DocumentKind.SR
) -> Document:
    return encoded(request, result)[kind]


def read(document: Document) -> Any:
    return highdicom.sr.srread(BytesIO(document.content)).content


def measurements(document: Document) -> list[list[pydicom.Dataset]]:
    """The measurement groups of each container of imaging measurements."""
    root = pydicom.dcmread(BytesIO(document.content))
    return [
        list(item.ContentSequence)
        for item in root.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]


def group_items(document: Document) -> list[list[pydicom.Dataset]]:
    """The content items of each measurement group."""
    return [list(g.ContentSequence) for groups in measurements(document) for g in groups]


def templates(document: Document) -> list[str]:
    return [
        group.ContentTemplateSequence[0].TemplateIdentifier
        for groups in measurements(document)
        for group in groups
    ]


def at(graphic: GraphicType, uid: str, *points: tuple[float, float]) -> ImageLocation:
    return ImageLocation(graphic, uid, points)


def with_locations(
    request: InferenceRequest, *locations: ImageLocation, **fields: Any
) -> InferenceResult:
    """One diameter, measured at these locations."""
    result = builders.located(request)
    uids = dict.fromkeys(location.sop_instance_uid for location in locations)
    finding: Finding = replace(
        result.findings[0],
        locations=locations,
        evidence=tuple(Evidence(uid) for uid in uids),
        **fields,
    )
    return replace(result, findings=(finding,))


def uids_of(request: InferenceRequest) -> list[str]:
    return [image.sop_instance_uid for image in request.study.instances]


def with_images(request: InferenceRequest, images: Sequence[Instance]) -> InferenceRequest:
    """The same request about changed images."""
    series = replace(request.study.series[0], instances=tuple(images))
    study = replace(request.study, series=(series,))
    inputs = (ImagingInput(InputRole.CURRENT, (series,)),)
    return replace(request, study=study, inputs=inputs)


@pytest.mark.parametrize(
    ("graphic", "points"),
    [
        (GraphicType.POINT, [(3.25, 4.5)]),
        (GraphicType.POLYLINE, [(1.0, 2.0), (30.125, 40.75)]),
        (GraphicType.POLYLINE, list(SQUARE)),
        (GraphicType.CIRCLE, [(20.0, 20.5), (26.0, 20.5)]),
        (GraphicType.ELLIPSE, [(10.0, 20.0), (30.0, 20.0), (20.0, 15.0), (20.0, 25.0)]),
    ],
)
def test_highdicom_reads_back_each_graphic_on_its_image(
    graphic: GraphicType, points: list[tuple[float, float]]
) -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    uid = uids_of(request)[1]
    document = report_of(request, with_locations(request, at(graphic, uid, *points)))
    [group] = read(document).get_planar_roi_measurement_groups()
    assert group.roi.graphic_type.value == graphic.value
    np.testing.assert_array_equal(group.roi.value, np.array(points))
    [source] = group.roi.ContentSequence
    assert source.RelationshipType == "SELECTED FROM"
    assert source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
    assert "ReferencedFrameNumber" not in source.ReferencedSOPSequence[0]
    [measurement] = group.get_measurements()
    assert (measurement.value, measurement.unit.value) == (8.25, "mm")
    assert templates(document) == ["1410"]


def test_several_points_are_groups_of_one_tracking_uid_the_first_with_the_answers() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    first, second = uids_of(request)
    result = with_locations(
        request,
        at(GraphicType.MULTIPOINT, first, (1.0, 1.0), (2.0, 2.0)),
        at(GraphicType.POINT, second, (3.0, 3.0)),
    )
    groups = read(report_of(request, result)).get_planar_roi_measurement_groups()
    assert [group.roi.value.tolist() for group in groups] == [[[1, 1]], [[2, 2]], [[3, 3]]]
    assert {group.tracking_uid for group in groups} == {result.findings[0].tracking_uid}
    assert [len(group.get_measurements()) for group in groups] == [1, 0, 0]


def test_areas_on_several_images_outline_a_volume() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = with_locations(
        request, *(at(GraphicType.POLYLINE, uid, *SQUARE) for uid in uids_of(request))
    )
    document = report_of(request, result)
    assert templates(document) == ["1411"]
    [group] = read(document).get_volumetric_roi_measurement_groups()
    assert [region.value.tolist() for region in group.roi] == [[list(p) for p in SQUARE]] * 3
    sources = [r.ContentSequence[0].referenced_sop_instance_uid for r in group.roi]
    assert sources == uids_of(request)
    assert [m.value for m in group.get_measurements()] == [8.25]


def test_two_areas_on_one_image_are_no_volume() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    uid = uids_of(request)[0]
    circles = [at(GraphicType.CIRCLE, uid, (x, 5.0), (x + 2.0, 5.0)) for x in (10.0, 20.0)]
    assert templates(report_of(request, with_locations(request, *circles))) == ["1410", "1410"]


def test_findings_of_one_thing_at_different_places_keep_their_own() -> None:
    """The long and the short axis of a lesion are lines of their own."""
    request = builders.request_for(builders.chest_ct_study(1))
    uid = uids_of(request)[0]
    lines = [((1.0, 1.0), (9.0, 1.0)), ((5.0, 0.0), (5.0, 3.0))]
    base = with_locations(request)
    findings = tuple(
        replace(base.findings[0], value=value, locations=(at(GraphicType.POLYLINE, uid, *line),))
        for value, line in zip((8.0, 3.0), lines, strict=True)
    )
    nowhere = replace(base.findings[0], value=1.0, code=builders.VOLUME, unit=builders.MILLILITRE)
    result = replace(base, findings=(nowhere, *findings))
    groups = read(report_of(request, result)).get_planar_roi_measurement_groups()
    got = [
        (group.roi.value.tolist(), [m.value for m in group.get_measurements()]) for group in groups
    ]
    assert got == [([[1, 1], [9, 1]], [1.0, 8.0]), ([[5, 0], [5, 3]], [3.0])]


def test_groups_that_lie_nowhere_have_a_container_of_their_own_after_the_others() -> None:
    """OHIF shows no graphic of a container with a group that has none."""
    request = builders.request_for(builders.chest_ct_study(2))
    result = builders.located(request)
    result = replace(result, findings=tuple(reversed(result.findings)))
    kinds = [
        ["SCOORD" in {item.ValueType for item in group.ContentSequence} for group in groups]
        for groups in measurements(report_of(request, result))
    ]
    assert kinds == [[True, True, True], [False]]
    nowhere = measurements(report_of(request, builders.presence(request)))
    assert [len(groups) for groups in nowhere] == [4]


def test_every_group_can_be_tracked() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    for make in (builders.located, builders.presence, builders.failed):
        for items in group_items(report_of(request, make(request))):
            names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in items[:2]]
            assert names == ["Tracking Identifier", "Tracking Unique Identifier"]


def test_a_frame_of_a_multi_frame_image_is_named() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    several = with_images(request, [replace(image, number_of_frames=7)])
    point = ImageLocation(GraphicType.POINT, image.sop_instance_uid, ((1.0, 2.0),), 5)
    document = report_of(several, with_locations(several, point))
    [group] = read(document).get_planar_roi_measurement_groups()
    [source] = group.roi.ContentSequence
    assert source.ReferencedSOPSequence[0].ReferencedFrameNumber == 5


def test_the_title_says_whether_anything_lies_on_an_image() -> None:
    """OHIF opens reports of the first title at an image, and shows all others as text."""
    request = builders.request_for(builders.chest_ct_study(2))
    titles = []
    for result in (
        builders.located(request),
        builders.assessed(request),
        builders.presence(request),
    ):
        root = pydicom.dcmread(BytesIO(report_of(request, result).content))
        assert root.ContentTemplateSequence[0].TemplateIdentifier == "1500"
        titles.append(root.ConceptNameCodeSequence[0].CodeValue)
    assert titles == ["126000", "ai-result", "ai-result"]


def test_points_in_space_lie_where_the_image_lies() -> None:
    """0.5, 0.5 is the centre of the first pixel, which Image Position (Patient) names."""
    request = builders.request_for(builders.chest_ct_study(3))
    uid = uids_of(request)[1]
    points = [(0.5, 0.5), (10.5, 20.5)]
    result = with_locations(request, at(GraphicType.POLYLINE, uid, *points))
    document = report_of(request, result, DocumentKind.SR_3D)
    [group] = read(document).get_planar_roi_measurement_groups()
    assert group.roi.graphic_type.value == "POLYLINE"
    assert group.roi.ReferencedFrameOfReferenceUID == "2.25.1001.9"
    np.testing.assert_allclose(
        group.roi.value, [(-175.5, -160.25, -290.0), (-168.5, -146.25, -290.0)], atol=1e-4
    )


def test_closed_lines_in_space_are_polygons_and_several_of_them_a_surface() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    squares = [at(GraphicType.POLYLINE, uid, *SQUARE) for uid in uids_of(request)]
    one = report_of(request, with_locations(request, squares[0]), DocumentKind.SR_3D)
    [group] = read(one).get_planar_roi_measurement_groups()
    assert group.roi.graphic_type.value == "POLYGON"
    two = report_of(request, with_locations(request, *squares), DocumentKind.SR_3D)
    assert templates(two) == ["1411"]
    [group] = read(two).get_volumetric_roi_measurement_groups()
    assert group.roi.graphic_type.value == "POLYGON"
    assert [float(polygon[0][2]) for polygon in group.roi.graphic_data] == [-295.0, -290.0]
    assert group.roi.source_series_for_segmentation.value == "2.25.1001.1"


def test_a_circle_on_oblong_pixels_is_an_ellipse_in_space() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    oblong = with_images(request, [replace(image, pixel_spacing=(2.0, 0.5))])
    circle = at(GraphicType.CIRCLE, image.sop_instance_uid, (20.5, 20.5), (23.5, 24.5))
    document = report_of(oblong, with_locations(oblong, circle), DocumentKind.SR_3D)
    [group] = read(document).get_planar_roi_measurement_groups()
    assert group.roi.graphic_type.value == "ELLIPSE"
    major, other_major, minor, other_minor = group.roi.value
    assert math.dist(major, other_major) == pytest.approx(2 * 5 * 2.0)
    assert math.dist(minor, other_minor) == pytest.approx(2 * 5 * 0.5)
    middle = (-175.5 + 20 * 0.5, -160.25 + 20 * 2.0, -295.0)
    np.testing.assert_allclose((major + other_major) / 2, middle, atol=1e-4)
    np.testing.assert_allclose((minor + other_minor) / 2, middle, atol=1e-4)


def test_an_ellipse_on_oblong_pixels_keeps_its_shape_in_space() -> None:
    """Points of the ellipse of the image lie on the ellipse in space."""
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    oblong = with_images(request, [replace(image, pixel_spacing=(1.5, 0.5))])
    centre, one, other = np.array([30.0, 25.0]), np.array([6.0, 6.0]), np.array([-2.0, 2.0])
    ends = [
        tuple(map(float, p)) for p in (centre - one, centre + one, centre - other, centre + other)
    ]
    ellipse = at(GraphicType.ELLIPSE, image.sop_instance_uid, *ends)  # type: ignore[arg-type]
    document = report_of(oblong, with_locations(oblong, ellipse), DocumentKind.SR_3D)
    [group] = read(document).get_planar_roi_measurement_groups()
    major, other_major, minor, other_minor = group.roi.value
    middle = (major + other_major) / 2
    a, b = (other_major - major) / 2, (other_minor - minor) / 2
    assert abs(a @ b) < 1e-3
    assert np.linalg.norm(a) > np.linalg.norm(b)
    for angle in np.linspace(0.0, 2 * math.pi, 12):
        column, row = centre + one * math.cos(angle) + other * math.sin(angle)
        placed = np.array([-175.5 + (column - 0.5) * 0.5, -160.25 + (row - 0.5) * 1.5, -295.0])
        across = (placed - middle) @ a / (a @ a)
        along = (placed - middle) @ b / (b @ b)
        assert across**2 + along**2 == pytest.approx(1.0, abs=1e-4)


def test_without_a_place_in_space_no_location_is_invented() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    point = at(GraphicType.POINT, image.sop_instance_uid, (1.0, 2.0))
    for changed in (
        replace(image, image_position_patient=None),
        replace(image, pixel_spacing=None),
        replace(image, frame_of_reference_uid=""),
        replace(image, number_of_frames=4),
    ):
        projection = with_images(request, [changed])
        result = with_locations(projection, point)
        documents = encoded(projection, result)
        [items] = group_items(documents[DocumentKind.SR_3D])
        assert not {"SCOORD", "SCOORD3D"} & {item.ValueType for item in items}
        said = [item.TextValue for item in items if item.ValueType == "TEXT"]
        assert any(text.startswith("Its location is not told") for text in said)
        [items] = group_items(documents[DocumentKind.SR])
        assert "SCOORD" in {item.ValueType for item in items}


def test_a_frame_lies_where_the_result_says_it_does() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    several = with_images(request, [replace(image, number_of_frames=4)])
    uid = image.sop_instance_uid
    place = FramePlace(3, (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0), 2.0)
    region = Region((uid,), 64, 64, b"", builders.lung_region(request).segments, frames=(place,))
    point = ImageLocation(GraphicType.POINT, uid, ((5.5, 6.5),), 3)
    result = replace(with_locations(several, point), region=region)
    [group] = read(
        report_of(several, result, DocumentKind.SR_3D)
    ).get_planar_roi_measurement_groups()
    np.testing.assert_allclose(group.roi.value, [(6.0, 8.0, 3.0)])


def test_a_location_and_a_segment_are_both_told() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    measured = builders.assessed(request)
    uid = uids_of(request)[1]
    located = replace(measured.findings[0], locations=(at(GraphicType.POINT, uid, (1.0, 2.0)),))
    documents = encoded(request, replace(measured, findings=(located,)))
    [items] = group_items(documents[DocumentKind.SR])
    assert "SCOORD" in {item.ValueType for item in items}
    [number] = [item for item in items if item.ValueType == "NUM"]
    segmented = [
        i.ReferencedSOPSequence[0]
        for i in number.ContentSequence
        if i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        == documents[DocumentKind.SEG].document_id
    ]
    assert [reference.ReferencedSegmentNumber for reference in segmented] == [1]


@pytest.mark.peers
@pytest.mark.parametrize(("count", "kept"), [(5000, 5000), (5001, 2501), (12_345, 4116)])
def test_an_outline_of_very_many_points_is_thinned_to_what_a_value_can_hold(
    count: int, kept: int, tmp_path: Path
) -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    uid = uids_of(request)[0]
    points = [(n / 256.0, n / 512.0) for n in range(count)]
    documents = encoded(request, with_locations(request, at(GraphicType.POLYLINE, uid, *points)))
    [group] = read(documents[DocumentKind.SR]).get_planar_roi_measurement_groups()
    written = [tuple(point) for point in group.roi.value.tolist()]
    assert len(written) == kept
    assert set(written) <= set(points)
    assert (written[0], written[-1]) == (points[0], points[-1])
    for kind in (DocumentKind.SR, DocumentKind.SR_3D, DocumentKind.PRESENTATION_STATE):
        assert validator_errors(documents[kind], tmp_path) == []


@pytest.mark.peers
def test_dcmtk_reads_back_the_coordinates(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    documents = encoded(request, builders.located(request))
    for kind, graphics in (
        (
            DocumentKind.SR,
            ["(POLYLINE,10.5/12,20/12.5,18.25/24,10.5/12)", "(CIRCLE,40/40.5,46/40.5)"],
        ),
        (DocumentKind.SR_3D, ["(POLYGON,,-168.5/-152.199997/-290,", "(ELLIPSE,,"]),
    ):
        assert validator_errors(documents[kind], tmp_path) == []
        printed = output_of("dsrdump", "+Pl", str(tmp_path / f"{kind.value}.dcm"))
        assert not [line for line in printed.splitlines() if line.startswith("E: ")]
        for graphic in graphics:
            assert graphic in printed


def test_dcmqi_reads_back_the_same_numbers(tmp_path: Path) -> None:
    reader = str(Path(sys.executable).with_name("tid1500reader"))
    request = builders.request_for(builders.chest_ct_study(3))
    for result in (builders.located(request), builders.assessed(request)):
        file, found = tmp_path / "sr.dcm", tmp_path / "sr.json"
        file.write_bytes(report_of(request, result).content)
        output_of(reader, "--inputDICOM", str(file), "--outputMetadata", str(found))
        groups = json.loads(found.read_text())["Measurements"]
        got = {
            (
                group["TrackingUniqueIdentifier"],
                item["quantity"]["CodeValue"],
                float(item["value"]),
                item["units"]["CodeValue"],
            )
            for group in groups
            for item in group["measurementItems"]
        }
        assert got == {
            (f.tracking_uid, f.code.code_value, f.value, f.unit.code_value)
            for f in result.findings
            if f.unit is not None
        }
