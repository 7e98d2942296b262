from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Evidence, Finding, GraphicType, ImageLocation, Presence
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import Person, ReportCause, ReportStatus, ReportVersion
from hub.domain.study import Instance
from hub.errors import RejectedError, TransientError
from hub.formats.dicom_objects import key_image
from hub.formats.encoding import EncodingContext
from hub.formats.printed.key_picture import CRITICAL_GRAPHIC
from hub.ports import RenderedImage
from tests import builders
from tests.unit.formats.encoded import CONTEXT, validator_errors

NODULE = Code("27925004", "SCT", "Nodule")
SIDE = Code("left-upper", "99CAIDX", "linker Oberlappen, größer")
WITHDRAWN = ReportVersion(
    2,
    ReportStatus.ENTERED_IN_ERROR,
    ReportCause.RETRACTED,
    "the wrong series was analysed",
    Person("Schmidt^Änne"),
)


class Grey:
    """Shows every image in one grey; the first ``failures`` times it cannot."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[str, int]] = []

    def render(self, instance: Instance, frame_number: int = 1) -> RenderedImage:
        self.asked.append((instance.sop_instance_uid, frame_number))
        if self.failures:
            raise self.failures.pop(0)
        rows, columns = instance.rows or 0, instance.columns or 0
        return RenderedImage(rows, columns, 1, bytes([100]) * (rows * columns))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every piece of text that is drawn."""
    found: list[str] = []
    original = ImageDraw.ImageDraw.text

    def text(self: Any, xy: Any, text: str, *arguments: Any, **named: Any) -> None:
        found.append(text)
        original(self, xy, text, *arguments, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


def request_of(slices: int = 3, **fields: Any) -> InferenceRequest:
    study = builders.chest_ct_study(slices)
    [series] = study.series
    instances = tuple(replace(i, **fields) for i in series.instances)
    return builders.request_for(replace(study, series=(replace(series, instances=instances),)))


def located(request: InferenceRequest, *locations: ImageLocation, **fields: Any) -> InferenceResult:
    values: dict[str, Any] = {
        "tracking_uid": "2.25.77",
        "tracking_identifier": "Nodule 1",
        "code": NODULE,
        "value": 8.4,
        "unit": Code("mm", "UCUM", "mm"),
        "laterality": SIDE,
        "evidence": tuple(Evidence(one.sop_instance_uid) for one in locations),
        "locations": locations,
    }
    return builders.result_for(
        request, Outcome.ASSESSED, findings=(Finding(**{**values, **fields}),)
    )


def box(uid: str, left: float, top: float, right: float, bottom: float) -> ImageLocation:
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return ImageLocation(GraphicType.POLYLINE, uid, corners)


def context_with(images: Any, **fields: Any) -> EncodingContext:
    return replace(CONTEXT, images=images, **fields)


def encoded(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext | None = None
) -> Document:
    context = context or context_with(Grey())
    document = key_image.encode(request, result, builders.model_card(), context, {})
    assert document is not None
    return document


def frames_of(document: Document) -> Any:
    """(frame, row, column, 3)"""
    pixels = pydicom.dcmread(BytesIO(document.content)).pixel_array
    return pixels if pixels.ndim == 4 else pixels[None]


def images_of(request: InferenceRequest) -> Sequence[str]:
    return [i.sop_instance_uid for i in request.study.instances]


def test_a_finding_is_drawn_where_it_lies_and_labelled(written: list[str]) -> None:
    request = request_of()
    uid = images_of(request)[1]
    document = encoded(request, located(request, box(uid, 16, 8, 48, 24)))
    [pixels] = frames_of(document).astype(int)
    grey = (pixels == 100).all(axis=2)
    rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    assert abs((bottom - top) - (right - left)) <= 2, "square pixels stay square"
    scale = (bottom - top) / 64
    drawn = pixels[top:bottom, left:right]
    # the corners and the middles of the sides are drawn, the inside is not
    for column, row, is_drawn in (
        (16, 16, True), (48, 16, True), (32, 24, True), (32, 16, False), (8, 40, False),
    ):  # fmt: skip
        around = drawn[
            int(row * scale) - 2 : int(row * scale) + 3,
            int(column * scale) - 2 : int(column * scale) + 3,
        ]
        assert (around != 100).any() == is_drawn, (column, row)
    said = " ".join(written)
    assert "Nodule 8.4 mm" in said
    assert "linker Oberlappen, größer" in said
    assert "Image 2 (CT)" in said


def test_an_image_is_named_by_its_numbers_only(written: list[str]) -> None:
    """Words of a header may name the patient."""
    attributes = {"series_number": "3", "series_description": "Thorax Herr Müller"}
    request = request_of(attributes=attributes)
    encoded(request, located(request, box(images_of(request)[1], 1, 1, 9, 9)))
    assert "Image 2 of series 3 (CT)" in written
    assert not any("Müller" in text for text in written)


def test_every_picture_says_what_it_is_and_whose_is_not_said(written: list[str]) -> None:
    request = request_of()
    first, second = images_of(request)[:2]
    result = located(request, box(first, 1, 1, 9, 9), box(second, 1, 1, 9, 9))
    document = encoded(request, result)
    assert len(frames_of(document)) == 2
    assert written.count("AI RESULT, NOT VERIFIED") == 2
    assert sum("Not for diagnosis on its own" in text for text in written) == 2
    assert sum("Lung density 1.2.0" in text for text in written) == 2
    for secret in ("Müller", "Jörg", "CAIDX-4711", "1958", "A-2026-0042"):
        assert not any(secret in text for text in written)


@pytest.mark.parametrize(
    "shape",
    [
        ImageLocation(GraphicType.POINT, "2.25.1001.1.1", ((30, 30),)),
        ImageLocation(GraphicType.MULTIPOINT, "2.25.1001.1.1", ((30, 30), (10, 10))),
        ImageLocation(GraphicType.CIRCLE, "2.25.1001.1.1", ((30, 20), (30, 30))),
        ImageLocation(
            GraphicType.ELLIPSE, "2.25.1001.1.1", ((10, 30), (50, 30), (30, 25), (30, 35))
        ),
    ],
)
def test_each_graphic_is_drawn(shape: ImageLocation) -> None:
    request = request_of(1)
    [pixels] = frames_of(encoded(request, located(request, shape)))
    [without] = frames_of(encoded(request, located(request, evidence=(Evidence("2.25.1001.1.1"),))))
    yellow = (pixels == (255, 214, 10)).all(axis=2)
    assert yellow.sum() > (without == (255, 214, 10)).all(axis=2).sum()


def test_segments_are_outlined_in_their_colours() -> None:
    request = request_of()
    [pixels] = frames_of(encoded(request, builders.assessed(request)))
    picture = pixels[118:-200]
    for colour in ((79, 156, 249), (240, 90, 60)):
        assert (picture == colour).all(axis=2).sum() > 200
    middle = (picture == 100).all(axis=2)
    assert middle.mean() > 0.5, "an outline covers little of the image"


def test_the_shape_of_pixels_is_kept() -> None:
    request = request_of(1, pixel_spacing=(2.0, 0.5))
    result = located(request, evidence=(Evidence(images_of(request)[0]),))
    grey = (frames_of(encoded(request, result))[0] == 100).all(axis=2)
    height, width = (
        np.ptp(np.flatnonzero(grey.any(axis=1))),
        np.ptp(np.flatnonzero(grey.any(axis=0))),
    )
    assert height / width == pytest.approx(4, rel=0.02)


def test_a_frame_of_a_multi_frame_image_is_shown() -> None:
    request = request_of(1, number_of_frames=5)
    uid = images_of(request)[0]
    images = Grey()
    at = replace(box(uid, 1, 1, 9, 9), frame_number=4)
    result = located(request, at, evidence=(Evidence(uid, (4,)),))
    encoded(request, result, context_with(images))
    assert images.asked == [(uid, 4)]


def test_what_lies_on_no_image_stands_on_a_card(written: list[str]) -> None:
    request = request_of()
    encoded(request, builders.presence(request))
    said = " ".join(written)
    assert "Pneumothorax (Lung, Left): ABSENT" in said
    assert "Pleural effusion (Lung, Left): NOT ASSESSABLE" in said
    assert "Pneumothorax (Lung, Right): PRESENT" in said


@pytest.mark.parametrize(
    ("outcome", "title"),
    [
        (Outcome.FAILED, "PROCESSING FAILED"),
        (Outcome.UNSUITABLE, "NOT ANALYSED: OUTSIDE THE INTENDED USE"),
        (Outcome.NOT_ASSESSABLE, "NOT ASSESSABLE"),
    ],
)
def test_no_answer_is_a_card_that_says_so(outcome: Outcome, title: str, written: list[str]) -> None:
    request = request_of()
    result = builders.result_for(request, outcome, reasons=("The tube broke.",))
    assert len(frames_of(encoded(request, result))) == 1
    said = " ".join(written)
    assert title in said
    assert "neither a positive nor a negative result" in said
    assert "The tube broke." in said
    assert "ABSENT" not in said


def test_critical_incomplete_and_amended_stand_above_the_image(written: list[str]) -> None:
    request = request_of()
    study = replace(
        request.study,
        completeness=replace(request.study.completeness, received=312, expected=340),
    )
    request = replace(request, study=study, amends_revision=1)
    uid = images_of(request)[0]
    encoded(request, located(request, box(uid, 1, 1, 9, 9), critical=True))
    assert "CRITICAL: Nodule, linker Oberlappen, größer" in written
    assert "INCOMPLETE: computed on 312 of 340 images" in written
    assert any(text.startswith("AMENDED: revision 1") for text in written)
    assert any(text.startswith("CRITICAL: Nodule (") for text in written)


def test_a_withdrawn_result_is_a_card_without_its_findings(written: list[str]) -> None:
    request = request_of()
    result = located(request, box(images_of(request)[0], 1, 1, 9, 9))
    context = context_with(Grey(), report=WITHDRAWN)
    first = encoded(request, result)
    written.clear()
    card = builders.model_card()
    document = key_image.encode(request, result, card, context, {DocumentKind.KEY_IMAGE: first})
    assert document is not None
    assert document.document_id != first.document_id
    said = " ".join(written)
    assert "WITHDRAWN" in said
    assert "must not be used" in said
    assert "the wrong series was analysed" in said
    assert "Nodule" not in said
    assert "NOT VERIFIED" not in said


def test_a_later_version_leaves_the_pictures_of_the_first_alone() -> None:
    request = request_of()
    result = located(request, box(images_of(request)[0], 1, 1, 9, 9))
    first = encoded(request, result)
    accepted = ReportVersion(2, ReportStatus.FINAL, ReportCause.ACCEPTED, "", Person("Weiß^Änne"))
    context = context_with(Grey(), report=accepted)
    card = builders.model_card()
    assert key_image.encode(request, result, card, context, {DocumentKind.KEY_IMAGE: first}) is None


def test_what_a_person_changed_is_drawn_again() -> None:
    """The first picture shows findings that do not hold any more."""
    request = request_of()
    result = located(request, box(images_of(request)[0], 1, 1, 9, 9))
    related = {DocumentKind.KEY_IMAGE: encoded(request, result)}
    modified = ReportVersion(2, ReportStatus.AMENDED, ReportCause.MODIFIED, "", Person("Weiß^Änne"))
    context = context_with(Grey(), report=modified)
    again = key_image.encode(request, result, builders.model_card(), context, related)
    assert again is not None
    header = pydicom.dcmread(BytesIO(again.content))
    for said in (header.DerivationDescription, header.ImageComments):
        assert said.startswith("AI result, changed and verified by a person")


def test_findings_at_one_place_share_its_graphic_its_colour_and_one_label(
    written: list[str],
) -> None:
    request = request_of()
    place = box(images_of(request)[0], 1, 1, 9, 9)
    measured = located(request, place)
    seen = replace(measured.findings[0], value=None, unit=None, presence=Presence.PRESENT)
    seen = replace(seen, critical=True)
    found = (*measured.findings, seen)
    pixels = frames_of(encoded(request, replace(measured, findings=found)))[0]
    drawn = (pixels == CRITICAL_GRAPHIC).all(axis=2)
    assert drawn.sum() > 1000  # not hidden below the graphic of the other one
    assert not (pixels == (64, 196, 255)).all(axis=2).any()
    assert "Nodule PRESENT; Nodule 8.4 mm" in written


def test_labels_do_not_lie_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of()
    image = images_of(request)[0]
    result = located(request, box(image, 1, 1, 9, 9), box(image, 1, 2, 9, 9))
    rows: list[float] = []
    original = ImageDraw.ImageDraw.text

    def text(self: Any, xy: Any, text: str, *arguments: Any, **named: Any) -> None:
        if "stroke_width" in named:
            rows.append(xy[1])
        original(self, xy, text, *arguments, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    encoded(request, result)
    assert len(rows) == 2
    assert abs(rows[0] - rows[1]) >= 26


@pytest.mark.parametrize(
    ("of", "said"),
    [(builders.failed, "AI FAILED"), (builders.located, "AI CRITICAL")],
)
def test_the_list_of_series_says_how_it_ended(of: Any, said: str) -> None:
    request = request_of()
    header = pydicom.dcmread(BytesIO(encoded(request, of(request)).content))
    assert header.SeriesDescription.startswith(said)


@pytest.mark.parametrize(
    ("failures", "asked", "is_shown"),
    [
        ([TransientError("its process died")], 2, True),
        ([TransientError("its process died")] * 2, 2, False),
        ([RejectedError("its process died")], 1, False),
    ],
)
def test_an_image_that_cannot_be_shown_is_a_card(
    failures: list[Exception], asked: int, is_shown: bool, written: list[str]
) -> None:
    request = request_of()
    images = Grey(*failures)
    result = located(request, box(images_of(request)[0], 1, 1, 9, 9))
    encoded(request, result, context_with(images))
    said = " ".join(written)
    assert len(images.asked) == asked
    assert ("cannot be shown here (its process died)" in said) != is_shown
    assert "8.4 mm" in said


def test_without_a_renderer_there_are_cards(written: list[str]) -> None:
    request = request_of()
    result = located(request, box(images_of(request)[0], 1, 1, 9, 9))
    encoded(request, result, context_with(None))
    assert any("look at the original image" in text for text in written)
    assert any("8.4 mm" in text for text in written)


def test_the_same_result_gives_the_same_bytes() -> None:
    request = request_of()
    result = builders.assessed(request)
    assert encoded(request, result).content == encoded(request, result).content


def test_the_object_says_that_it_is_derived_and_from_what() -> None:
    request = request_of()
    uid = images_of(request)[1]
    found = pydicom.dcmread(
        BytesIO(encoded(request, located(request, box(uid, 1, 1, 9, 9))).content)
    )
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(found.ImageType) == ["DERIVED", "SECONDARY"]
    assert (found.BurnedInAnnotation, found.ConversionType) == ("YES", "WSD")
    assert found.RecognizableVisualFeatures == "YES"
    assert found.SeriesDescription.startswith("AI ")
    assert "AI result, not verified" in found.DerivationDescription
    [source] = found.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == uid
    assert found.StudyInstanceUID == request.study.study_instance_uid
    several = located(request, *(box(one, 1, 1, 9, 9) for one in images_of(request)))
    found = pydicom.dcmread(BytesIO(encoded(request, several).content))
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7.4"
    assert found.NumberOfFrames == 3
    assert list(found.PageNumberVector) == [1, 2, 3]


def test_a_key_image_of_a_recording_is_a_card(written: list[str], tmp_path: Path) -> None:
    request = builders.request_for(builders.ecg_study())
    document = encoded(request, builders.ecg_assessed(request))
    assert any("Normal sinus rhythm" in text for text in written)
    assert validator_errors(document, tmp_path) == []


@pytest.mark.peers
def test_dciodvfy_finds_no_error_in_any_state(tmp_path: Path) -> None:
    request = request_of()
    uids = images_of(request)
    withdrawn = context_with(Grey(), report=WITHDRAWN)
    lossy = request_of(3, transfer_syntax_uid="1.2.840.10008.1.2.4.91")
    for request_, result, context in (
        (request, located(request, box(uids[0], 1, 1, 9, 9)), None),
        (request, located(request, *(box(uid, 1, 1, 9, 9) for uid in uids)), None),
        (request, builders.presence(request), None),
        (request, builders.unsuitable(request), None),
        (request, builders.presence(request), withdrawn),
        (lossy, builders.assessed(lossy), None),
    ):
        assert validator_errors(encoded(request_, result, context), tmp_path) == []


def test_a_long_reason_goes_on_to_further_cards(written: list[str]) -> None:
    request = request_of()
    reason = f"{'word ' * 600}{'x' * 300} end-of-reason"
    result = replace(builders.not_assessable(request), reasons=(reason,))
    assert 1 < len(frames_of(encoded(request, result))) < 8
    assert "end-of-reason" in " ".join(written)


def test_of_very_many_findings_it_says_that_there_are_more(written: list[str]) -> None:
    request = request_of()
    answer = replace(builders.presence(request).findings[1], critical=True)
    many = tuple(replace(answer, laterality=Code(f"{n}", "99", f"Side {n}")) for n in range(900))
    result = replace(builders.presence(request), findings=many)
    assert len(frames_of(encoded(request, result))) == 8
    assert "… and more: see the report" in written
    assert any(text.startswith("… and ") and "more lines" in text for text in written)


def test_a_negative_finding_is_not_a_picture_without_graphics() -> None:
    request = request_of()
    absent = builders.presence(request).findings[1]
    assert absent.presence is Presence.ABSENT
    result = replace(builders.presence(request), findings=(absent,))
    images = Grey()
    encoded(request, result, context_with(images))
    assert images.asked == []


def test_pictures_have_one_size() -> None:
    request = request_of()
    pixels = frames_of(encoded(request, builders.presence(request)))
    assert pixels.shape[1:] == (1152, 1024, 3)
    assert Image.fromarray(pixels[0]).size == (1024, 1152)
