"""Where a finding lies, in words.

An R4 Observation has no place for coordinates on an image (R5 has ImagingSelection), so it names
the image and the box around the graphic; the coordinates themselves are in the SR, which the
report names by its UID.
"""

from __future__ import annotations

from collections.abc import Mapping

from hub.domain.finding import GraphicType, ImageLocation
from hub.domain.study import Study


def image_names(study: Study) -> dict[str, str]:
    """SOP Instance UID -> ``image 12 of series 3``, as viewers number them; an image without a
    number is only an image."""
    names = {}
    for series in study.series:
        number = series.attribute("series_number")
        of_series = f" of series {number}" if number.isdecimal() else ""
        for instance in series.instances:
            one = "" if instance.instance_number is None else f" {instance.instance_number}"
            names[instance.sop_instance_uid] = f"image{one}{of_series}"
    return names


def location_text(location: ImageLocation, names: Mapping[str, str]) -> str:
    """One location: the image, its SOP Instance UID, and the columns and rows (pixels, from the
    outer corner of the top left one; PS3.3 C.18.6.1.2) that the graphic spans."""
    frame = "" if location.frame_number is None else f", frame {location.frame_number}"
    image = f"{names.get(location.sop_instance_uid, 'image')}{frame}"
    columns, rows = zip(*_extent(location), strict=True)
    spans = f"{_span('column', columns)}, {_span('row', rows)}"
    return f"{location.graphic_type} on {image} (urn:oid:{location.sop_instance_uid}): {spans}"


def _extent(location: ImageLocation) -> tuple[tuple[float, float], ...]:
    if location.graphic_type is not GraphicType.CIRCLE:
        return location.points
    (column, row), (on_column, on_row) = location.points
    radius = ((on_column - column) ** 2 + (on_row - row) ** 2) ** 0.5
    return (column - radius, row - radius), (column + radius, row + radius)


def _span(name: str, values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{name} {low:.1f}" if low == high else f"{name} {low:.1f} to {high:.1f}"
