"""What the hub expects of every source (hub.ports.Source)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.dicom import CONNECTOR as DICOM
from connectors.dicom.config import DicomSourceConfig
from connectors.folder import CONNECTOR as FOLDER
from connectors.folder.config import FolderSourceConfig
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.header import split_part10
from hub.ports import EndOfTransfer, HealthState, Source
from tests.contracts.recording import RecordingIntake, eventually, write_files
from tests.peers import free_port


@dataclass
class Harness:
    """A source, its intake, and a way to send it files; gives the names of those it took."""

    source: Source
    intake: RecordingIntake
    send: Callable[[list[Path]], set[str]]


def dicom_harness(folder: Path) -> Harness:
    port, intake = free_port(), RecordingIntake()
    assert DICOM.build_source is not None
    source = DICOM.build_source(DicomSourceConfig(port=port, stop_grace=0.5), intake.context())

    def send(paths: list[Path]) -> set[str]:
        assert DICOM.send_files is not None
        answers = DICOM.send_files(
            paths,
            host="127.0.0.1",
            port=port,
            called_ae_title="CAIDX",
            calling_ae_title="SENDER",
        )
        return {answer.path.name for answer in answers if answer.sent_as == "stored"}

    return Harness(source, intake, send)


def folder_harness(folder: Path) -> Harness:
    drop, intake = folder / "drop", RecordingIntake()
    assert FOLDER.build_source is not None
    config = FolderSourceConfig(folder=drop, poll_interval=0.05)
    source = FOLDER.build_source(config, intake.context())

    def send(paths: list[Path]) -> set[str]:
        names = {path.name for path in paths}
        drop.mkdir(exist_ok=True)
        for path in paths:
            hidden = drop / f".{path.name}"
            hidden.write_bytes(path.read_bytes())
            hidden.rename(drop / path.name)
        looks = len(intake.receptions)

        def answered() -> bool:
            left = {path.name for path in drop.iterdir() if path.name in names}
            return not left or sum(bool(r.ends) for r in intake.receptions[looks:]) > 1

        eventually(answered)
        return {name for name in names if (drop / "done" / name).exists()}

    return Harness(source, intake, send)


@pytest.fixture(params=[dicom_harness, folder_harness], ids=["dicom", "folder"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    built: Harness = request.param(tmp_path)
    built.source.start()
    yield built
    built.source.stop()


def test_an_object_is_handed_on_byte_by_byte_as_it_came(harness: Harness, tmp_path: Path) -> None:
    (path,) = write_files(tmp_path / "out", ["1.2.1"])
    assert harness.send([path]) == {path.name}
    syntax, data_set = split_part10(path.read_bytes())
    (received,) = harness.intake.stored
    assert received.data_set == data_set
    assert received.transfer_syntax_uid == syntax
    assert received.sop_instance_uid == "1.2.1"


def test_every_transfer_is_closed_once_as_released(harness: Harness, tmp_path: Path) -> None:
    for number in range(3):
        harness.send(write_files(tmp_path / "out", [f"1.2.{number}"]))
    eventually(lambda: len(harness.intake.ends) == len(harness.intake.receptions))
    assert all(item.ends == [EndOfTransfer.RELEASED] for item in harness.intake.receptions)
    assert {item.sender.source for item in harness.intake.receptions} == {"source"}


def test_one_bad_object_harms_no_other(harness: Harness, tmp_path: Path) -> None:
    harness.intake.errors["1.2.2"] = RejectedError("wrong")
    paths = write_files(tmp_path / "out", ["1.2.1", "1.2.2", "1.2.3"])
    assert harness.send(paths) == {"1.2.1.dcm", "1.2.3.dcm"}
    assert [item.sop_instance_uid for item in harness.intake.stored] == ["1.2.1", "1.2.3"]


def test_what_could_not_be_stored_is_not_acknowledged(harness: Harness, tmp_path: Path) -> None:
    harness.intake.errors["1.2.1"] = TransientError("the disk is full")
    (path,) = write_files(tmp_path / "out", ["1.2.1"])
    assert harness.send([path]) == set()
    assert harness.intake.stored == []
    harness.intake.errors.clear()
    assert harness.send([path]) == {path.name}


def test_health_follows_start_and_stop(harness: Harness) -> None:
    assert harness.source.health().state is HealthState.HEALTHY
    harness.source.stop()
    assert harness.source.health().state is HealthState.STOPPED


def test_a_stopped_source_can_start_again(harness: Harness, tmp_path: Path) -> None:
    harness.source.stop()
    harness.source.start()
    (path,) = write_files(tmp_path / "out", ["1.2.1"])
    assert harness.send([path]) == {path.name}
