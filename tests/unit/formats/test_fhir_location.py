"""A location names the image and the place on it in words that people can follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.domain.finding import GraphicType, ImageLocation
from hub.formats.fhir.location import image_names, location_text
from tests import builders
from tests.unit.formats.fhir_bundles import CASES, resources

NAMES = {"2.25.5": "image 12 of series 3"}


@pytest.mark.parametrize(
    ("kind", "points", "place"),
    [
        (GraphicType.POINT, ((10.25, 20.0),), "column 10.2, row 20.0"),
        (
            GraphicType.POLYLINE,
            ((1.0, 8.0), (4.0, 2.0), (3.0, 9.5)),
            "column 1.0 to 4.0, row 2.0 to 9.5",
        ),
        (GraphicType.CIRCLE, ((10.0, 20.0), (13.0, 24.0)), "column 5.0 to 15.0, row 15.0 to 25.0"),
    ],
)
def test_a_location_is_the_box_around_its_graphic(
    kind: GraphicType, points: tuple[tuple[float, float], ...], place: str
) -> None:
    text = location_text(ImageLocation(kind, "2.25.5", points), NAMES)
    assert text == f"{kind} on image 12 of series 3 (urn:oid:2.25.5): {place}"


def test_a_frame_is_named() -> None:
    location = ImageLocation(GraphicType.POINT, "2.25.6", ((1.0, 2.0),), 7)
    assert location_text(location, {}).startswith("POINT on image, frame 7 (urn:oid:2.25.6)")


def test_images_have_the_numbers_that_viewers_show() -> None:
    study = builders.chest_ct_study(2)
    (series,) = study.series
    numbered = replace(series.instances[0], attributes={"series_number": "4"})
    shown = replace(study, series=(replace(series, instances=(numbered, series.instances[1])),))
    assert list(image_names(shown).values()) == ["image 1 of series 4", "image 2 of series 4"]
    unnumbered = replace(numbered, instance_number=None, attributes={})
    shown = replace(study, series=(replace(series, instances=(unnumbered,)),))
    assert list(image_names(shown).values()) == ["image"]


def test_every_location_of_a_finding_is_a_component() -> None:
    first = resources(CASES["critical"].bundle(), "Observation")[0]
    regions = [c["valueString"] for c in first["component"] if "valueString" in c]
    assert len(regions) == 2
    assert regions[0].startswith("POLYLINE on image 3 (urn:oid:2.25.1001.1.3): column 10.5 to 20.0")
    assert {c["code"]["coding"][0]["code"] for c in first["component"]} >= {"111030"}
