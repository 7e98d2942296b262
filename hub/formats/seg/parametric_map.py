"""Numbers for every voxel as a DICOM Parametric Map (PS3.3 A.75, C.8.32).

All maps of a result are frames of one object: map after map, plane after plane, each frame with
the Real World Value Mapping of its own quantity and unit. The stored values are the values
themselves (slope 1, intercept 0), as 32 bit floating point numbers. NaN stands for "no value
here": viewers and toolkits cannot be relied on to get along with it, so it is written as
a number below all others, which the object declares as Float Pixel Padding Value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import ParametricMap
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.errors import RejectedError
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.modules import dicom_document, object_header
from hub.formats.encoding import AI_MARK, EncodingContext, check_document_identity
from hub.formats.seg.geometry import Geometry, geometry_of
from hub.formats.seg.planes import (
    Dimension,
    Plane,
    add_compression,
    add_dimensions,
    derivation,
    referenced_series,
    source_planes,
)

PARAMETRIC_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.30"

_QUANTITY = Code("246205007", "SCT", "Quantity")
_FINDING_SITE = Code("363698007", "SCT", "Finding site")
_CALCULATION = Code("112187", "DCM", "Unspecified method of calculation")
_SOMEWHERE = Code("38266002", "SCT", "Entire body")
_LUT_LABEL: Dimension = (0x00409210, 0x00409096, "Map")
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
_LENGTH_OF_LUT_LABEL = 16

_Place = tuple[str, int | None]
"""SOP Instance UID and number of a frame."""

_Values = npt.NDArray[np.float32]
"""(plane, row, column)"""


@dataclass(frozen=True, slots=True)
class _Map:
    """One map, ready to be written."""

    source: ParametricMap
    planes: tuple[Plane, ...]
    values: _Values
    lowest: float
    highest: float
    has_gaps: bool
    """Some voxel has no value."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],  # noqa: ARG001 - it refers to images alone
) -> Document | None:
    """Encode the maps; None where the result has none, or none that has a number anywhere.

    Raises:
        IntegrityError: the result does not belong to the request, or a map does not have the
            size of its images.
        RejectedError: infinite numbers; images without a common space; maps of several sizes,
            which one object cannot hold.
    """
    check_document_identity(request, result)
    drawn = [_map(request, one) for one in result.maps if one.values]
    maps = [one for one in drawn if one is not None]
    if not maps:
        return None
    if len({(one.source.rows, one.source.columns) for one in maps}) > 1:
        raise RejectedError("parametric maps of several sizes do not fit into one object")
    places = {place: plane for one in maps for place, plane in _places(one)}
    images = tuple(plane.image for plane in places.values())
    geometry = geometry_of(images)
    header = object_header(
        DocumentKind.PARAMETRIC_MAP,
        PARAMETRIC_MAP_STORAGE,
        "OT",
        request=request,
        card=card,
        context=context,
    )
    _add_image_modules(header, maps[0].source, sum(len(one.planes) for one in maps))
    header.ContentQualification = "PRODUCT" if card.regulation.medical_device else "RESEARCH"
    add_compression(header, images)
    add_dimensions(header, geometry, [_LUT_LABEL])
    bulk: write.Bulk = {
        0x00081115: referenced_series(images),
        0x52009229: write.sequence(0x52009229, [_shared(maps, geometry)]),
        0x52009230: _per_frame(maps, geometry, {place: at for at, place in enumerate(places)}),
        **_pixels(maps),
    }
    return dicom_document(DocumentKind.PARAMETRIC_MAP, request, header, bulk)


def _places(one: _Map) -> Iterator[tuple[_Place, Plane]]:
    """The planes of a map by what tells them apart: several maps lie on the same ones."""
    for plane in one.planes:
        yield (plane.image.sop_instance_uid, plane.frame_number), plane


def _map(request: InferenceRequest, source: ParametricMap) -> _Map | None:
    """None where it has no number anywhere."""
    shape = (len(source.sop_instance_uids), source.rows, source.columns)
    values: _Values = np.frombuffer(source.values, "<f4").reshape(shape)
    lowest, highest = float(values.min()), float(values.max())
    has_gaps = math.isnan(lowest)  # as soon as one number is none
    if has_gaps:
        lowest, highest = float(np.fmin.reduce(values, None)), float(np.fmax.reduce(values, None))
    if math.isnan(lowest):
        return None
    if math.isinf(lowest) or math.isinf(highest):
        raise RejectedError("a parametric map holds infinite numbers")
    return _Map(source, source_planes(request, source), values, lowest, highest, has_gaps)


def _pixels(maps: list[_Map]) -> write.Bulk:
    """Float Pixel Data (7FE0,0008) and, where there is a voxel without a value, its padding
    (PS3.3 C.7.6.24)."""
    if not any(one.has_gaps for one in maps):
        return {0x7FE00008: _float_pixel_data(one.source.values for one in maps)}
    padding = _padding(min(one.lowest for one in maps))
    alone = np.array(padding, "<f4").tobytes()  # a range of one number
    filled = (np.where(np.isnan(one.values), padding, one.values) for one in maps)
    return {
        0x00280122: write.element(0x00280122, "FL", alone),
        0x00280124: write.element(0x00280124, "FL", alone),
        0x7FE00008: _float_pixel_data(one.astype("<f4", copy=False).data for one in filled),
    }


