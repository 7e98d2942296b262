"""Archives asked by DICOMweb: Orthanc answers QIDO-RS and WADO-RS; misbehaving servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connectors.dicomweb import retrieval
from connectors.dicomweb.archive import DicomWebArchive
from connectors.dicomweb.archive_config import DicomWebArchiveConfig
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.part10 import split_part10
from hub.ports import ArchiveContext, EndOfTransfer, StudyQuery
from tests.integration.archives import (
    PATIENT_ID,
    SECOND_SERIES,
    SERIES,
    STUDY,
    KeepingIntake,
    WallClock,
    write_studies,
)
from tests.peers import free_port
from tests.peers.dcmtk import storescu
from tests.peers.orthanc import Orthanc, orthanc

__all__ = ["orthanc"]


def archive(url: str, intake: KeepingIntake, **options: Any) -> DicomWebArchive:
    config = DicomWebArchiveConfig(url=url, **options)
    return DicomWebArchive(config, ArchiveContext("web-pacs", intake, WallClock()))


@pytest.fixture
def intake() -> KeepingIntake:
    return KeepingIntake()


@pytest.fixture
def full_orthanc(orthanc: Orthanc, tmp_path: Path) -> Orthanc:
    storescu(write_studies(tmp_path / "files"), orthanc.dicom_port, aec=orthanc.ae_title)
    return orthanc


@pytest.mark.peers
def test_orthanc_tells_of_its_studies(full_orthanc: Orthanc, intake: KeepingIntake) -> None:
    asked = archive(full_orthanc.dicomweb_url, intake)
    (study,) = asked.find_studies(StudyQuery(patient_id=PATIENT_ID), 10)
    assert (study.study_instance_uid, study.number_of_instances) == (STUDY, 5)
    assert (study.patient_birth_date, study.study_date) == ("19580217", "20250314")
    assert study.modalities_in_study == ("CT",)
    series = {s.series_instance_uid: s.number_of_instances for s in asked.find_series(STUDY)}
    assert series == {SERIES: 3, SECOND_SERIES: 2}
    assert {s.body_part_examined for s in asked.find_series(STUDY)} == {"CHEST"}
    assert set(asked.find_instances(STUDY).values()) == {SERIES, SECOND_SERIES}
    assert len(asked.find_instances(STUDY)) == 5
    assert asked.find_studies(StudyQuery(patient_id="CANARY-1*"), 10) == []
    assert asked.check() == "answers QIDO-RS"


@pytest.mark.peers
def test_orthanc_sends_a_study_byte_by_byte(
    full_orthanc: Orthanc, intake: KeepingIntake, tmp_path: Path
) -> None:
    archive(full_orthanc.dicomweb_url, intake).retrieve(STUDY, within=30)
    files = (tmp_path / "files").glob(f"{STUDY}*")
    sent = {f.name.removesuffix(".dcm"): split_part10(f.read_bytes())[1] for f in files}
    assert intake.data_sets == sent
    assert intake.ends == [EndOfTransfer.RELEASED]
    assert {r.sender.source for r in intake.receptions} == {"web-pacs"}


@pytest.mark.peers
def test_orthanc_sends_a_part_of_a_study(full_orthanc: Orthanc, intake: KeepingIntake) -> None:
    asked = archive(full_orthanc.dicomweb_url, intake)
    wanted = [f"{SERIES}.3", f"{SECOND_SERIES}.1"]
    asked.retrieve(STUDY, sop_instance_uids=wanted, within=30)
    assert intake.uids == set(wanted)
    asked.retrieve(STUDY, SECOND_SERIES, within=30)
    assert intake.uids == {*wanted, f"{SECOND_SERIES}.2"}
    with pytest.raises(RejectedError, match="does not have"):
        asked.retrieve(STUDY, sop_instance_uids=["1.2.3.4"], within=30)
    with pytest.raises(RejectedError, match="does not have"):
        asked.retrieve("1.2.3.4", within=30)


# --- servers that misbehave ------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers every GET with what the test says."""

    status = 200
    content_type = "application/dicom+json"
    body = b"[]"
    slow_seconds = 0.0
    paths: list[str]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.paths.append(self.path)
        self.send_response(server.status)
        self.send_header("Content-Type", server.content_type)
        self.end_headers()
        half = len(server.body) // 2
        self.wfile.write(server.body[:half])
        self.wfile.flush()
        time.sleep(server.slow_seconds)
        with suppress(ConnectionError):  # the client has given up
            self.wfile.write(server.body[half:])

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), _Handler)
    made.paths = []
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def at(server: Server, intake: KeepingIntake, **options: Any) -> DicomWebArchive:
    return archive(f"http://127.0.0.1:{server.server_address[1]}/dw", intake, **options)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, RejectedError),
        (403, RejectedError),
        (302, RejectedError),
        (503, TransientError),
        (429, TransientError),
    ],
)
def test_each_status_says_whether_to_try_again(
    server: Server, intake: KeepingIntake, status: int, error: type[Exception]
) -> None:
    server.status = status
    with pytest.raises(error, match=str(status)):
        at(server, intake).find_studies(StudyQuery(), 10)
    with pytest.raises(error, match=str(status)):
        at(server, intake).retrieve(STUDY, within=5)
    assert intake.ends == [EndOfTransfer.ABORTED]


