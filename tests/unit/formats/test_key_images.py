from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hub.domain.finding import Evidence, Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Instance
from hub.formats.key_images import FEW_IMAGES, MOST_KEY_IMAGES, KeyImage, key_images
from tests import builders


def places(images: tuple[KeyImage, ...]) -> list[tuple[str, int | None]]:
    """Last part of the SOP Instance UID, and the frame."""
    return [(image.sop_instance_uid.rsplit(".", 1)[1], image.frame_number) for image in images]


def request_of(slices: int) -> InferenceRequest:
    return builders.request_for(builders.chest_ct_study(slices, rows=16, columns=16))


def multi_frame(request: InferenceRequest, frames: int) -> InferenceRequest:
    """The same request, its first image having several frames."""
    study, series = request.study, request.study.series[0]
    first: Instance = replace(series.instances[0], number_of_frames=frames)
    changed = replace(series, instances=(first, *series.instances[1:]))
    return replace(
        request,
        study=replace(study, series=(changed,)),
        inputs=(replace(request.inputs[0], series=(changed,)),),
    )


def test_critical_findings_come_first_then_those_with_a_location() -> None:
    request = request_of(5)
    result = builders.located(request)
    shown = key_images(request, result)
    assert places(shown) == [("1", None), ("5", None)]
    assert [[f.tracking_identifier for f in image.findings] for image in shown] == [
        ["Nodule 1", "Nodule 2"],
        ["Nodule 1"],
    ]
    calm = replace(
        result, findings=tuple(replace(f, critical=False, locations=()) for f in result.findings)
    )
    assert places(key_images(request, calm)) == [("5", None), ("1", None)]


def test_a_segment_shows_the_image_with_most_of_its_voxels() -> None:
    request = request_of(4)
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[1, :2] = 1
    labels[2, :5] = 1
    labels[3, 0] = 2
    labels[3, 1, :8] = 1
    result = builders.assessed(request)
    drawn = replace(result, region=builders.lung_region(request, labels))
    shown = key_images(request, drawn)
    assert places(shown) == [("3", None), ("4", None)]
    assert [image.segments for image in shown] == [(1,), (1, 2)]
    assert [len(image.findings) for image in shown] == [2, 3]


def test_nested_voxels_count_for_their_parent() -> None:
    request = request_of(2)
    labels = np.zeros((2, 16, 16), np.uint8)
    labels[0, :3] = 1
    labels[1, :4] = 2
    result = replace(builders.assessed(request), region=builders.lung_region(request, labels))
    [image] = key_images(request, result)
    assert places((image,)) == [("2", None)]
    assert image.segments == (1, 2)


def test_without_voxels_evidence_that_names_few_images_remains() -> None:
    for slices in (FEW_IMAGES, FEW_IMAGES + 1):
        request = request_of(slices)
        result = builders.assessed(request)
        assert result.region is not None
        recorded = replace(result, region=result.region.without_voxels())
        shown = key_images(request, recorded)
        assert len(shown) == (slices if slices <= FEW_IMAGES else 0)
        assert all(image.segments == () for image in shown)


@pytest.mark.parametrize("presence", [Presence.ABSENT, Presence.NOT_ASSESSABLE])
def test_what_is_not_there_shows_no_image(presence: Presence) -> None:
    request = request_of(2)
    result = builders.located(request)
    negative = tuple(
        replace(f, presence=presence, value=None, unit=None, segment_numbers=(1, 2))
        for f in result.findings
    )
    region = builders.lung_region(request)
    assert key_images(request, replace(result, findings=negative)) == ()
    assert key_images(request, replace(result, findings=negative, region=region)) == ()


@pytest.mark.parametrize("make", [builders.not_assessable, builders.unsuitable, builders.failed])
def test_a_result_without_an_answer_has_no_key_image(make: object) -> None:
    request = request_of(2)
    result: InferenceResult = make(request)  # type: ignore[operator]
    assert key_images(request, result) == ()


def test_an_ecg_has_no_key_image() -> None:
    request = builders.request_for(builders.ecg_study())
    assert key_images(request, builders.ecg_assessed(request)) == ()


def test_frames_are_told_apart_only_where_there_are_several() -> None:
    request = multi_frame(request_of(2), 30)
    [first, second] = [i.sop_instance_uid for i in request.study.instances]
    finding: Finding = builders.presence(request).findings[0]
    evidence = (Evidence(first, (3, 7)), Evidence(second, (1,)))
    result = replace(builders.presence(request), findings=(replace(finding, evidence=evidence),))
    assert places(key_images(request, result)) == [("1", 3), ("1", 7), ("2", None)]
    whole = replace(result, findings=(replace(finding, evidence=(Evidence(first),)),))
    assert key_images(request, whole) == ()


def test_there_are_at_most_eight() -> None:
    request = request_of(20)
    finding = builders.presence(request).findings[0]
    many = tuple(
        replace(finding, tracking_uid=f"2.25.{n}", evidence=(Evidence(image.sop_instance_uid),))
        for n, image in enumerate(request.study.instances)
    )
    result = replace(builders.presence(request), findings=many)
    shown = key_images(request, result)
    assert len(shown) == MOST_KEY_IMAGES == 8
    assert places(shown) == [(str(n), None) for n in range(1, 9)]
    assert shown == key_images(request, result)
