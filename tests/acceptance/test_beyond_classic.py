"""Objects beyond classic CT through the whole hub: enhanced CT, radiographs, reports, PDF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from hub.domain.delivery import DocumentKind
from hub.formats.images.ct_phantom import chest_phantom
from hub.store.overview import StudyTimeline
from tests import builders
from tests.peers import dcmtk
from tests.running_hub import RESULTS, RunningHub, launch_hub
from tests.unit.enhanced import enhanced_ct
from tests.unit.formats.encoded import all_documents
from tests.unit.imaging import file_bytes

pytestmark = pytest.mark.peers

LUNG = "lung-density"
ROUTES = [
    {"name": LUNG, "when": "true", "series": "series.modality == 'CT'", "model": LUNG},
    {
        "name": "reports",
        "when": "true",
        "series": "series.concept_name_code == 'ai-result' && series.completion_flag == 'COMPLETE'",
        "model": LUNG,
    },
    {
        "name": "documents",
        "when": "true",
        "series": "series.document_title != ''",
        "model": LUNG,
    },
    {
        "name": "segmentations",
        "when": "true",
        "series": "series.content_label != '' && series.number_of_frames > 1",
        "model": LUNG,
    },
]
PHANTOM = {"slices": 8, "rows": 128, "columns": 128, "slice_spacing_mm": 5.0}


@dataclass(frozen=True)
class Answered:
    """The same phantom as eight slices and as one object of eight frames."""

    classic: StudyTimeline
    enhanced: StudyTimeline
    source: pydicom.Dataset
    documents: StudyTimeline
    """A report, a segmentation and an encapsulated PDF as a study that came from elsewhere."""
    results: Path


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answered]:
    folder = tmp_path_factory.mktemp("beyond")
    hub = launch_hub(
        folder, sections={"routes": ROUTES, "models": [{"package": f"builtin:{LUNG}"}]}
    )
    classic = chest_phantom(**PHANTOM, seed=1, study_instance_uid="2.25.71")  # type: ignore[arg-type]
    again = chest_phantom(**PHANTOM, seed=1, study_instance_uid="2.25.72")  # type: ignore[arg-type]
    content = enhanced_ct(again.files)
    yield Answered(
        classic=_sent(hub, folder / "classic", classic.files, "2.25.71"),
        enhanced=_sent(hub, folder / "enhanced", [content], "2.25.72"),
        source=pydicom.dcmread(BytesIO(content)),
        documents=_sent(hub, folder / "documents", _documents(), "2.25.73"),
        results=hub.data / RESULTS,
    )
    hub.close()


def _documents() -> list[bytes]:
    """What this hub writes, under another study: it reads them as anybody's."""
    request = builders.request_for(builders.chest_ct_study(3))
    made = all_documents(request, builders.assessed(request))
    files = []
    for kind in (DocumentKind.SR, DocumentKind.SEG, DocumentKind.ENCAPSULATED_PDF):
        data_set = pydicom.dcmread(BytesIO(made[kind].content))
        data_set.StudyInstanceUID = "2.25.73"
        files.append(file_bytes(data_set))
    return files


def _sent(hub: RunningHub, folder: Path, files: list[bytes], study: str) -> StudyTimeline:
    folder.mkdir()
    paths = []
    for number, content in enumerate(files):
        paths.append(folder / f"{number:03}.dcm")
        paths[-1].write_bytes(content)
    hub.send(tuple(paths))
    return hub.wait_for_study(study)


def test_an_enhanced_ct_gives_the_numbers_of_its_slices(answered: Answered) -> None:
    [classic], [enhanced] = answered.classic.results, answered.enhanced.results
    assert classic.outcome == enhanced.outcome == "assessed"
    numbers = [[finding["value"] for finding in one.findings] for one in (classic, enhanced)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) > 0


def test_its_documents_name_its_frames_and_are_valid(answered: Answered) -> None:
    [request] = answered.enhanced.requests
    files = sorted((answered.results / request.request_id).rglob("*.dcm"))
    assert len(files) >= 2
    kinds = {}
    for file in files:
        data_set = pydicom.dcmread(file)
        kinds[str(data_set.Modality)] = data_set
        assert dcmtk.dciodvfy(file) == []
    for frame in kinds["SEG"].PerFrameFunctionalGroupsSequence:
        [drawn_on] = frame.DerivationImageSequence[0].SourceImageSequence
        assert drawn_on.ReferencedSOPInstanceUID == answered.source.SOPInstanceUID
        assert 1 <= drawn_on.ReferencedFrameNumber <= 8


@pytest.mark.parametrize(
    ("route", "modality"), [("reports", "SR"), ("segmentations", "SEG"), ("documents", "DOC")]
)
def test_reports_segmentations_and_pdf_are_kept_and_routed_by_what_they_are(
    answered: Answered, route: str, modality: str
) -> None:
    """A model for CT refuses them, and says what it was given."""
    timeline = answered.documents
    [asked] = [request for request in timeline.requests if request.route == route]
    [result] = [one for one in timeline.results if one.request_id == asked.request_id]
    assert result.outcome == "unsuitable"
    assert any(f"The modality is {modality};" in reason for reason in result.reasons)
