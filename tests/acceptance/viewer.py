"""What a clinician sees: studies of a PACS in OHIF, in a browser, and pictures of it."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page

from tests.peers import find_tool
from tests.peers.browser import chromium, record_foreign_requests
from tests.peers.ohif import ohif
from tests.running_hub import REPOSITORY, wait_for

SCREENSHOTS = REPOSITORY / "build" / "screenshots"
"""Pictures of the run, one for each thing that was seen."""
SEEN_TIMEOUT = 60.0
"""Generous, for a loaded machine without a graphics card."""

Picture = NDArray[np.int16]
"""(row, column, red green blue), 0 to 255."""

_DISPLAY_SETS = """() => {
    if (typeof services === "undefined") return [];
    return services.displaySetService.getActiveDisplaySets().map((one) => [
        one.displaySetInstanceUID, one.SOPClassUID || one.instances?.[0]?.SOPClassUID,
        one.StudyInstanceUID]);
}"""
_SHOWN_IMAGE = """() => {
    if (typeof services === "undefined") return "";
    const grid = services.viewportGridService, images = services.cornerstoneViewportService;
    return images.getCornerstoneViewport(grid.getActiveViewportId())?.getCurrentImageId() || "";
}"""
_PDF = """async () => {
    const url = document.querySelector("object[type='application/pdf']").data;
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


class Viewer:
    """OHIF in a browser, in front of one PACS."""

    def __init__(self, url: str, context: BrowserContext, foreign: list[str]) -> None:
        self.foreign_requests = foreign
        """URLs outside of this machine that anything asked for."""
        self._url = url
        self._context = context

    @contextmanager
    def study(self, study_instance_uid: str) -> Iterator[OpenStudy]:
        """A study in a page of its own, its series listed."""
        page = self._context.new_page()
        page.set_default_timeout(SEEN_TIMEOUT * 1000)
        # The tour of a new user lies over everything, once.
        page.add_locator_handler(page.get_by_text("Skip all"), lambda button: button.click())
        opened = OpenStudy(page, study_instance_uid)
        try:
            page.goto(f"{self._url}/viewer?StudyInstanceUIDs={study_instance_uid}")
            wait_for(lambda: bool(opened.series()), "the series of the study", SEEN_TIMEOUT)
            wait_for(lambda: bool(opened.shown_instance()), "the first image", SEEN_TIMEOUT)
            yield opened
        except BaseException:
            opened.keep("failed")
            raise
        finally:
            page.close()


class OpenStudy:
    """One study on the screen."""

    def __init__(self, page: Page, study_instance_uid: str) -> None:
        self.page = page
        self._study_instance_uid = study_instance_uid

    @property
    def pane(self) -> Locator:
        """Where the open series is shown, with all that is drawn over it."""
        return self.page.locator("[data-cy='viewport-grid']")

    def series(self) -> dict[str, str]:
        """SOP Class UID -> the viewer's name of the series; only of this study."""
        found = self.page.evaluate(_DISPLAY_SETS)
        return {sop: name for name, sop, uid in found if uid == self._study_instance_uid}

    def open(self, *sop_class_uids: str) -> None:
        """Double-click the series of one of these classes in the list, once it is there."""

        def names() -> list[str]:
            return [name for sop, name in self.series().items() if sop in sop_class_uids]

        wait_for(lambda: bool(names()), f"{sop_class_uids} in the list", SEEN_TIMEOUT)
        self.page.locator(f"[id='thumbnail-{names()[0]}']").dblclick()

    def shown_instance(self) -> str:
        """SOP Instance UID of the image on the screen."""
        found = str(self.page.evaluate(_SHOWN_IMAGE))
        return found.partition("/instances/")[2].partition("/")[0]

    def picture(self) -> Picture:
        """The pane as it looks now."""
        with Image.open(io.BytesIO(self.pane.screenshot())) as image:
            return np.asarray(image.convert("RGB"), np.int16)

    def wait_for_picture(self, shows: Callable[[Picture], Any], what: str) -> Picture:
        """The first picture of the pane of which ``shows`` is true."""
        seen: list[Picture] = []

        def look() -> bool:
            seen[:] = [self.picture()]
            return bool(shows(seen[0]))

        wait_for(look, what, SEEN_TIMEOUT, lambda: str(self.keep(f"missing {what}")))
        return seen[0]

    def text_of_pdf(self) -> str:
        """What stands in the file that the pane shows."""
        self.page.locator("object[type='application/pdf']").wait_for(state="attached")
        done = subprocess.run(
            [find_tool("pdftotext", "poppler-utils"), "-layout", "-", "-"],
            input=base64.b64decode(self.page.evaluate(_PDF)),
            check=True,
            capture_output=True,
        )
        return done.stdout.decode()

    def keep(self, name: str) -> Path:
        """Keep a picture of the whole window among the artefacts of the run."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / f"{name.replace(' ', '-')}.png"
        self.page.screenshot(path=file)
        return file


@contextmanager
def viewer_of(dicomweb_url: str) -> Iterator[Viewer]:
    """A viewer in front of a PACS, and the browser that shows it."""
    with ohif(dicomweb_url) as url, chromium() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        yield Viewer(url, context, record_foreign_requests(context))
