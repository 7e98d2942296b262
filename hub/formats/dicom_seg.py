"""A result's region as DICOM Segmentation, binary (PS3.3 A.51, C.8.20).

One frame for each segment and plane that is not empty; segments may overlap (nested
structures). Frames have the geometry of the images that they were drawn on, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import FramePlace, Region, Segment, SegmentAlgorithmType
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.errors import IntegrityError, RejectedError
from hub.formats import dicom_writer as write
from hub.formats.cielab import dicom_cielab
from hub.formats.dicom_object import (
    SEGMENTATION_STORAGE,
    code_dataset,
    dicom_document,
    object_header,
)
from hub.formats.encoding import (
    AI_MARK,
    EncodingContext,
    check_document_identity,
)
from hub.formats.seg_geometry import Geometry, geometry_of
from hub.formats.source_dataset import LOSSY_METHODS, compression_ratio
from hub.formats.sr_codes import ARTIFICIAL_INTELLIGENCE
from hub.formats.sr_content import referenced_sop

_SEGMENTATION = Code("113076", "DCM", "Segmentation")
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_REFERENCED_SEGMENT_NUMBER = (0x0062000B, 0x0062000A, "Referenced Segment Number")
_IMAGE_POSITION_PATIENT = (0x00200032, 0x00209113, "Image Position Patient")

Labels = npt.NDArray[np.uint8]
"""(plane, row, column); the value is the number of a segment, 0 for none."""


@dataclass(frozen=True, slots=True)
class _Frames:
    """The frames of a segmentation in their order: by segment, then by plane."""

    places: tuple[tuple[Segment, int], ...]
    """The segment and the index of the plane of each frame."""
    pixels: bytes
    """One bit for each pixel, the first in the lowest bit, without gaps between frames
    (PS3.5 section 8.1.1)."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - it refers to images alone
) -> Document | None:
    """Encode the region; None where the result has none or no voxel of it is set.

    Raises:
        IntegrityError: the result does not belong to the request, or the region does not
            have the size of its images.
        RejectedError: labels that are no segment; images without a common space.
    """
    check_document_identity(request, result)
    region = result.region
    if region is None:
        return None
    planes = _source_planes(request, region)
    frames = _frames(region)
    if not frames.places:
        return None
    images = tuple(plane.image for plane in planes)
    geometry = geometry_of(images)
    header = object_header(
        DocumentKind.SEG, SEGMENTATION_STORAGE, "SEG", request=request, card=card, context=context
    )
    _add_image_modules(header, region, len(frames.places))
    _add_compression(header, images)
    _add_segments(header, region, card)
    _add_dimensions(header, geometry)
    bulk = {
        0x00081115: _referenced_series(images),
        0x52009229: write.sequence(0x52009229, [geometry.shared]),
        0x52009230: _per_frame(frames, planes, geometry),
        0x7FE00010: write.element(0x7FE00010, "OB", frames.pixels),
    }
    return dicom_document(DocumentKind.SEG, request, header, bulk)


@dataclass(frozen=True, slots=True)
class _Plane:
    """What one plane of the region was drawn on."""

    image: Instance
    """With the geometry of the frame, where it is one of several."""
    frame_number: int | None


def _source_planes(request: InferenceRequest, region: Region) -> tuple[_Plane, ...]:
    by_uid = {instance.sop_instance_uid: instance for instance in request.study.instances}
    images = [by_uid[uid] for uid in region.sop_instance_uids]
    if any((image.rows, image.columns) != (region.rows, region.columns) for image in images):
        raise IntegrityError("the region does not have the rows and columns of its images")
    if not region.frames:
        if any(image.frames != 1 for image in images):
            raise RejectedError("the region does not name the frames of a multi-frame image")
        return tuple(_Plane(image, None) for image in images)
    return tuple(map(_plane, images, region.frames))


def _plane(image: Instance, frame: FramePlace) -> _Plane:
    if not image.is_multi_frame:
        return _Plane(image, None)
    if not 1 <= frame.number <= image.frames:
        raise IntegrityError("the region lies on a frame that its image does not have")
    placed = replace(
        image,
        image_position_patient=frame.image_position_patient,
        image_orientation_patient=frame.image_orientation_patient,
        pixel_spacing=frame.pixel_spacing,
        slice_thickness=frame.slice_thickness,
    )
    return _Plane(placed, frame.number)


