"""How a C-MOVE or C-GET ended, by its last response."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from connectors.dicom.archive import DicomArchive
from connectors.dicom.archive_config import DicomArchiveConfig
from connectors.dicom.retrieval import Outcome
from hub.errors import CaidxError, RejectedError, TransientError
from hub.ports import ArchiveContext
from tests.contracts.recording import RecordingIntake
from tests.fakes import FrozenClock

ARCHIVE = DicomArchive(
    DicomArchiveConfig(ae_title="PACS", host="127.0.0.1"),
    ArchiveContext("pacs", RecordingIntake(), FrozenClock()),
)


def response(status: int, **counts: int) -> Dataset:
    answer = Dataset()
    answer.Status = status
    for name, count in counts.items():
        setattr(answer, f"NumberOf{name}Suboperations", count)
    return answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (response(0x0000, Completed=2, Warning=0, Failed=0), None),
        (response(0x0000), None),  # the counts may be left out (PS3.7 9.1.4.1.7)
        (response(0xB000, Completed=1, Warning=1, Failed=0), None),
        (response(0xB000, Completed=0, Warning=2, Failed=0), None),
        (response(0xB000, Completed=1, Warning=0, Failed=1), TransientError),
        (response(0xB000), RejectedError),
        (response(0x0000, Completed=0, Warning=0, Failed=0), RejectedError),
        (response(0xA801), RejectedError),
        (response(0xA702, Completed=0), TransientError),
        (Dataset(), TransientError),
    ],
)
def test_only_all_of_it_is_success(answer: Dataset, error: type[CaidxError] | None) -> None:
    outcome = Outcome.of(answer)
    if error is None:
        ARCHIVE._judge("C-MOVE", outcome)
    else:
        with pytest.raises(error):
            ARCHIVE._judge("C-MOVE", outcome)
