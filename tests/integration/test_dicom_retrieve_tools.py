"""DCMTK's query and retrieve tools: an archive moves studies to us; of us nobody gets any."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.source import DicomSource
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import EndOfTransfer
from tests.contracts.recording import RecordingIntake, eventually
from tests.integration.archives import STUDY, write_studies
from tests.peers import dcmtk, find_tool, free_port
from tests.peers.dcmqrscp import Dcmqrscp

pytestmark = pytest.mark.peers


@contextmanager
def listening(intake: RecordingIntake) -> Iterator[int]:
    port = free_port()
    source = DicomSource(DicomSourceConfig(port=port, stop_grace=0.5), intake.context())
    source.start()
    try:
        yield port
    finally:
        source.stop()


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """DCMTK's receiver, which writes every data set exactly as it came (``+B``)."""
    folder.mkdir()
    port = free_port()
    command = [find_tool("storescp", "dcmtk"), "+xa", "+B", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: dcmtk.echoscu(port, check=False).returncode == 0)
        yield port
    finally:
        process.kill()
        process.wait(30)


def data_sets(paths: Iterable[Path]) -> list[bytes]:
    return [split_part10(path.read_bytes())[1] for path in paths]


def digests(parts: Iterable[bytes]) -> Counter[str]:
    return Counter(hashlib.sha256(part).hexdigest() for part in parts)


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


def head_study(shared_data: Path, folder: Path) -> list[Path]:
    return sorted((shared_data / "dicom" / "ct-head-ge-tilt").glob("*.dcm"))


def two_series(shared_data: Path, folder: Path) -> list[Path]:
    return [path for path in write_studies(folder) if path.name.startswith(f"{STUDY}.")]


@pytest.mark.parametrize("study", [head_study, two_series])
def test_movescu_makes_an_archive_send_us_a_study_as_it_sends_it_to_others(
    intake: RecordingIntake,
    tmp_path: Path,
    shared_data: Path,
    study: Callable[[Path, Path], list[Path]],
) -> None:
    paths = study(shared_data, tmp_path / "files")
    header = scan_header(data_sets(paths)[0], split_part10(paths[0].read_bytes())[0])
    with listening(intake) as ours, storescp(tmp_path / "theirs") as theirs:
        archive = Dcmqrscp(tmp_path / "archive", {"CAIDX": ours, "STORESCP": theirs})
        archive.start()
        try:
            dcmtk.storescu(paths, archive.port, aec=archive.ae_title)
            for title in ("CAIDX", "STORESCP"):
                uid = header.study_instance_uid
                dcmtk.movescu(archive.port, uid, title, aec=archive.ae_title)
            eventually(lambda: intake.ends == [EndOfTransfer.RELEASED])
            eventually(lambda: len(list((tmp_path / "theirs").iterdir())) == len(paths))
        finally:
            archive.stop()
    assert len(intake.stored) == len(paths)
    assert digests(bytes(item.data_set) for item in intake.stored) == digests(
        data_sets((tmp_path / "theirs").iterdir())
    )


def test_of_a_study_that_the_archive_lacks_nothing_is_moved(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    with listening(intake) as ours:
        archive = Dcmqrscp(tmp_path / "archive", {"CAIDX": ours})
        archive.start()
        try:
            dcmtk.movescu(archive.port, "1.2.3.4", "CAIDX", aec=archive.ae_title, check=False)
        finally:
            archive.stop()
    assert intake.stored == []


@pytest.mark.parametrize("tool", [dcmtk.findscu, dcmtk.getscu])
def test_who_queries_us_is_refused_the_context_in_plain_words(
    intake: RecordingIntake,
    tmp_path: Path,
    tool: Callable[[int, str], subprocess.CompletedProcess[str]],
) -> None:
    with listening(intake) as port:
        asked = tool(port, STUDY)
        assert asked.returncode != 0
        assert "resentation Context" in asked.stdout + asked.stderr
        dcmtk.storescu(write_studies(tmp_path)[:1], port)
        eventually(lambda: len(intake.stored) == 1)


def test_who_wants_us_to_move_or_to_end_is_refused_the_context(intake: RecordingIntake) -> None:
    with listening(intake) as port:
        moved = dcmtk.movescu(port, STUDY, "CAIDX", aec="CAIDX", check=False)
        assert moved.returncode != 0
        assert "No Acceptable Presentation Contexts" in moved.stdout + moved.stderr
        ended = dcmtk.termscu(port, check=False)
        assert ended.returncode != 0
        dcmtk.echoscu(port)
    assert intake.receptions == []
