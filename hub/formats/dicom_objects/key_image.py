"""Key images as DICOM Secondary Capture: what was found, drawn into the images that show it.

For viewers that show neither SR nor presentation states nor PDF. One picture is a Secondary
Capture Image (PS3.3 A.8.1), several are a Multi-frame True Color one (A.8.5). What lies on no
image stands on a card of words, and so does what the model could not answer: no result
is without a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding, ImageLocation
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportCause
from hub.domain.study import Instance
from hub.errors import RejectedError, TransientError
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects import key_image_words as words
from hub.formats.dicom_objects.modules import (
    date_and_time,
    dicom_document,
    local_time,
    object_header,
)
from hub.formats.dicom_objects.source_dataset import is_image
from hub.formats.encoding import EncodingContext, check_document_identity
from hub.formats.key_images import KeyImage, key_images
from hub.formats.printed import key_picture as draw
from hub.formats.report_state import standing_title
from hub.formats.seg.planes import SOURCE_IMAGE, add_compression
from hub.formats.sr.content import referenced_sop
from hub.ports import RenderedImage

SECONDARY_CAPTURE_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.7.4"

_ATTEMPTS = 2
_PALETTE: tuple[draw.Colour, ...] = (
    (255, 214, 10),
    (64, 196, 255),
    (105, 240, 174),
    (255, 128, 171),
)
"""Of findings that have no segment of their own."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """Draw a result of any outcome; of a report that is withdrawn only that, as a card. None where
    the pictures of an earlier version (in ``related``) still hold: no person changed the findings.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    withdrawn = context.report.is_withdrawn
    still_holds = not withdrawn and context.report.cause is not ReportCause.MODIFIED
    if DocumentKind.KEY_IMAGE in related and still_holds:
        return None
    shown = () if withdrawn else key_images(request, result)
    frames: list[bytes] = []
    for number, one in enumerate(shown, start=1):
        around = words.frame(request, result, card, context, f"Key image {number} of {len(shown)}")
        frames += _drawn(one, request, result, card=card, context=context, around=around)
    on_images = {finding for one in shown for finding in one.findings}
    rest = [finding for finding in result.findings if finding not in on_images]
    if rest or not frames:
        around = words.frame(request, result, card, context, "Summary")
        frames += draw.cards(words.summary(result, card, context, rest), around)
    sources = _sources(request, result, shown)
    return _document(request, result, card, context, frames=frames, sources=sources)


def _drawn(
    one: KeyImage,
    request: InferenceRequest,
    result: InferenceResult,
    *,
    card: ModelCard,
    context: EncodingContext,
    around: draw.Frame,
) -> list[bytes]:
    """The picture of one key image; cards in its place where the image cannot be shown."""
    instance = next(
        i for i in request.study.instances if i.sop_instance_uid == one.sop_instance_uid
    )
    title = words.image_title(instance, one.frame_number)
    findings = sorted(one.findings, key=lambda f: (not f.critical, not f.locations))
    colours = _colours(findings, result)
    legend = [
        draw.Line(words.finding(f, card), colours[number]) for number, f in enumerate(findings)
    ]
    image, reason = _rendered(instance, one.frame_number or 1, context)
    if image is None:
        said = [draw.Line(title, is_heading=True), draw.Line(reason), *legend]
        return draw.cards(said, around)
    outlines = _outlines(one, result, image)
    return [
        draw.picture(
            image,
            around,
            aspect=_aspect(instance),
            outlines=outlines,
            shapes=_shapes(one, dict(zip(findings, colours, strict=True)), card),
            legend=[draw.Line(title), *legend, *_segment_lines(one, result)],
        )
    ]


def _shapes(
    one: KeyImage, colours: Mapping[Finding, draw.Colour], card: ModelCard
) -> list[draw.Shape]:
    """Each graphic on the image once, with all that is said of it."""
    labels: dict[ImageLocation, list[Finding]] = {}
    for finding in colours:
        for at in dict.fromkeys(finding.locations):
            is_frame = (at.frame_number or 1) == (one.frame_number or 1)
            if at.sop_instance_uid == one.sop_instance_uid and is_frame:
                labels.setdefault(at, []).append(finding)
    return [
        draw.Shape(
            at.graphic_type,
            at.points,
            colours[found[0]],
            "; ".join(words.label(finding, card) for finding in found),
        )
        for at, found in labels.items()
    ]


def _rendered(
    instance: Instance, frame_number: int, context: EncodingContext
) -> tuple[RenderedImage | None, str]:
    """The image, or why it cannot be shown."""
    if context.images is None:
        return None, "This image is not shown here: look at the original image."
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            return context.images.render(instance, frame_number), ""
        except RejectedError as error:
            reason = str(error)
            break
        except TransientError as error:
            reason = str(error)
    return None, f"This image cannot be shown here ({reason}): look at the original image."


def _aspect(instance: Instance) -> float:
    """Height of a pixel as a multiple of its width."""
    if instance.pixel_spacing is None or min(instance.pixel_spacing) <= 0:
        return 1.0
    return instance.pixel_spacing[0] / instance.pixel_spacing[1]


