"""Where findings lie and what maps show, in words: for pages without images."""

from __future__ import annotations

from hub.domain.finding import GraphicType, ImageLocation, ParametricMap
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.study import Instance
from hub.formats.printed import words

_ONE_PLACE = (GraphicType.POINT, GraphicType.MULTIPOINT)


def locations(request: InferenceRequest, result: InferenceResult) -> list[str]:
    """A line for each graphic of each finding, in the order of the findings."""
    by_uid = {instance.sop_instance_uid: instance for instance in request.study.instances}
    return [
        f"{finding.code.code_meaning} ({finding.tracking_identifier}):"
        f" {image_name(by_uid[at.sop_instance_uid], at.frame_number)}, {_extent(at)}"
        for finding in result.findings
        for at in finding.locations
    ]


def image_name(instance: Instance, frame_number: int | None) -> str:
    """Which image it is, as a reader finds it: by numbers, for words in a header may name the
    patient, and these stand in pictures too."""
    number = "?" if instance.instance_number is None else str(instance.instance_number)
    frame = "" if frame_number is None else f", frame {frame_number}"
    series = instance.attributes.get("series_number", "")
    of_series = f" of series {series}" if series else ""
    return f"image {number}{frame}{of_series} ({instance.modality})"


def _extent(at: ImageLocation) -> str:
    """Of a point its place, of all else what it spans."""
    if at.graphic_type in _ONE_PLACE:
        points = "; ".join(f"column {x:.1f}, row {y:.1f}" for x, y in at.points)
        return f"{at.graphic_type.value.lower()} at {points}"
    columns, rows = zip(*_corners(at), strict=True)
    spans = (
        f"columns {min(columns):.1f} to {max(columns):.1f}, rows {min(rows):.1f} to {max(rows):.1f}"
    )
    return f"{at.graphic_type.value.lower()} in {spans}"


def _corners(at: ImageLocation) -> tuple[tuple[float, float], ...]:
    if at.graphic_type is not GraphicType.CIRCLE:
        return at.points
    (x, y), (on_x, on_y) = at.points
    radius = ((on_x - x) ** 2 + (on_y - y) ** 2) ** 0.5
    return ((x - radius, y - radius), (x + radius, y + radius))


def map_line(one: ParametricMap) -> str:
    """Which quantity a map shows, in which unit, on how many images."""
    site = f" ({one.finding_site.code_meaning})" if one.finding_site is not None else ""
    unit = words.unit(one.unit) or "no unit"
    count = len(one.sop_instance_uids)
    images = f"{count} image" if count == 1 else f"{count} images"
    return f"{one.label}: {one.quantity.code_meaning}{site} in {unit}, on {images}"