def _float_pixel_data(values: Iterable[bytes | memoryview]) -> write.Pieces:
    return write.large_element(0x7FE00008, values, "OF")


def _padding(lowest: float) -> np.float32:
    """A number below all others, but near them: viewers that do not know of padding choose their
    window by the range of what they read.

    Raises:
        RejectedError: there is none.
    """
    below = min(-1.0, 2.0 * lowest)
    if below < float(np.finfo(np.float32).min):
        raise RejectedError("the numbers of a parametric map leave none for voxels without value")
    return np.float32(below)


def _add_image_modules(header: Dataset, source: ParametricMap, frames: int) -> None:
    """Parametric Map Image, Floating Point Image Pixel and Acquisition Context modules (PS3.3
    C.8.32.2, C.7.6.24, C.7.6.14)."""
    header.ImageType = _IMAGE_TYPE
    header.PixelPresentation = "MONOCHROME"
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.NumberOfFrames = frames
    header.Rows = source.rows
    header.Columns = source.columns
    header.BitsAllocated = 32
    header.BurnedInAnnotation = "NO"
    header.RecognizableVisualFeatures = "NO"
    header.ContentLabel = "AI_MAP"
    header.ContentDescription = AI_MARK
    header.ContentCreatorName = ""
    header.PresentationLUTShape = "IDENTITY"
    header.AcquisitionContextSequence = []


def _shared(maps: list[_Map], geometry: Geometry) -> bytes:
    """What holds for all frames."""
    frame_type = write.element(0x00089007, "CS", "\\".join(_IMAGE_TYPE).encode())
    identity = (
        write.decimals(0x00281052, 0)
        + write.decimals(0x00281053, 1)
        + write.text(0x00281054, "LO", "US")
    )
    window = b"" if len(maps) > 1 else _window(maps[0])
    return (
        geometry.shared
        + window
        + write.sequence(0x00289145, [identity])
        + write.sequence(0x00409092, [frame_type])
    )


def _window(one: _Map) -> bytes:
    """(0028,9132) Frame VOI LUT: all values of the map."""
    centre = one.lowest + (one.highest - one.lowest) / 2
    width = (one.highest - one.lowest) or 1.0
    item = write.decimals(0x00281050, centre) + write.decimals(0x00281051, width)
    return write.sequence(0x00289132, [item + write.text(0x00281056, "CS", "LINEAR_EXACT")])


def _per_frame(maps: list[_Map], geometry: Geometry, order: Mapping[_Place, int]) -> bytes:
    """(5200,9230) Per-Frame Functional Groups Sequence; ``order`` is that of ``geometry``."""
    items = []
    for number, one in enumerate(maps, start=1):
        mapping = _mapping(one, number)
        window = _window(one) if len(maps) > 1 else b""
        anatomy = _anatomy(one.source)
        for place, plane in _places(one):
            at = order[place]
            index = [number]
            if geometry.frame_of_reference_uid:
                index.append(geometry.ranks[at])
            frame_content = write.unsigned_longs(0x00209157, *index)
            items.append(
                derivation(plane, _CALCULATION)
                + anatomy
                + write.sequence(0x00209111, [frame_content])
                + geometry.per_plane[at]
                + window
                + mapping
            )
    return write.sequence(0x52009230, items)


def _anatomy(source: ParametricMap) -> bytes:
    """(0020,9071) Frame Anatomy, which readers rely on; nobody says whether it is the left or the
    right one."""
    region = write.code(0x00082218, source.finding_site or _SOMEWHERE)
    return write.sequence(0x00209071, [region + write.text(0x00209072, "CS", "U")])


def _mapping(one: _Map, number: int) -> bytes:
    """(0040,9096): which quantity, in which unit (PS3.3 C.7.6.16.2.11)."""
    source = one.source
    definition = [_coded(_QUANTITY, source.quantity)]
    if source.finding_site is not None:
        definition.append(_coded(_FINDING_SITE, source.finding_site))
    label = write.fitted(f"{number} {source.label}", _LENGTH_OF_LUT_LABEL)
    item = (
        write.text(0x00283003, "LO", write.fitted(source.label, 64))
        + write.code(0x004008EA, source.unit)
        + write.text(0x00409210, "SH", label)
        + write.double(0x00409213, one.highest)
        + write.double(0x00409214, one.lowest)
        + write.sequence(0x00409220, definition)
        + write.double(0x00409224, 0.0)
        + write.double(0x00409225, 1.0)
    )
    return write.sequence(0x00409096, [item])


def _coded(name: Code, value: Code) -> bytes:
    """An item of the Quantity Definition Sequence (PS3.3 Table 10-2)."""
    return (
        write.text(0x0040A040, "CS", "CODE")
        + write.code(0x0040A043, name)
        + write.code(0x0040A168, value)
    )