def _colours(findings: Sequence[Finding], result: InferenceResult) -> list[draw.Colour]:
    """Critical ones red, those of a segment in its colour, the others one after another; what lies
    where an earlier one does in the colour of that one."""
    segments = result.region.segments if result.region is not None else ()
    by_number = {s.number: s.recommended_display_rgb for s in segments}
    made: list[draw.Colour] = []
    by_place: dict[tuple[ImageLocation, ...], draw.Colour] = {}
    for index, finding in enumerate(findings):
        own = next((by_number[n] for n in finding.segment_numbers if n in by_number), None)
        colour = own or _PALETTE[index % len(_PALETTE)]
        colour = draw.CRITICAL_GRAPHIC if finding.critical else colour
        made.append(by_place.setdefault(finding.locations, colour) if finding.locations else colour)
    return made


def _planes_of(one: KeyImage, result: InferenceResult, image: RenderedImage) -> list[int]:
    """Which planes of the region lie on the image."""
    region = result.region
    if region is None or not region.is_drawn:
        return []
    if (region.rows, region.columns) != (image.rows, image.columns):
        return []
    return [
        index
        for index, uid in enumerate(region.sop_instance_uids)
        if uid == one.sop_instance_uid
        and (not region.frames or region.frames[index].number == (one.frame_number or 1))
    ]


def _outlines(one: KeyImage, result: InferenceResult, image: RenderedImage) -> list[draw.Outline]:
    region, made = result.region, []
    for plane in _planes_of(one, result, image):
        assert region is not None  # noqa: S101 - it has planes
        size = region.rows * region.columns
        flat = np.frombuffer(region.labels, np.uint8, size, plane * size)
        labels = flat.reshape(region.rows, region.columns)
        made += [
            draw.Outline(np.isin(labels, region.values_of(s.number)), s.recommended_display_rgb)
            for s in region.segments
            if s.number in one.segments
        ]
    return made


def _segment_lines(one: KeyImage, result: InferenceResult) -> list[draw.Line]:
    segments = result.region.segments if result.region is not None else ()
    return [
        draw.Line(f"Outline: {s.label}", s.recommended_display_rgb)
        for s in segments
        if s.number in one.segments
    ]


# --- the DICOM object --------------------------------------------------------------------


def _document(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    *,
    frames: Sequence[bytes],
    sources: Sequence[Instance],
) -> Document:
    several = len(frames) > 1
    header = object_header(
        DocumentKind.KEY_IMAGE,
        MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE
        if several
        else SECONDARY_CAPTURE_IMAGE_STORAGE,
        "OT",
        request=request,
        card=card,
        context=context,
        result=result,
    )
    _add_image_modules(header, card, context)
    header.DateOfSecondaryCapture, header.TimeOfSecondaryCapture = date_and_time(
        local_time(request, context)
    )
    add_compression(header, sources)
    if several:
        _add_pages(header, len(frames))
    bulk: write.Bulk = {0x7FE00010: write.large_element(0x7FE00010, frames)}
    if sources:
        bulk[0x00082112] = _source_images(sources)
    return dicom_document(DocumentKind.KEY_IMAGE, request, header, bulk)


def _source_images(sources: Sequence[Instance]) -> bytes:
    """(0008,2112) Source Image Sequence of the General Reference module (PS3.3 C.12.4)."""
    return write.sequence(
        0x00082112,
        (
            referenced_sop(i.sop_class_uid, i.sop_instance_uid)
            + write.code(0x0040A170, SOURCE_IMAGE)
            for i in sources
        ),
    )


def _sources(
    request: InferenceRequest, result: InferenceResult, shown: Sequence[KeyImage]
) -> list[Instance]:
    """The images that are shown; where none is, those that the findings rest on, or else those
    that the model was given."""
    by_uid = {i.sop_instance_uid: i for i in request.study.instances if is_image(i)}
    named: Iterable[str] = [one.sop_instance_uid for one in shown]
    named = named or [e.sop_instance_uid for f in result.findings for e in f.evidence]
    named = named or [i.sop_instance_uid for series in request.series for i in series.instances]
    return [by_uid[uid] for uid in dict.fromkeys(named) if uid in by_uid]


def _add_image_modules(header: Dataset, card: ModelCard, context: EncodingContext) -> None:
    """General Image, Image Pixel, SC Equipment and SC Image modules (PS3.3 C.7.6.1, C.7.6.3,
    C.8.6)."""
    header.ImageType = ["DERIVED", "SECONDARY"]
    header.ConversionType = "WSD"
    header.Laterality = None
    header.PatientOrientation = None  # pictures lie on it, each as it came
    header.BurnedInAnnotation = "YES"
    header.RecognizableVisualFeatures = "YES"  # as the images it was made of may have them
    said = standing_title(context.report)
    header.DerivationDescription = (
        f"{said}: findings of {card.name} {card.version} drawn into images"
    )
    header.ImageComments = f"{said}. {words.NOT_ALONE}"
    header.SamplesPerPixel = 3
    header.PhotometricInterpretation = "RGB"
    header.PlanarConfiguration = 0
    header.Rows, header.Columns = draw.HEIGHT, draw.WIDTH
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PixelRepresentation = 0


def _add_pages(header: Dataset, count: int) -> None:
    """Multi-frame and SC Multi-frame Vector modules (PS3.3 C.7.6.6, C.8.6.4)."""
    header.NumberOfFrames = count
    header.FrameIncrementPointer = 0x00182001
    header.PageNumberVector = list(range(1, count + 1))
