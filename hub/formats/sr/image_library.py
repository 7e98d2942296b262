"""TID 1600 Image Library: the images that a report rests on, and how they were made.

What all images of a series have in common is said once, for the group (TID 1600 row 3);
the rest stands with each image. What a source's header does not say is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from hub.domain.coding import Code
from hub.domain.study import Instance
from hub.formats.sr import content as sr
from hub.formats.sr.codes import (
    FRAME_OF_REFERENCE_UID,
    HORIZONTAL_PIXEL_SPACING,
    IMAGE_LIBRARY,
    IMAGE_LIBRARY_GROUP,
    IMAGE_ORIENTATION,
    IMAGE_POSITION,
    MILLIMETER,
    MODALITY,
    NO_UNITS,
    PIXEL_DATA_COLUMNS,
    PIXEL_DATA_ROWS,
    PIXELS,
    SLICE_THICKNESS,
    SOURCE,
    VERTICAL_PIXEL_SPACING,
    acquisition_modality,
)
from hub.formats.sr.content import Relationship


def image_library(images: Sequence[Instance]) -> bytes:
    """The container, with one group for each series."""
    by_series: dict[str, list[Instance]] = {}
    for image in images:
        by_series.setdefault(image.series_instance_uid, []).append(image)
    return sr.container(IMAGE_LIBRARY, [_group(group) for group in by_series.values()], "1600")


def _group(images: Sequence[Instance]) -> bytes:
    described = [_descriptors(image) for image in images]
    in_all = frozenset(described[0]).intersection(*described[1:])
    shared = [item for item in described[0] if item in in_all]
    entries = [
        sr.reference(
            Relationship.CONTAINS,
            SOURCE,
            "IMAGE",
            sr.referenced_sop(image.sop_class_uid, image.sop_instance_uid),
            [item for item in items if item not in in_all],
        )
        for image, items in zip(images, described, strict=True)
    ]
    return sr.container(IMAGE_LIBRARY_GROUP, [*shared, *entries])


def _descriptors(image: Instance) -> list[bytes]:
    """TID 1602, with TID 1604 for images that have a position in space."""
    context = Relationship.HAS_ACQ_CONTEXT
    items = []
    if modality := acquisition_modality(image.modality):
        items.append(sr.code(context, MODALITY, modality))
    if image.frame_of_reference_uid:
        uid = image.frame_of_reference_uid
        items.append(sr.uid_reference(context, FRAME_OF_REFERENCE_UID, uid))
    return items + [sr.number(context, name, value, unit) for name, value, unit in _numbers(image)]


def _numbers(image: Instance) -> list[tuple[Code, float, Code]]:
    numbers: list[tuple[Code, float, Code]] = []
    if image.rows is not None and image.columns is not None:
        numbers.append((PIXEL_DATA_ROWS, image.rows, PIXELS))
        numbers.append((PIXEL_DATA_COLUMNS, image.columns, PIXELS))
    if image.pixel_spacing is not None:
        between_rows, between_columns = image.pixel_spacing
        numbers.append((HORIZONTAL_PIXEL_SPACING, between_columns, MILLIMETER))
        numbers.append((VERTICAL_PIXEL_SPACING, between_rows, MILLIMETER))
    if image.slice_thickness is not None:
        numbers.append((SLICE_THICKNESS, image.slice_thickness, MILLIMETER))
    if image.image_position_patient is not None:
        position = zip(IMAGE_POSITION, image.image_position_patient, strict=True)
        numbers += [(name, value, MILLIMETER) for name, value in position]
    if image.image_orientation_patient is not None:
        orientation = zip(IMAGE_ORIENTATION, image.image_orientation_patient, strict=True)
        numbers += [(name, value, NO_UNITS) for name, value in orientation]
    return numbers