def _frames(region: Region) -> _Frames:
    shape = (len(region.sop_instance_uids), region.rows, region.columns)
    labels: Labels = np.frombuffer(region.labels, np.uint8).reshape(shape)
    used = np.flatnonzero(labels.reshape(shape[0], -1).max(axis=1))
    if used.size == 0:
        return _Frames((), b"")
    drawn = labels if used.size == shape[0] else labels[used]
    _refuse_unknown_labels(drawn, region)
    places: list[tuple[Segment, int]] = []
    masks = []
    for segment in sorted(region.segments, key=lambda s: s.number):
        mask = _mask(drawn, region.values_of(segment.number))
        filled = mask.reshape(len(mask), -1).any(axis=1)
        places += [(segment, int(plane)) for plane in used[filled]]
        masks.append(mask if filled.all() else mask[filled])
    return _Frames(tuple(places), _packed(masks, shape[1] * shape[2]))


def _mask(labels: Labels, values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = np.equal(labels, values[0])
    for value in values[1:]:
        mask |= labels == value
    return mask


def _packed(masks: list[npt.NDArray[np.bool_]], pixels_per_frame: int) -> bytes:
    if pixels_per_frame % 8 == 0:
        # frames begin on whole bytes, so that segments can be packed one by one, uncopied
        return b"".join(np.packbits(mask, bitorder="little").tobytes() for mask in masks)
    return np.packbits(np.concatenate(masks), bitorder="little").tobytes()


def _refuse_unknown_labels(labels: Labels, region: Region) -> None:
    """A voxel of no segment would be lost without a word.

    Raises:
        RejectedError: there is one.
    """
    known = {value for segment in region.segments for value in region.values_of(segment.number)}
    known.add(0)
    # the common case in one fast pass: numbers without gaps, none above the largest
    largest = int(labels.max())
    unknown = set(range(largest + 1)) - known
    if any((labels == value).any() for value in unknown):
        raise RejectedError("the label map holds a value that is no segment")


def _add_image_modules(header: Dataset, region: Region, number_of_frames: int) -> None:
    """Segmentation Image and Image Pixel modules (PS3.3 C.8.20.2)."""
    header.ImageType = ["DERIVED", "PRIMARY"]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.NumberOfFrames = number_of_frames
    header.Rows = region.rows
    header.Columns = region.columns
    header.BitsAllocated = 1
    header.BitsStored = 1
    header.HighBit = 0
    header.PixelRepresentation = 0
    header.SegmentationType = "BINARY"
    header.SegmentsOverlap = "YES" if _overlap(region) else "NO"
    header.ContentLabel = "AI_SEGMENTATION"
    header.ContentDescription = AI_MARK
    header.ContentCreatorName = ""
    header.PresentationLUTShape = "IDENTITY"


def _add_compression(header: Dataset, images: tuple[Instance, ...]) -> None:
    """A segmentation of images that lost information says so (PS3.3 C.7.6.1.1.5)."""
    lossy = next((i for i in images if i.transfer_syntax_uid in LOSSY_METHODS), None)
    header.LossyImageCompression = "00" if lossy is None else "01"
    if lossy is not None:
        header.LossyImageCompressionRatio = compression_ratio(lossy)
        header.LossyImageCompressionMethod = LOSSY_METHODS[lossy.transfer_syntax_uid]


def _overlap(region: Region) -> bool:
    values = [value for s in region.segments for value in region.values_of(s.number)]
    return len(values) != len(set(values))


def _add_segments(header: Dataset, region: Region, card: ModelCard) -> None:
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = Sequence([code_dataset(ARTIFICIAL_INTELLIGENCE)])
    algorithm.AlgorithmName = write.fitted(card.name, 64)
    algorithm.AlgorithmVersion = write.fitted(card.version, 64)
    algorithm.AlgorithmSource = write.fitted(card.vendor.name, 64)
    header.SegmentSequence = Sequence(
        _segment_item(segment, algorithm)
        for segment in sorted(region.segments, key=lambda s: s.number)
    )


def _segment_item(segment: Segment, algorithm: Dataset) -> Dataset:
    item = Dataset()
    item.SegmentedPropertyCategoryCodeSequence = Sequence([code_dataset(segment.category)])
    item.SegmentNumber = segment.number
    item.SegmentLabel = write.fitted(segment.label, 64)
    item.SegmentationAlgorithmIdentificationSequence = Sequence([algorithm])
    item.SegmentAlgorithmType = SegmentAlgorithmType.AUTOMATIC.value
    item.SegmentAlgorithmName = algorithm.AlgorithmName
    item.RecommendedDisplayCIELabValue = list(dicom_cielab(*segment.recommended_display_rgb))
    item.SegmentedPropertyTypeCodeSequence = Sequence([code_dataset(segment.property_type)])
    item.TrackingID = segment.tracking_identifier
    item.TrackingUID = segment.tracking_uid
    return item


def _add_dimensions(header: Dataset, geometry: Geometry) -> None:
    """Multi-frame Dimension and Frame of Reference modules (PS3.3 C.7.6.17, C.7.4.1)."""
    pointers = [_REFERENCED_SEGMENT_NUMBER]
    if geometry.frame_of_reference_uid:
        pointers.append(_IMAGE_POSITION_PATIENT)
        header.FrameOfReferenceUID = geometry.frame_of_reference_uid
        header.PositionReferenceIndicator = ""
    organization_uid = derived_uid("dimensions", header.SOPInstanceUID)
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    header.DimensionOrganizationSequence = Sequence([organization])
    indices = []
    for pointer, group, label in pointers:
        index = Dataset()
        index.DimensionOrganizationUID = organization_uid
        index.DimensionIndexPointer = Tag(pointer)
        index.FunctionalGroupPointer = Tag(group)
        index.DimensionDescriptionLabel = label
        indices.append(index)
    header.DimensionIndexSequence = Sequence(indices)


def _referenced_series(images: tuple[Instance, ...]) -> bytes:
    """Common Instance Reference module (PS3.3 C.12.2)."""
    by_series: dict[str, list[bytes]] = {}
    for image in {image.sop_instance_uid: image for image in images}.values():
        reference = referenced_sop(image.sop_class_uid, image.sop_instance_uid)
        by_series.setdefault(image.series_instance_uid, []).append(reference)
    return write.sequence(
        0x00081115,
        (
            write.sequence(0x0008114A, items) + write.text(0x0020000E, "UI", uid)
            for uid, items in by_series.items()
        ),
    )


def _per_frame(frames: _Frames, planes: tuple[_Plane, ...], geometry: Geometry) -> bytes:
    """(5200,9230) Per-Frame Functional Groups Sequence, in the order of the frames."""
    derivations = {plane: _derivation(planes[plane]) for _, plane in frames.places}
    numbers = sorted({segment.number for segment, _ in frames.places})
    ranks = {number: rank for rank, number in enumerate(numbers, start=1)}
    items = []
    for segment, plane in frames.places:
        index = [ranks[segment.number]]
        if geometry.frame_of_reference_uid:
            index.append(geometry.ranks[plane])
        content = write.unsigned_longs(0x00209157, *index)
        identification = write.unsigned_shorts(0x0062000B, segment.number)
        items.append(
            derivations[plane]
            + write.sequence(0x00209111, [content])
            + geometry.per_plane[plane]
            + write.sequence(0x0062000A, [identification])
        )
    return write.sequence(0x52009230, items)


def _derivation(plane: _Plane) -> bytes:
    """(0008,9124) Derivation Image Sequence: the image, or its frame, that was drawn on."""
    numbers = () if plane.frame_number is None else (plane.frame_number,)
    source = (
        referenced_sop(plane.image.sop_class_uid, plane.image.sop_instance_uid, frames=numbers)
        + write.text(0x0028135A, "CS", "YES")
        + write.code(0x0040A170, _SOURCE_IMAGE)
    )
    derived = write.sequence(0x00082112, [source]) + write.code(0x00089215, _SEGMENTATION)
    return write.sequence(0x00089124, [derived])
