from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import GraphicType, ImageLocation, Presence
from hub.domain.inference import ImagingInput, InferenceRequest, InferenceResult, InputRole
from hub.domain.report import ReportCause
from tests import builders
from tests.unit.formats.encoded import validator_errors
from tests.unit.formats.report_states import encoded, second_version


def state_of(request: InferenceRequest, result: InferenceResult) -> pydicom.Dataset:
    return read(encoded(request, result)[DocumentKind.PRESENTATION_STATE])


def read(document: Document) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def texts(annotation: pydicom.Dataset) -> list[str]:
    return [text.UnformattedTextValue for text in annotation.TextObjectSequence]


def with_attributes(request: InferenceRequest, *attributes: dict[str, str]) -> InferenceRequest:
    """The same request, with these header attributes added to its images, one after another."""
    [series] = request.study.series
    images = tuple(
        replace(image, attributes={**image.attributes, **added})
        for image, added in zip(series.instances, attributes, strict=True)
    )
    changed = replace(series, instances=images)
    return replace(
        request,
        study=replace(request.study, series=(changed,)),
        inputs=(ImagingInput(InputRole.CURRENT, (changed,)),),
    )


def test_each_location_is_drawn_on_its_image_with_what_was_found() -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    result = builders.located(request)
    state = state_of(request, result)
    drawn = {
        (
            annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID,
            graphic.GraphicType,
            tuple(graphic.GraphicData),
            graphic.NumberOfGraphicPoints,
            graphic.GraphicAnnotationUnits,
        )
        for annotation in state.GraphicAnnotationSequence
        for graphic in annotation.GraphicObjectSequence
    }
    assert drawn == {
        (
            place.sop_instance_uid,
            place.graphic_type.value,
            tuple(number for point in place.points for number in point),
            len(place.points),
            "PIXEL",
        )
        for finding in result.findings
        for place in finding.locations
    }
    said = [texts(annotation) for annotation in state.GraphicAnnotationSequence]
    banner = "CRITICAL FINDING: Nodule 2. AI result, not verified."
    assert said == [
        [banner, "AI Nodule 1: 8.25 mm"],
        [banner, "AI Nodule 1: 8.25 mm", "AI CRITICAL Nodule 2: PRESENT (91 %)"],
    ]


def test_it_refers_to_the_images_and_shows_the_whole_of_them() -> None:
    request = builders.request_for(builders.chest_ct_study(3, rows=32, columns=48))
    state = state_of(request, builders.located(request))
    uids = [image.sop_instance_uid for image in request.study.instances]
    [series] = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "2.25.1001.1"
    referenced = [r.ReferencedSOPInstanceUID for r in series.ReferencedImageSequence]
    assert referenced == [uids[2], uids[0]]
    [area] = state.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [48, 32]
    assert list(area.PresentationPixelSpacing) == [0.7, 0.7]
    assert [r.ReferencedSOPInstanceUID for r in area.ReferencedImageSequence] == referenced
    assert state.Modality == "PR"
    assert state.SeriesDescription.startswith("AI ")
    assert "SoftcopyVOILUTSequence" not in state


def test_frames_of_one_image_are_referred_to_by_number() -> None:
    request = builders.request_for(builders.chest_ct_study(1))
    [image] = request.study.instances
    uid = image.sop_instance_uid
    series = replace(request.study.series[0], instances=(replace(image, number_of_frames=9),))
    request = replace(
        request,
        study=replace(request.study, series=(series,)),
        inputs=(ImagingInput(InputRole.CURRENT, (series,)),),
    )
    result = builders.located(request)
    places = tuple(ImageLocation(GraphicType.POINT, uid, ((1.0, 2.0),), frame) for frame in (7, 2))
    result = replace(result, findings=(replace(result.findings[0], locations=places),))
    state = state_of(request, result)
    frames = [
        annotation.ReferencedImageSequence[0].ReferencedFrameNumber
        for annotation in state.GraphicAnnotationSequence
    ]
    assert frames == [7, 2]
    [reference] = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert list(reference.ReferencedFrameNumber) == [2, 7]


