"""Locations as a Grayscale Softcopy Presentation State, for viewers that show no SR graphics
(PS3.3 A.33.1).

It draws on greyscale images alone: colour images have a presentation state of another class
(PS3.3 A.33.2), which the viewers that need this one rarely know. What is not in it is left to
the image: its own window, its own orientation.

A version of the report makes a presentation state of its own; there is no way to say that it
replaces the earlier one. That of a withdrawn report says so in words, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding, GraphicType, ImageLocation, Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.modules import (
    GRAYSCALE_PRESENTATION_STATE_STORAGE,
    date_and_time,
    dicom_document,
    local_time,
    object_header,
)
from hub.formats.dicom_objects.source_dataset import is_image
from hub.formats.encoding import EncodingContext, check_document_identity
from hub.formats.printed.words import answer, probability, unit
from hub.formats.sr import state
from hub.formats.sr.content import referenced_sop
from hub.formats.sr.locations import single_graphics

_LAYER = "AI"
_LONGEST_TEXT = 1024
"""Characters of a text value, VR ST (PS3.5 section 6.2)."""
_GREYSCALE = ("", "MONOCHROME1", "MONOCHROME2")
_NOTHING_TO_SHOW = (Presence.ABSENT, Presence.NOT_ASSESSABLE)
_CLOSED = (GraphicType.CIRCLE, GraphicType.ELLIPSE)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One image (or frame) with what is drawn on it."""

    image: Instance
    frame_number: int | None
    labels: Mapping[ImageLocation, tuple[Finding, ...]]
    """Graphic -> the findings that lie there."""

    @property
    def reference(self) -> bytes:
        frames = () if self.frame_number is None else (self.frame_number,)
        return referenced_sop(self.image.sop_class_uid, self.image.sop_instance_uid, frames=frames)


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - it refers to images alone
) -> Document | None:
    """Encode the locations; None where there is none on a greyscale image.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    pictures = _pictures(request, result)
    if not pictures:
        return None
    header = object_header(
        DocumentKind.PRESENTATION_STATE,
        GRAYSCALE_PRESENTATION_STATE_STORAGE,
        "PR",
        request=request,
        card=card,
        context=context,
        result=result,
    )
    _add_identification(header, request, context)
    _add_grey_values(header, [picture.image for picture in pictures])
    said = " ".join(state.headlines(request, result, context))
    graphics = not context.report.is_withdrawn
    bulk = {
        0x00081115: _referenced_series(pictures),
        0x00700001: write.sequence(
            0x00700001,
            [_annotation(picture, said, card, graphics=graphics) for picture in pictures],
        ),
        0x0070005A: _displayed_areas(pictures),
        0x00700060: write.sequence(
            0x00700060,
            [write.text(0x00700002, "CS", _LAYER) + write.text(0x00700062, "IS", "1")],
        ),
    }
    return dicom_document(DocumentKind.PRESENTATION_STATE, request, header, bulk)


def _pictures(request: InferenceRequest, result: InferenceResult) -> list[_Picture]:
    """The greyscale images that something lies on, in the order of the findings."""
    images = {i.sop_instance_uid: i for i in request.study.instances if _is_greyscale(i)}
    drawn: dict[tuple[str, int | None], dict[ImageLocation, tuple[Finding, ...]]] = {}
    for finding in result.findings:
        if finding.presence in _NOTHING_TO_SHOW:
            continue
        for graphic in single_graphics(finding.locations):
            image = images.get(graphic.sop_instance_uid)
            if image is None:
                continue
            frame = (graphic.frame_number or 1) if image.frames > 1 else None
            labels = drawn.setdefault((image.sop_instance_uid, frame), {})
            labels[graphic] = (*labels.get(graphic, ()), finding)
    return [_Picture(images[uid], frame, labels) for (uid, frame), labels in drawn.items()]


def _is_greyscale(instance: Instance) -> bool:
    colour = instance.attributes.get("photometric_interpretation", "") not in _GREYSCALE
    return is_image(instance) and not colour


def _add_identification(
    header: Dataset, request: InferenceRequest, context: EncodingContext
) -> None:
    """Presentation State Identification module (PS3.3 C.11.10)."""
    header.Laterality = ""
    header.ContentLabel = "AI_FINDINGS"
    header.ContentDescription = header.SeriesDescription
    created = date_and_time(local_time(request, context))
    header.PresentationCreationDate, header.PresentationCreationTime = created
    header.ContentCreatorName = ""


def _add_grey_values(header: Dataset, images: Sequence[Instance]) -> None:
    """Modality LUT and Softcopy Presentation LUT (PS3.3 C.11.1, C.11.6): as the images have them.

    There is room for one of each. Where images differ, the modality LUT is left out, and the
    first image says whether low values are white.
    """
    first = images[0].attributes
    inverse = first.get("photometric_interpretation") == "MONOCHROME1"
    header.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    rescales = {
        tuple(i.attributes.get(f"rescale_{name}", "") for name in ("intercept", "slope", "type"))
        for i in images
    }
    intercept, slope, kind = next(iter(rescales))
    if len(rescales) == 1 and intercept and slope:
        header.RescaleIntercept = intercept
        header.RescaleSlope = slope
        header.RescaleType = kind or ("HU" if images[0].modality == "CT" else "US")


def _referenced_series(pictures: Iterable[_Picture]) -> bytes:
    """Presentation State Relationship module (PS3.3 C.11.11)."""
    by_series: dict[str, dict[str, tuple[Instance, list[int]]]] = {}
    for picture in pictures:
        series = by_series.setdefault(picture.image.series_instance_uid, {})
        _, frames = series.setdefault(picture.image.sop_instance_uid, (picture.image, []))
        if picture.frame_number is not None:
            frames.append(picture.frame_number)
    return write.sequence(
        0x00081115,
        (
            write.sequence(
                0x00081140,
                (
                    referenced_sop(i.sop_class_uid, i.sop_instance_uid, frames=sorted(frames))
                    for i, frames in images.values()
                ),
            )
            + write.text(0x0020000E, "UI", uid)
            for uid, images in by_series.items()
        ),
    )


def _annotation(picture: _Picture, said: str, card: ModelCard, *, graphics: bool) -> bytes:
    """An item of the Graphic Annotation Sequence (PS3.3 C.10.5)."""
    texts = [_banner(said)]
    drawn: list[bytes] = []
    if graphics:
        texts += [_label(graphic, found, card) for graphic, found in picture.labels.items()]
        drawn = [_graphic(graphic) for graphic in picture.labels]
    return (
        write.sequence(0x00081140, [picture.reference])
        + write.text(0x00700002, "CS", _LAYER)
        + write.sequence(0x00700008, texts)
        + (write.sequence(0x00700009, drawn) if drawn else b"")
    )


def _banner(said: str) -> bytes:
    """What the report is worth, along the top of the displayed area."""
    return (
        write.text(0x00700003, "CS", "DISPLAY")
        + _text(said)
        + write.floats(0x00700010, 0.02, 0.02)
        + write.floats(0x00700011, 0.98, 0.1)
        + write.text(0x00700012, "CS", "LEFT")
    )


def _label(graphic: ImageLocation, findings: Sequence[Finding], card: ModelCard) -> bytes:
    """What lies there, beside the graphic."""
    lines = dict.fromkeys(_line(finding, card) for finding in findings)
    return (
        write.text(0x00700004, "CS", "PIXEL")
        + _text("\r\n".join(lines))
        + write.floats(0x00700014, *_rightmost(graphic))
        + write.text(0x00700015, "CS", "N")
    )


def _line(finding: Finding, card: ModelCard) -> str:
    mark = "CRITICAL " if finding.critical else ""
    measure = unit(finding.unit) if finding.unit is not None else ""
    sure = probability(finding)
    said = f"AI {mark}{finding.tracking_identifier}: {answer(finding, card)} {measure}".rstrip()
    return f"{said} ({sure})" if sure else said


def _text(words: str) -> bytes:
    """(0070,0006) Unformatted Text Value, a single value of VR ST."""
    fits = len(words) <= _LONGEST_TEXT
    return write.text(0x00700006, "ST", words if fits else f"{words[: _LONGEST_TEXT - 1]}…")


def _rightmost(graphic: ImageLocation) -> tuple[float, float]:
    """Where the graphic ends on the right."""
    if graphic.graphic_type is GraphicType.CIRCLE:
        (column, row), (other_column, other_row) = graphic.points
        radius = ((other_column - column) ** 2 + (other_row - row) ** 2) ** 0.5
        return column + radius, row
    return max(graphic.points)


def _graphic(graphic: ImageLocation) -> bytes:
    """An item of the Graphic Object Sequence; its units are those of a location."""
    closed = graphic.graphic_type in _CLOSED or graphic.points[0] == graphic.points[-1]
    is_point = graphic.graphic_type is GraphicType.POINT
    return (
        write.text(0x00700005, "CS", "PIXEL")
        + write.unsigned_shorts(0x00700020, 2)
        + write.unsigned_shorts(0x00700021, len(graphic.points))
        + write.floats(0x00700022, *(number for point in graphic.points for number in point))
        + write.text(0x00700023, "CS", graphic.graphic_type)
        + (write.text(0x00700024, "CS", "N") if closed and not is_point else b"")
    )


def _displayed_areas(pictures: Sequence[_Picture]) -> bytes:
    """Displayed Area module (PS3.3 C.10.4): the whole of each image."""
    by_size: dict[tuple[int, int, tuple[float, float] | None], list[bytes]] = {}
    for picture in pictures:
        image = picture.image
        size = (image.columns or 1, image.rows or 1, image.pixel_spacing)
        by_size.setdefault(size, []).append(picture.reference)
    return write.sequence(
        0x0070005A,
        (
            write.sequence(0x00081140, references)
            + write.signed_longs(0x00700052, 1, 1)
            + write.signed_longs(0x00700053, columns, rows)
            + write.text(0x00700100, "CS", "SCALE TO FIT")
            + _pixel_shape(spacing)
            for (columns, rows, spacing), references in by_size.items()
        ),
    )


def _pixel_shape(spacing: tuple[float, float] | None) -> bytes:
    if spacing is not None:
        return write.decimals(0x00700101, *spacing)
    return write.element(0x00700102, "IS", b"1\\1")
