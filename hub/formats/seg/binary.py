"""A result's region as DICOM Segmentation, binary (PS3.3 A.51, C.8.20).

One frame for each segment and plane that is not empty; segments may overlap (nested
structures). Frames have the geometry of the images that they were drawn on, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Region
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.modules import SEGMENTATION_STORAGE, dicom_document, object_header
from hub.formats.encoding import EncodingContext, check_document_identity
from hub.formats.seg.geometry import geometry_of
from hub.formats.seg.planes import (
    add_compression,
    add_dimensions,
    referenced_series,
    source_planes,
)
from hub.formats.seg.segments import (
    REFERENCED_SEGMENT_NUMBER,
    Labels,
    add_image_modules,
    add_segments,
    labels_of,
    per_frame_of_segments,
)


@dataclass(frozen=True, slots=True)
class _Frames:
    """The frames of a segmentation in their order: by segment, then by plane."""

    places: tuple[tuple[int, int], ...]
    """The number of the segment and the index of the plane of each frame."""
    pixels: tuple[memoryview, ...]
    """One bit for each pixel, the first in the lowest bit, without gaps between frames
    (PS3.5 section 8.1.1)."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - it refers to images alone
) -> Document | None:
    """Encode the region; None where the result has none, or none that is drawn, or no voxel of it
    is set.

    Raises:
        IntegrityError: the result does not belong to the request, or the region does not
            have the size of its images.
        RejectedError: labels that are no segment; images without a common space.
    """
    check_document_identity(request, result)
    region = result.region
    if region is None or not region.is_drawn:
        return None
    planes = source_planes(request, region)
    frames = _frames(region)
    if not frames.places:
        return None
    images = tuple(plane.image for plane in planes)
    geometry = geometry_of(images)
    header = object_header(
        DocumentKind.SEG, SEGMENTATION_STORAGE, "SEG", request=request, card=card, context=context
    )
    add_image_modules(header, region, len(frames.places), bits=1)
    header.SegmentationType = "BINARY"
    header.SegmentsOverlap = "YES" if _overlap(region) else "NO"
    add_compression(header, images)
    add_segments(header, region.segments, card)
    add_dimensions(header, geometry, [REFERENCED_SEGMENT_NUMBER])
    bulk: write.Bulk = {
        0x00081115: referenced_series(images),
        0x52009229: write.sequence(0x52009229, [geometry.shared]),
        0x52009230: per_frame_of_segments(frames.places, planes, geometry),
        0x7FE00010: write.large_element(0x7FE00010, frames.pixels),
    }
    return dicom_document(DocumentKind.SEG, request, header, bulk)


def _frames(region: Region) -> _Frames:
    used, drawn = labels_of(region)
    if used.size == 0:
        return _Frames((), ())
    places: list[tuple[int, int]] = []
    masks = []
    for number in sorted(segment.number for segment in region.segments):
        mask = _mask(drawn, region.values_of(number))
        filled = mask.reshape(len(mask), -1).any(axis=1)
        places += [(number, int(plane)) for plane in used[filled]]
        masks.append(mask if filled.all() else mask[filled])
    return _Frames(tuple(places), _packed(masks, region.rows * region.columns))


def _mask(labels: Labels, values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = np.equal(labels, values[0])
    for value in values[1:]:
        mask |= labels == value
    return mask


def _packed(masks: list[npt.NDArray[np.bool_]], pixels_per_frame: int) -> tuple[memoryview, ...]:
    if pixels_per_frame % 8 == 0:
        # frames begin on whole bytes, so that segments can be packed one by one, uncopied
        return tuple(np.packbits(mask, bitorder="little").data for mask in masks)
    return (np.packbits(np.concatenate(masks), bitorder="little").data,)


def _overlap(region: Region) -> bool:
    values = [value for s in region.segments for value in region.values_of(s.number)]
    return len(values) != len(set(values))
