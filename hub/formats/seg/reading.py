"""Segmentations of others as input: their segments and where each frame lies (PS3.3 C.8.20)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from hub.domain.coding import Code
from hub.domain.finding import FramePlace
from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.element_scan import scan_file
from hub.formats.dicom.functional_groups import frame_headers
from hub.formats.images.image import frame_place
from hub.formats.images.image_header import MAXIMUM_FRAMES, MAXIMUM_PIXELS, header_of
from hub.formats.images.waveform import READING_FAULTS
from hub.formats.sr.reading import code_of

MAXIMUM_MASK_BYTES = 1 << 31
"""Most bytes of unpacked masks, checked before anything is allocated."""
_NATIVE = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"))
_PACKED = 1


@dataclass(frozen=True, slots=True)
class SegmentOfOthers:
    """One item of the Segment Sequence."""

    number: int
    label: str
    category: Code
    property_type: Code
    algorithm_type: str
    """``AUTOMATIC``, ``SEMIAUTOMATIC`` or ``MANUAL``."""


@dataclass(frozen=True, slots=True)
class SegmentationOfOthers:
    """One segmentation object."""

    sop_instance_uid: str
    type: str
    """``BINARY``, ``FRACTIONAL`` or ``LABELMAP``."""
    segments: tuple[SegmentOfOthers, ...]
    masks: NDArray[Any] = field(repr=False)
    """(frame, row, column): 0 or 1; of fractions 0 up to ``maximum``; of label maps the number of
    the segment."""
    maximum: int
    frame_segments: tuple[int, ...]
    """Number of the segment of each frame; 0 in label maps, whose frames hold all."""
    frames: tuple[FramePlace, ...]
    referenced_sop_instance_uids: tuple[tuple[str, ...], ...]
    """The images that each frame was drawn on; empty where it does not say."""

    def mask_of(self, number: int) -> NDArray[Any]:
        """(frame, row, column) of one segment, only the frames that have it."""
        if self.type == "LABELMAP":
            return np.asarray(self.masks == number, np.uint8)
        return np.asarray(self.masks[np.array(self.frame_segments) == number])


def read_segmentation(data: bytes) -> SegmentationOfOthers:
    """Read a Part 10 file with native pixels.

    Raises:
        UnsuitableError: not a segmentation, or one that is compressed.
        RejectedError: it cannot be read, contradicts itself or is absurdly large.
    """
    try:
        return _segmentation(dcmread(io.BytesIO(data)), data)
    except READING_FAULTS as error:
        raise RejectedError(f"the segmentation cannot be read ({type(error).__name__})") from None


def _segmentation(found: Dataset, data: bytes) -> SegmentationOfOthers:
    kind = str(found.get("SegmentationType") or "")
    if "SegmentSequence" not in found or not kind:
        raise UnsuitableError(("not a segmentation",))
    if str(found.file_meta.TransferSyntaxUID) not in _NATIVE:
        raise UnsuitableError(("a compressed segmentation, which is not read",))
    masks = _masks(found)
    elements = scan_file(data)
    headers = frame_headers(elements, header_of(elements))
    groups = found.PerFrameFunctionalGroupsSequence
    if len(groups) != len(masks):
        raise RejectedError(f"functional groups of {len(groups)} frames, pixels of {len(masks)}")
    return SegmentationOfOthers(
        sop_instance_uid=str(found.SOPInstanceUID),
        type=kind,
        segments=tuple(map(_segment, found.SegmentSequence)),
        masks=masks,
        maximum=int(found.get("MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1,
        frame_segments=tuple(0 if kind == "LABELMAP" else _number(found, g) for g in groups),
        frames=tuple(map(frame_place, headers)),
        referenced_sop_instance_uids=tuple(map(_drawn_on, groups)),
    )


def _masks(found: Dataset) -> NDArray[Any]:
    rows, columns, frames = int(found.Rows), int(found.Columns), int(found.NumberOfFrames)
    bits, pixels = int(found.BitsAllocated), rows * columns * frames
    if bits not in (_PACKED, 8, 16) or not 0 < frames <= MAXIMUM_FRAMES:
        raise RejectedError(f"a segmentation of {frames} frames with {bits} bits")
    if rows * columns > MAXIMUM_PIXELS or pixels * max(bits // 8, 1) > MAXIMUM_MASK_BYTES:
        raise RejectedError(f"{frames} frames of {rows} x {columns}: larger than any real one")
    content = found.PixelData
    if not pixels or len(content) * 8 < pixels * bits:
        raise RejectedError(f"{len(content)} bytes cannot hold {pixels} pixels of {bits} bits")
    if bits == _PACKED:
        packed = np.frombuffer(content, np.uint8, -(-pixels // 8))
        values = np.unpackbits(packed, count=pixels, bitorder="little")
    else:
        values = np.frombuffer(content, f"<u{bits // 8}", pixels)
    return values.reshape(frames, rows, columns)


def _segment(item: Dataset) -> SegmentOfOthers:
    return SegmentOfOthers(
        number=int(item.SegmentNumber),
        label=str(item.get("SegmentLabel") or ""),
        category=code_of(item.SegmentedPropertyCategoryCodeSequence[0]),
        property_type=code_of(item.SegmentedPropertyTypeCodeSequence[0]),
        algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
    )


def _number(found: Dataset, groups: Dataset) -> int:
    """The segment of a frame: its own, or that of all frames."""
    shared = found.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for place in (groups, shared[0]):
        if identification := place.get("SegmentIdentificationSequence"):
            return int(identification[0].ReferencedSegmentNumber)
    raise RejectedError("a frame does not say which segment it is of")


def _drawn_on(groups: Dataset) -> tuple[str, ...]:
    return tuple(
        str(image.ReferencedSOPInstanceUID)
        for derivation in groups.get("DerivationImageSequence") or ()
        for image in derivation.get("SourceImageSequence") or ()
    )
