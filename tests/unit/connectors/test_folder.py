"""What the folder connector promises beyond the ports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from connectors.folder.config import FolderDestinationConfig, FolderSourceConfig
from connectors.folder.destination import FolderDestination
from connectors.folder.source import FolderSource
from hub.domain.delivery import DocumentKind
from hub.errors import RejectedError
from tests.contracts.recording import RecordingIntake, document, eventually, write_files


@pytest.fixture
def destination(tmp_path: Path) -> FolderDestination:
    return FolderDestination(FolderDestinationConfig(folder=tmp_path / "results"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_document_lies_under_its_request_with_kind_and_identifier(
    destination: FolderDestination,
) -> None:
    destination.deliver(document("2.25.1", DocumentKind.SR), "key")
    destination.deliver(
        replace(document(), document_id="pdf-1", kind=DocumentKind.PDF, content=b"%PDF"), "key"
    )
    destination.deliver(
        replace(document(), document_id="fhir-1", kind=DocumentKind.FHIR, content=b"{}"), "key"
    )
    request = "5f" * 16
    assert files(destination.config.folder) == [
        f"{request}/fhir-fhir-1.json",
        f"{request}/pdf-pdf-1.pdf",
        f"{request}/sr-2.25.1.dcm",
    ]


def test_other_bytes_under_the_same_name_are_refused_and_the_first_stay(
    destination: FolderDestination,
) -> None:
    destination.deliver(document(), "key")
    with pytest.raises(RejectedError):
        destination.deliver(replace(document(), content=b"other"), "key")
    (name,) = files(destination.config.folder)
    assert (destination.config.folder / name).read_bytes() == document().content


@pytest.mark.parametrize("name", ["../../escape", "a/b", "", ".hidden", "x" * 200, "a\0b"])
def test_an_identifier_that_is_no_file_name_is_refused(
    destination: FolderDestination, name: str
) -> None:
    with pytest.raises(RejectedError):
        destination.deliver(replace(document(), document_id=name), "key")
    with pytest.raises(RejectedError):
        destination.deliver(replace(document(), request_id=name), "key")


def test_a_write_that_breaks_off_leaves_nothing_behind(
    destination: FolderDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("connectors.folder.destination.os.fsync", power_cut)
        with pytest.raises(KeyboardInterrupt):
            destination.deliver(document(), "key")
    assert files(destination.config.folder) == []


def test_a_refused_file_is_put_aside_with_its_reason(tmp_path: Path) -> None:
    intake = RecordingIntake()
    source = FolderSource(FolderSourceConfig(folder=tmp_path, poll_interval=0.02), intake.context())
    source.start()
    try:
        (tmp_path / "note.txt").write_text("no DICOM")
        write_files(tmp_path, ["1.2.1"])
        eventually((tmp_path / "refused" / "note.txt.reason.txt").exists)
        eventually((tmp_path / "done" / "1.2.1.dcm").exists)
        write_files(tmp_path, ["1.2.1"])
        eventually((tmp_path / "done" / "1.2.1.dcm.1").exists)
    finally:
        source.stop()
    reason = (tmp_path / "refused" / "note.txt.reason.txt").read_text()
    assert "DICM" in reason
    assert len(intake.stored) == 2


def test_a_file_under_a_dotted_name_is_left_alone(tmp_path: Path) -> None:
    intake = RecordingIntake()
    source = FolderSource(FolderSourceConfig(folder=tmp_path, poll_interval=0.02), intake.context())
    (tmp_path / ".partial.dcm").write_bytes(b"half")
    source.start()
    write_files(tmp_path, ["1.2.1"])
    eventually(lambda: bool(intake.ends))
    source.stop()
    assert (tmp_path / ".partial.dcm").exists()
    assert len(intake.stored) == 1


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        FolderSourceConfig.model_validate({"folder": "x", "pol_interval": 1})
