"""A result's region as Label Map Segmentation (PS3.3 A.51, C.8.20.2.3.3): one frame for each plane
that is not empty, the value of a pixel being the number of its segment.

A pixel of a label map belongs to one segment only. Of nested segments each pixel therefore goes to
the innermost one, as in the region itself. What is then left of the outer one is another
thing than the whole: its label says what is missing, and it has no tracking identifier. A segment
that is nothing but the sum of others is not there. The binary form has them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Region, Segment
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.cielab import dicom_cielab
from hub.formats.dicom_objects.modules import code_dataset, dicom_document, object_header
from hub.formats.encoding import EncodingContext, check_document_identity
from hub.formats.seg.geometry import Geometry, geometry_of
from hub.formats.seg.planes import (
    FRAME_LABEL,
    Plane,
    add_compression,
    add_dimensions,
    referenced_series,
    source_planes,
)
from hub.formats.seg.segments import (
    add_image_modules,
    add_segments,
    derivations_of,
    labels_of,
)

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

_BACKGROUND = Code("125040", "DCM", "Background")
_SPATIAL_CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
_BACKGROUND_NUMBER = 0


def whole_segments(region: Region) -> frozenset[int]:
    """Numbers of the segments that a label map shows whole: a measurement of another one must not
    be said to be that of the label map's segment."""
    return frozenset(s.number for s in region.segments if region.values_of(s.number) == (s.number,))


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
    used, labels = labels_of(region)
    if used.size == 0:
        return None
    images = tuple(plane.image for plane in planes)
    geometry = geometry_of(images)
    header = object_header(
        DocumentKind.SEG_LABELMAP,
        LABEL_MAP_SEGMENTATION_STORAGE,
        "SEG",
        request=request,
        card=card,
        context=context,
    )
    add_image_modules(header, region, len(used), bits=8)
    header.SegmentationType = "LABELMAP"
    header.SegmentsOverlap = "NO"
    add_compression(header, images)
    _add_leaves(header, region, card)
    in_space = bool(geometry.frame_of_reference_uid)
    add_dimensions(header, geometry, [] if in_space else [FRAME_LABEL])
    bulk: write.Bulk = {
        0x00081115: referenced_series(images),
        0x00280120: write.unsigned_shorts(0x00280120, _BACKGROUND_NUMBER),
        0x52009229: write.sequence(0x52009229, [geometry.shared]),
        0x52009230: _per_frame([int(plane) for plane in used], planes, geometry),
        0x7FE00010: write.large_element(0x7FE00010, [np.ascontiguousarray(labels).data]),
    }
    return dicom_document(DocumentKind.SEG_LABELMAP, request, header, bulk)


def _add_leaves(header: Dataset, region: Region, card: ModelCard) -> None:
    """Segments with pixels of their own, and the background: what is not a segment has a number
    too (PS3.3 C.8.20.2.3.3 NOTE 2), which the Pixel Padding Value tells apart."""
    own = [s for s in region.segments if s.number in region.values_of(s.number)]
    whole = whole_segments(region)
    leaves = [s if s.number in whole else _remainder(s, region) for s in own]
    add_segments(header, leaves, card)
    for item in header.SegmentSequence:
        if item.SegmentNumber not in whole:
            del item.TrackingID
            del item.TrackingUID
    header.SegmentSequence.insert(0, _background())


def _remainder(segment: Segment, region: Region) -> Segment:
    names = {s.number: s.label for s in region.segments}
    inner = [n for n in region.values_of(segment.number) if n != segment.number]
    missing = ", ".join(names[n] for n in inner if n in names)
    return replace(segment, label=f"{segment.label} without {missing}")


def _background() -> Dataset:
    item = Dataset()
    item.SegmentedPropertyCategoryCodeSequence = [code_dataset(_SPATIAL_CONCEPT)]
    item.SegmentNumber = _BACKGROUND_NUMBER
    item.SegmentLabel = _BACKGROUND.code_meaning
    item.SegmentAlgorithmType = "MANUAL"  # as DCMTK and dcmqi have it: no algorithm found it
    item.RecommendedDisplayCIELabValue = list(dicom_cielab(0, 0, 0))
    item.SegmentedPropertyTypeCodeSequence = [code_dataset(_BACKGROUND)]
    return item


def _per_frame(used: Sequence[int], planes: Sequence[Plane], geometry: Geometry) -> bytes:
    """(5200,9230) Per-Frame Functional Groups Sequence: frames are planes."""
    derivations = derivations_of(used, planes)
    items = []
    for plane in used:
        if geometry.frame_of_reference_uid:
            content = write.unsigned_longs(0x00209157, geometry.ranks[plane])
        else:
            content = write.unsigned_longs(0x00209157, 1) + write.text(0x00209453, "LO", "1")
        items.append(
            derivations[plane] + write.sequence(0x00209111, [content]) + geometry.per_plane[plane]
        )
    return write.sequence(0x52009230, items)