def test_points_that_belong_together_are_drawn_one_by_one() -> None:
    """A presentation state knows no MULTIPOINT (PS3.3 C.10.5)."""
    request = builders.request_for(builders.chest_ct_study(1))
    uid = request.study.instances[0].sop_instance_uid
    place = ImageLocation(GraphicType.MULTIPOINT, uid, ((1.0, 2.0), (3.0, 4.0)))
    result = builders.located(request)
    result = replace(result, findings=(replace(result.findings[0], locations=(place,)),))
    [annotation] = state_of(request, result).GraphicAnnotationSequence
    graphics = [(g.GraphicType, list(g.GraphicData)) for g in annotation.GraphicObjectSequence]
    assert graphics == [("POINT", [1, 2]), ("POINT", [3, 4])]


def test_grey_values_are_shown_as_the_images_have_them() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    plain = state_of(request, builders.located(request))
    assert plain.PresentationLUTShape == "IDENTITY"
    assert "RescaleSlope" not in plain
    rescale = {"rescale_slope": "1", "rescale_intercept": "-1024", "rescale_type": "HU"}
    same = with_attributes(request, rescale, rescale)
    state = state_of(same, builders.located(same))
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    other = with_attributes(request, rescale, {**rescale, "rescale_slope": "0.25"})
    assert "RescaleSlope" not in state_of(other, builders.located(other))
    white = {"photometric_interpretation": "MONOCHROME1"}
    inverse = with_attributes(request, white, white)
    assert state_of(inverse, builders.located(inverse)).PresentationLUTShape == "INVERSE"


def test_without_a_location_on_a_grey_image_there_is_none() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    colour = {"photometric_interpretation": "YBR_FULL_422"}
    coloured = with_attributes(request, colour, colour)
    located = builders.located(request)
    absent = replace(
        located,
        findings=tuple(
            replace(f, presence=Presence.ABSENT, value=None, unit=None) for f in located.findings
        ),
    )
    for asked, result in (
        (request, builders.assessed(request)),
        (request, builders.failed(request)),
        (request, absent),
        (coloured, builders.located(coloured)),
    ):
        assert DocumentKind.PRESENTATION_STATE not in encoded(asked, result)


@pytest.mark.parametrize("cause", [ReportCause.REJECTED, ReportCause.RETRACTED])
def test_that_of_a_withdrawn_report_says_so_and_draws_nothing(cause: ReportCause) -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    first, second = second_version(request, builders.located(request), cause)
    state = read(second[DocumentKind.PRESENTATION_STATE])
    assert state.SOPInstanceUID != first[DocumentKind.PRESENTATION_STATE].document_id
    for annotation in state.GraphicAnnotationSequence:
        assert "GraphicObjectSequence" not in annotation
        [said] = texts(annotation)
        assert said.startswith("WITHDRAWN: this AI result must not be used (")
    assert state.SeriesDescription.startswith("AI WITHDRAWN")


def test_who_verified_stands_on_the_images() -> None:
    request = builders.request_for(builders.chest_ct_study(2))
    _, second = second_version(request, builders.located(request), ReportCause.ACCEPTED)
    state = read(second[DocumentKind.PRESENTATION_STATE])
    for annotation in state.GraphicAnnotationSequence:
        assert "AI result, verified by Größ, Dr. Änne" in texts(annotation)[0]


@pytest.mark.peers
def test_the_validator_finds_no_error(tmp_path: Path) -> None:
    request = builders.request_for(builders.chest_ct_study(3))
    rescale = {"rescale_slope": "1", "rescale_intercept": "-1024"}
    for asked in (request, with_attributes(request, rescale, rescale, rescale)):
        document = encoded(asked, builders.located(asked))[DocumentKind.PRESENTATION_STATE]
        assert validator_errors(document, tmp_path) == []
