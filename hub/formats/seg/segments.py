"""What all forms of a segmentation share: its segments and what its frames say of them
(PS3.3 C.8.20.2, C.8.20.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.coding import Code
from hub.domain.finding import Region, Segment, SegmentAlgorithmType
from hub.domain.model_card import ModelCard
from hub.errors import RejectedError
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.cielab import dicom_cielab
from hub.formats.dicom_objects.modules import code_dataset
from hub.formats.encoding import AI_MARK
from hub.formats.seg.geometry import Geometry
from hub.formats.seg.planes import Dimension, Plane, derivation
from hub.formats.sr.codes import ARTIFICIAL_INTELLIGENCE

SEGMENTATION = Code("113076", "DCM", "Segmentation")
REFERENCED_SEGMENT_NUMBER: Dimension = (0x0062000B, 0x0062000A, "Referenced Segment Number")

Labels = npt.NDArray[np.uint8]
"""(plane, row, column); the value is the number of a segment, 0 for none."""

Places = Many[tuple[int, int]]
"""Number of the segment and index of the plane of each frame, in the order of the frames."""


def labels_of(region: Region) -> tuple[npt.NDArray[np.intp], Labels]:
    """The planes that hold anything, and the labels of these.

    Raises:
        RejectedError: a label that is no segment.
    """
    shape = (len(region.sop_instance_uids), region.rows, region.columns)
    labels: Labels = np.frombuffer(region.labels, np.uint8).reshape(shape)
    used = np.flatnonzero(labels.reshape(shape[0], -1).max(axis=1))
    if used.size == 0:
        return used, labels[:0]
    drawn = labels if used.size == shape[0] else labels[used]
    _refuse_unknown_labels(drawn, region)
    return used, drawn


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


def add_image_modules(header: Dataset, region: Region, frames: int, *, bits: int) -> None:
    """Segmentation Image and Image Pixel modules, apart from the Segmentation Type."""
    header.ImageType = ["DERIVED", "PRIMARY"]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.NumberOfFrames = frames
    header.Rows = region.rows
    header.Columns = region.columns
    header.BitsAllocated = bits
    header.BitsStored = bits
    header.HighBit = bits - 1
    header.PixelRepresentation = 0
    header.ContentLabel = "AI_SEGMENTATION"
    header.ContentDescription = AI_MARK
    header.ContentCreatorName = ""
    header.PresentationLUTShape = "IDENTITY"


def add_segments(header: Dataset, segments: Iterable[Segment], card: ModelCard) -> None:
    """(0062,0002) Segment Sequence, by number."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = Sequence([code_dataset(ARTIFICIAL_INTELLIGENCE)])
    algorithm.AlgorithmName = write.fitted(card.name, 64)
    algorithm.AlgorithmVersion = write.fitted(card.version, 64)
    algorithm.AlgorithmSource = write.fitted(card.vendor.name, 64)
    header.SegmentSequence = Sequence(
        _segment_item(segment, algorithm) for segment in sorted(segments, key=lambda s: s.number)
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


def per_frame_of_segments(places: Places, planes: Many[Plane], geometry: Geometry) -> bytes:
    """(5200,9230) Per-Frame Functional Groups Sequence, of frames that show one segment each."""
    derivations = derivations_of((plane for _, plane in places), planes)
    numbers = sorted({number for number, _ in places})
    ranks = {number: rank for rank, number in enumerate(numbers, start=1)}
    items = []
    for number, plane in places:
        index = [ranks[number]]
        if geometry.frame_of_reference_uid:
            index.append(geometry.ranks[plane])
        content = write.unsigned_longs(0x00209157, *index)
        identification = write.unsigned_shorts(0x0062000B, number)
        items.append(
            derivations[plane]
            + write.sequence(0x00209111, [content])
            + geometry.per_plane[plane]
            + write.sequence(0x0062000A, [identification])
        )
    return write.sequence(0x52009230, items)


def derivations_of(used: Iterable[int], planes: Many[Plane]) -> Mapping[int, bytes]:
    """What each plane in use was drawn on."""
    return {plane: derivation(planes[plane], SEGMENTATION) for plane in set(used)}