@pytest.mark.parametrize("body", [b"{", b"{}", b"[1]", b"<html>"])
def test_an_answer_that_is_no_dicom_json_is_transient(
    server: Server, intake: KeepingIntake, body: bytes
) -> None:
    server.body = body
    with pytest.raises(TransientError, match="no"):
        at(server, intake).find_studies(StudyQuery(), 10)


def _part10(tmp_path: Path) -> bytes:
    return write_studies(tmp_path / "files")[0].read_bytes()


def _multipart(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in parts) + end


def test_an_answer_that_breaks_off_is_transient_and_what_came_stays(
    server: Server, intake: KeepingIntake, tmp_path: Path
) -> None:
    file = _part10(tmp_path)
    server.content_type = 'multipart/related; type="application/dicom"; boundary=b'
    server.body = _multipart(file, end=b"--b\r\n\r\n" + file[:200])
    with pytest.raises(TransientError, match="broke off"):
        at(server, intake).retrieve(STUDY, within=5)
    assert intake.uids == {f"{SERIES}.1"}
    assert intake.ends == [EndOfTransfer.ABORTED]


def test_one_part_that_is_refused_does_not_stop_the_others(
    server: Server, intake: KeepingIntake, tmp_path: Path
) -> None:
    files = [file.read_bytes() for file in write_studies(tmp_path / "files")[:3]]
    intake.errors[f"{SERIES}.1"] = RejectedError("the object is too large")
    server.body = _multipart(files[0], b"no file", *files[1:])
    server.content_type = "multipart/related; boundary=b"
    with pytest.raises(RejectedError, match="2 of 4 instances were refused: the object is too"):
        at(server, intake).retrieve(STUDY, within=5)
    assert intake.uids == {f"{SERIES}.2", f"{SERIES}.3"}
    assert intake.ends == [EndOfTransfer.ABORTED]
    with pytest.raises(RejectedError, match="4 of 8 instances"):
        at(server, intake).retrieve(STUDY, SERIES, [f"{SERIES}.1", f"{SERIES}.2"], within=5)


