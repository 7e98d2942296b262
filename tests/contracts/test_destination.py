"""What the hub expects of every destination (hub.ports.Destination)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.dicom import CONNECTOR as DICOM
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.folder import CONNECTOR as FOLDER
from connectors.folder.config import FolderDestinationConfig
from hub.domain.delivery import DocumentKind
from hub.errors import RejectedError, TransientError
from hub.formats.dicom_header import split_part10
from hub.ports import Destination, DestinationContext
from tests.contracts.recording import RecordingIntake, WallClock, document
from tests.fakes import NoConfirmations
from tests.peers import free_port

CONTEXT = DestinationContext("destination", WallClock(), NoConfirmations())


@dataclass
class Harness:
    """A destination, what its receiver holds (the data sets), and a way to take it away."""

    destination: Destination
    held: Callable[[], set[bytes]]
    take_away: Callable[[], None]


def dicom_harness(folder: Path) -> Iterator[Harness]:
    intake, port = RecordingIntake(), free_port()
    assert DICOM.build_source is not None
    assert DICOM.build_destination is not None
    receiver = DICOM.build_source(DicomSourceConfig(port=port, stop_grace=0.5), intake.context())
    receiver.start()
    config = DicomDestinationConfig(
        ae_title="CAIDX", host="127.0.0.1", port=port, documents=(DocumentKind.ENCAPSULATED_PDF,)
    )
    yield Harness(
        DICOM.build_destination(config, CONTEXT),
        lambda: {item.data_set for item in intake.stored},
        receiver.stop,
    )
    receiver.stop()


def folder_harness(folder: Path) -> Iterator[Harness]:
    results = folder / "results"
    assert FOLDER.build_destination is not None
    config = FolderDestinationConfig(folder=results, documents=(DocumentKind.ENCAPSULATED_PDF,))

    def held() -> set[bytes]:
        return {split_part10(path.read_bytes())[1] for path in results.rglob("*.dcm")}

    def take_away() -> None:
        shutil.rmtree(results, ignore_errors=True)
        results.write_text("in the way")

    yield Harness(FOLDER.build_destination(config, CONTEXT), held, take_away)


@pytest.fixture(params=[dicom_harness, folder_harness], ids=["dicom", "folder"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from request.param(tmp_path)


def data_set_of(uid: str) -> bytes:
    return split_part10(document(uid).content)[1]


def test_a_delivered_document_is_at_the_receiver_unchanged(harness: Harness) -> None:
    receipt = harness.destination.deliver(document("2.25.1"), "key")
    assert receipt.detail
    assert harness.held() == {data_set_of("2.25.1")}


def test_the_same_document_again_is_a_success_and_there_once(harness: Harness) -> None:
    for _ in range(2):
        harness.destination.deliver(document("2.25.1"), "key")
    assert harness.held() == {data_set_of("2.25.1")}


def test_many_threads_may_deliver_at_once(harness: Harness) -> None:
    uids = [f"2.25.{number}" for number in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda uid: harness.destination.deliver(document(uid), uid), uids))
    assert harness.held() == {data_set_of(uid) for uid in uids}


def test_a_destination_that_is_away_is_transient(harness: Harness) -> None:
    harness.take_away()
    with pytest.raises(TransientError) as delivery:
        harness.destination.deliver(document(), "key")
    with pytest.raises(TransientError) as check:
        harness.destination.check()
    assert "CANARY" not in (str(delivery.value) + str(check.value)).upper()


def test_a_destination_that_is_there_says_so(harness: Harness) -> None:
    assert harness.destination.check()


def test_a_document_of_another_kind_is_refused(harness: Harness) -> None:
    with pytest.raises(RejectedError):
        harness.destination.deliver(document(kind=DocumentKind.SEG), "key")
    assert harness.held() == set()


def test_a_closed_destination_may_be_closed_again(harness: Harness) -> None:
    harness.destination.close()
    harness.destination.close()
