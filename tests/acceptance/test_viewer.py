"""Results as they look in a real viewer: OHIF on a real Orthanc, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hub.domain.identity import PatientIdentity
from tests.acceptance.disc_model import findings_of_a_disc, with_disc
from tests.acceptance.models import densities
from tests.acceptance.studies import StudyFiles, phantom
from tests.acceptance.viewer import SEEN_TIMEOUT, OpenStudy, Picture, Viewer, viewer_of
from tests.peers import dcmtk
from tests.peers.orthanc import Orthanc
from tests.running_hub import PACS, launch_hub, wait_for

pytestmark = pytest.mark.peers

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SC = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4")
"""Of one picture, and of several."""
PDF = "1.2.840.10008.5.1.4.1.1.104.1"

DISC_SLICES = (4, 5, 6)
DISC_RADIUS = 6
PIXEL_MM = 2.8
DIAMETER = f"Diameter: {(2 * DISC_RADIUS + 1) * PIXEL_MM:.2f} mm"
_CT_SERIES = 'series.modality == "CT"'


@dataclass(frozen=True)
class Results:
    """Two studies with their results in the PACS, and a viewer in front of it."""

    located: StudyFiles
    """A finding with a location, a segment, a key image."""
    whole: StudyFiles
    """Numbers of the whole examination, which lie nowhere."""
    viewer: Viewer


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, module_orthanc: Orthanc) -> Iterator[Results]:
    folder = tmp_path_factory.mktemp("viewer")
    plain = phantom(folder / "plain", accession_number="LOCATED")
    disc = with_disc(plain, folder / "disc", slices=DISC_SLICES, radius=DISC_RADIUS)
    other = PatientIdentity("PHANTOM-2", patient_name="PHANTOM^OTHER", patient_sex="O")
    whole = phantom(folder / "whole", seed=2, accession_number="WHOLE", patient=other)
    _analyse(folder, module_orthanc, (disc, whole))
    with viewer_of(module_orthanc.dicomweb_url) as viewer:
        yield Results(disc, whole, viewer)


def _analyse(folder: Path, orthanc: Orthanc, studies: tuple[StudyFiles, ...]) -> None:
    """Images and results into the PACS."""
    pacs = {
        "name": PACS,
        "kind": "dicom",
        "ae_title": orthanc.ae_title,
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "documents": ["sr", "seg", "key_image", "encapsulated_pdf"],
    }
    packages = {"LOCATED": findings_of_a_disc(folder / "disc-model")}
    packages |= {"WHOLE": densities(folder / "densities-model")}
    routes = [
        {
            "name": number.lower(),
            "when": f'study.accession_number == "{number}"',
            "series": _CT_SERIES,
            "model": model,
        }
        for number, model in (("LOCATED", "disc"), ("WHOLE", "densities"))
    ]
    hub = launch_hub(
        folder,
        sections={
            "destinations": [pacs],
            "models": [{"package": str(package)} for package in packages.values()],
            "routes": routes,
        },
    )
    try:
        for study in studies:
            hub.send(study.files)
            dcmtk.storescu(study.files, orthanc.dicom_port, aec=orthanc.ae_title)
        for study in studies:
            timeline = hub.wait_for_study(study.study_instance_uid)
            assert {one.state for one in timeline.deliveries} == {"delivered"}, timeline
    finally:
        hub.close()


# --- pictures ---------------------------------------------------------------------------------


def _brightness(picture: Picture) -> Picture:
    return picture.mean(axis=2)


def _coloured(picture: Picture) -> int:
    """Pixels that are orange to red, as the segment is and no image of a CT."""
    red, green, blue = (picture[..., channel] for channel in range(3))
    return int(((red - green > 60) & (red - blue > 60)).sum())


def _outline(study: OpenStudy) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is drawn for the finding, in pixels of the pane."""
    drawn = study.pane.locator("svg.svg-layer polyline").first.get_attribute("points") or ""
    points = np.array([float(n) for n in drawn.replace(",", " ").split()]).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return round(left), round(top), round(right), round(bottom)


# --- what is seen -----------------------------------------------------------------------------


def test_a_measurement_stands_on_its_slice_with_label_value_and_unit(results: Results) -> None:
    middle = results.located.headers[DISC_SLICES[1]]
    with results.viewer.study(results.located.study_instance_uid) as study:
        study.open(SR)
        label = study.pane.locator("svg.svg-layer text").first
        label.wait_for(state="attached")
        wait_for(lambda: DIAMETER in (label.text_content() or ""), DIAMETER, SEEN_TIMEOUT)
        assert study.shown_instance() == middle.SOPInstanceUID
        assert f"I:{middle.InstanceNumber} " in study.pane.inner_text()
        study.page.get_by_text("No", exact=True).click()  # would it become one's own? It stays
        study.keep("sr")
        left, top, right, bottom = _outline(study)
        picture = _brightness(study.picture())
        inside = picture[top + 10 : bottom - 10, left + 10 : right - 10]
        assert inside.mean() > 200
        beside = [
            picture[top:bottom, left - 12 : left - 4],
            picture[top:bottom, right + 4 : right + 12],
        ]
        assert max(strip.mean() for strip in beside) < 130


def test_a_segment_is_an_overlay_on_its_images(results: Results) -> None:
    with results.viewer.study(results.located.study_instance_uid) as study:
        study.open(CT)
        study.wait_for_picture(lambda picture: _brightness(picture).max() > 200, "the image")
        assert _coloured(study.picture()) == 0
        study.open(SEG)
        study.page.get_by_text("Yes", exact=True).click()  # "Do you want to open it?"
        study.wait_for_picture(lambda picture: _coloured(picture) > 2000, "the segment")
        study.keep("seg")


def test_the_key_image_is_shown(results: Results) -> None:
    with results.viewer.study(results.located.study_instance_uid) as study:
        study.open(*SC)
        # The body in the image is light grey; the banner above it says in orange what made it.
        study.wait_for_picture(lambda seen: (_brightness(seen) > 200).mean() > 0.05, "the capture")
        assert _coloured(study.picture()) > 2000
        study.keep("sc")


def test_the_report_for_people_is_shown(results: Results) -> None:
    with results.viewer.study(results.located.study_instance_uid) as study:
        _see_the_report(study, "36.4")
        study.keep("pdf")


def _see_the_report(study: OpenStudy, number: str) -> None:
    study.open(PDF)
    assert number in study.text_of_pdf()
    study.wait_for_picture(lambda seen: (seen.min(axis=2) > 240).mean() > 0.2, "the page")


def test_a_result_without_location_shows_as_pdf_and_breaks_nothing(results: Results) -> None:
    with results.viewer.study(results.whole.study_instance_uid) as study:
        study.open(SR)  # OHIF has no place for it, and must survive that
        study.page.wait_for_timeout(1000)
        _see_the_report(study, "-710.0")
        study.keep("without location pdf")
        study.open(CT)
        study.wait_for_picture(lambda seen: _brightness(seen).max() > 200, "the image")
        assert study.page.get_by_text("Something went wrong").count() == 0


def test_nothing_was_asked_from_elsewhere(results: Results) -> None:
    with results.viewer.study(results.located.study_instance_uid) as study:
        study.open(CT)
        study.wait_for_picture(lambda picture: _brightness(picture).max() > 200, "the image")
    assert results.viewer.foreign_requests == []
