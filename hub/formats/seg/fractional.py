"""How sure the model is of each voxel, as a fractional DICOM Segmentation (PS3.3 A.51,
C.8.20.2.3.2): probabilities of 0 to 255, of every segment on its own.

A frame in which a segment has no probability above 0 anywhere is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    add_image_modules,
    add_segments,
    per_frame_of_segments,
)

MAXIMUM_FRACTIONAL_VALUE = 255

_Probabilities = npt.NDArray[np.uint8]
"""(segment in the order of their numbers, plane, row, column)"""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - it refers to images alone
) -> Document | None:
    """Encode the probabilities; None where the result has none, or all of them are 0.

    Raises:
        IntegrityError: the result does not belong to the request, or the region does not
            have the size of its images.
        RejectedError: images without a common space.
    """
    check_document_identity(request, result)
    region = result.region
    if region is None or not region.is_drawn or not region.probabilities:
        return None
    planes = source_planes(request, region)
    places, pixels = _frames(region)
    if not places:
        return None
    images = tuple(plane.image for plane in planes)
    geometry = geometry_of(images)
    header = object_header(
        DocumentKind.SEG_FRACTIONAL,
        SEGMENTATION_STORAGE,
        "SEG",
        request=request,
        card=card,
        context=context,
    )
    add_image_modules(header, region, len(places), bits=8)
    header.SegmentationType = "FRACTIONAL"
    header.SegmentationFractionalType = "PROBABILITY"
    header.MaximumFractionalValue = MAXIMUM_FRACTIONAL_VALUE
    header.SegmentsOverlap = "UNDEFINED"  # what overlaps depends on a threshold
    add_compression(header, images)
    add_segments(header, region.segments, card)
    add_dimensions(header, geometry, [REFERENCED_SEGMENT_NUMBER])
    bulk: write.Bulk = {
        0x00081115: referenced_series(images),
        0x52009229: write.sequence(0x52009229, [geometry.shared]),
        0x52009230: per_frame_of_segments(places, planes, geometry),
        0x7FE00010: write.large_element(0x7FE00010, pixels),
    }
    return dicom_document(DocumentKind.SEG_FRACTIONAL, request, header, bulk)


def _frames(region: Region) -> tuple[list[tuple[int, int]], list[memoryview]]:
    """Number of the segment and index of the plane of each frame; the pixels of all."""
    shape = (len(region.segments), len(region.sop_instance_uids), region.rows, region.columns)
    values: _Probabilities = np.frombuffer(region.probabilities, np.uint8).reshape(shape)
    filled = values.reshape(*shape[:2], -1).max(axis=2) > 0
    places: list[tuple[int, int]] = []
    pixels = []
    for index in sorted(range(shape[0]), key=lambda i: region.segments[i].number):
        number = region.segments[index].number
        places += [(number, int(plane)) for plane in np.flatnonzero(filled[index])]
        pixels.append(values[index][filled[index]].data)
    return places, pixels