def test_of_another_study_nothing_is_taken(
    server: Server, intake: KeepingIntake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order may name the server: it must not bring images of whomever it likes."""
    server.body = _multipart(_part10(tmp_path))
    server.content_type = "multipart/related; boundary=b"
    with pytest.raises(RejectedError, match="another study"):
        at(server, intake).retrieve("1.2.3", within=5)
    monkeypatch.setattr(retrieval, "_IN_MEMORY_BYTES", 400)
    with pytest.raises(RejectedError, match="another study"):
        at(server, intake).retrieve("1.2.3", within=5)
    assert intake.uids == set()


def test_an_intake_without_resources_ends_a_retrieval_for_now(
    server: Server, intake: KeepingIntake, tmp_path: Path
) -> None:
    intake.errors[f"{SERIES}.1"] = TransientError("out of disk space")
    server.body = _multipart(_part10(tmp_path))
    server.content_type = "multipart/related; boundary=b"
    with pytest.raises(TransientError, match="out of disk space"):
        at(server, intake).retrieve(STUDY, within=5)


def test_a_large_part_that_is_refused_does_not_stop_the_others(
    server: Server, intake: KeepingIntake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    refusals = [RejectedError("too large"), None, RejectedError("too large")]

    def spool(_reception: object, *names: str) -> _Spool:
        refusal = refusals.pop()
        if refusal is not None and len(refusals) == 2:
            raise refusal
        return _Spool(kept, refusal)

    monkeypatch.setattr(retrieval, "_IN_MEMORY_BYTES", 400)
    monkeypatch.setattr("tests.integration.archives.KeptReception.spool", spool, raising=False)
    file = _part10(tmp_path)
    server.body = _multipart(file, file, file)
    server.content_type = "multipart/related; boundary=b"
    with pytest.raises(RejectedError, match="2 of 3 instances"):
        at(server, intake).retrieve(STUDY, within=5)
    assert kept == [split_part10(file)[1]]


def test_a_partial_answer_is_no_success(
    server: Server, intake: KeepingIntake, tmp_path: Path
) -> None:
    server.status, server.body = 206, _multipart(_part10(tmp_path))
    server.content_type = "multipart/related; boundary=b"
    with pytest.raises(TransientError, match="all of it"):
        at(server, intake).retrieve(STUDY, within=5)


@pytest.mark.parametrize("content_type", ["application/dicom+json", "nonsense", ""])
def test_an_answer_without_parts_is_transient(
    server: Server, intake: KeepingIntake, content_type: str
) -> None:
    server.content_type = content_type
    with pytest.raises(TransientError, match="multipart"):
        at(server, intake).retrieve(STUDY, within=5)


def test_a_slow_server_is_given_up_in_time(
    server: Server, intake: KeepingIntake, tmp_path: Path
) -> None:
    server.slow_seconds, server.body = 2.0, _multipart(_part10(tmp_path))
    server.content_type = "multipart/related; boundary=b"
    begun = time.monotonic()
    with pytest.raises(TransientError):
        at(server, intake).retrieve(STUDY, within=0.4)
    assert time.monotonic() - begun < 1.5


def test_nobody_there_is_transient(intake: KeepingIntake) -> None:
    with pytest.raises(TransientError, match="ConnectError"):
        archive(f"http://127.0.0.1:{free_port()}", intake).check()


def test_a_uid_cannot_leave_its_path_segment(server: Server, intake: KeepingIntake) -> None:
    with pytest.raises(TransientError, match="multipart"):
        at(server, intake).retrieve("1/../../admin?x=", within=5)
    assert server.paths == ["/dw/studies/1%2F..%2F..%2Fadmin%3Fx%3D"]


class _Spool:
    def __init__(self, kept: list[bytes], refusal: RejectedError | None = None) -> None:
        self._kept, self._bytes, self._refusal = kept, bytearray(), refusal

    def write(self, chunk: bytes) -> None:
        self._bytes += chunk

    def store(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._kept.append(bytes(self._bytes))

    def discard(self) -> None:
        self._bytes = bytearray()


def test_a_large_object_goes_to_the_disk_as_it_comes(
    server: Server, intake: KeepingIntake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    named: list[tuple[str, ...]] = []

    def spool(_reception: object, *names: str) -> _Spool:
        named.append(names)
        return _Spool(kept)

    monkeypatch.setattr(retrieval, "_IN_MEMORY_BYTES", 400)
    monkeypatch.setattr("tests.integration.archives.KeptReception.spool", spool, raising=False)
    file = _part10(tmp_path)
    server.body = _multipart(file, file)
    server.content_type = "multipart/related; boundary=b"
    at(server, intake).retrieve(STUDY, within=5)
    assert kept == [split_part10(file)[1]] * 2
    assert {names[1] for names in named} == {f"{SERIES}.1"}
    assert intake.uids == set()
