"""Multi-frame functional groups (PS3.3 C.7.6.16): what holds for each frame of an object.

A macro stands for each frame, or once for all, or not at all; then the top level of the object
says it or nobody does. Nothing is assumed for a frame that does not say where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from hub.errors import RejectedError
from hub.formats.dicom.element_scan import Elements
from hub.formats.images.image_header import PER_FRAME_GROUPS, SHARED_GROUPS, ImageHeader

FRAME_VOI_LUT = 0x00289132
_PLANE_POSITION, _PLANE_ORIENTATION = 0x00209113, 0x00209116
_PIXEL_MEASURES, _PIXEL_VALUE_TRANSFORMATION = 0x00289110, 0x00289145


def frame_headers(elements: Elements, header: ImageHeader) -> Iterator[ImageHeader]:
    """The header of each frame, in the order of the frames.

    Raises:
        RejectedError: the object has groups for another number of frames than it has.
    """
    shared = elements.first_item(SHARED_GROUPS)
    if PER_FRAME_GROUPS not in elements:
        for number in range(1, header.number_of_frames + 1):
            yield _with_groups(header, number, None, shared)
        return
    number = 0
    for number, own in enumerate(elements.items(PER_FRAME_GROUPS), start=1):
        if number > header.number_of_frames:
            break
        yield _with_groups(header, number, own, shared)
    if number != header.number_of_frames:
        raise RejectedError(
            f"functional groups of {number} or more frames, the object has "
            f"{header.number_of_frames}"
        )


def macro_of_frame(elements: Elements, frame_number: int, tag: int) -> Elements | None:
    """The item of a macro that holds for a frame, or ``None``."""
    own = next(islice(elements.items(PER_FRAME_GROUPS), frame_number - 1, None), None)
    return _macro(tag, own, elements.first_item(SHARED_GROUPS))


def _macro(tag: int, own: Elements | None, shared: Elements | None) -> Elements | None:
    for groups in (own, shared):
        if groups is not None and (item := groups.first_item(tag)) is not None:
            return item
    return None


def _with_groups(
    header: ImageHeader, number: int, own: Elements | None, shared: Elements | None
) -> ImageHeader:
    if own is None and shared is None:
        return replace(header, frame_number=number)
    position = _macro(_PLANE_POSITION, own, shared)
    orientation = _macro(_PLANE_ORIENTATION, own, shared)
    measures = _macro(_PIXEL_MEASURES, own, shared)
    return replace(
        _with_rescale(header, _macro(_PIXEL_VALUE_TRANSFORMATION, own, shared)),
        frame_number=number,
        image_position_patient=(
            position.decimals(0x00200032) if position else header.image_position_patient
        ),
        image_orientation_patient=(
            orientation.decimals(0x00200037) if orientation else header.image_orientation_patient
        ),
        pixel_spacing=measures.decimals(0x00280030) if measures else header.pixel_spacing,
        slice_thickness=measures.decimal(0x00180050) if measures else header.slice_thickness,
    )


def _with_rescale(header: ImageHeader, transformation: Elements | None) -> ImageHeader:
    if transformation is None:
        return header
    return replace(
        header,
        rescale_slope=transformation.decimal(0x00281053),
        rescale_intercept=transformation.decimal(0x00281052),
        rescale_type=transformation.text(0x00281054),
    )
