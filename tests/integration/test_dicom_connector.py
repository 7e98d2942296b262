"""The DICOM connector against DCMTK, Orthanc and pynetdicom."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE, evt

from connectors.dicom import CONNECTOR
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.destination import DicomDestination
from connectors.dicom.source import DicomSource
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.errors import ConfigError, IntegrityError, RejectedError, TransientError
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import DestinationContext, EndOfTransfer, ReceivedObject, SentAs, SentFile
from tests.contracts.recording import (
    ENCAPSULATED_PDF,
    STUDY,
    RecordingIntake,
    WallClock,
    dicom_file,
    document,
    eventually,
    write_files,
)
from tests.fakes import NoConfirmations
from tests.peers import dcmtk, find_tool, free_port
from tests.peers.orthanc import Orthanc

pytestmark = pytest.mark.peers


@contextmanager
def listening(intake: RecordingIntake, **settings: Any) -> Iterator[int]:
    """A source on a free port."""
    port = free_port()
    source = DicomSource(DicomSourceConfig(port=port, stop_grace=0.3, **settings), intake.context())
    source.start()
    try:
        yield port
    finally:
        source.stop()


def send(paths: list[Path], port: int, called: str = "CAIDX") -> list[SentFile]:
    assert CONNECTOR.send_files is not None
    return CONNECTOR.send_files(
        paths, host="127.0.0.1", port=port, called_ae_title=called, calling_ae_title="SENDER"
    )


@pytest.fixture
def intake() -> RecordingIntake:
    return RecordingIntake()


# --- source -------------------------------------------------------------------------------


def test_echoscu_is_answered(intake: RecordingIntake) -> None:
    with listening(intake) as port:
        dcmtk.echoscu(port)
    assert intake.receptions == []


def test_every_transfer_syntax_arrives_byte_by_byte_as_it_was_sent(
    intake: RecordingIntake, shared_data: Path
) -> None:
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    sent = [split_part10(path.read_bytes()) for path in sorted(folder.glob("*.dcm"))]
    with listening(intake) as port:
        answers = send([folder], port)
    stored = [answer for answer in answers if answer.sent_as is SentAs.STORED]
    assert [(item.transfer_syntax_uid, item.data_set) for item in intake.stored] == sent
    assert len(stored) == len(sent) >= 15
    assert len({syntax for syntax, _ in sent}) >= 15
    assert [answer.path.name for answer in answers if answer.sent_as is SentAs.SKIPPED] == [
        "LICENSE"
    ]


@pytest.mark.parametrize(
    ("name", "options", "syntax"),
    [
        ("LittleEndianExplicit", [], "1.2.840.10008.1.2.1"),
        ("LittleEndianExplicit", ["-xi"], "1.2.840.10008.1.2"),
        ("LittleEndianExplicit", ["-xb"], "1.2.840.10008.1.2.1"),
        ("DeflatedExplicitVRLittleEndian", ["-xd"], "1.2.840.10008.1.2.1.99"),
        ("JPEGLSLossless", ["-xt"], "1.2.840.10008.1.2.4.80"),
        ("JPEGProcess14SV1", ["-xs"], "1.2.840.10008.1.2.4.70"),
        ("RLELossless", ["-xr"], "1.2.840.10008.1.2.5"),
    ],
)
def test_storescu_is_accepted_in_the_syntax_that_it_has(
    intake: RecordingIntake, shared_data: Path, name: str, options: list[str], syntax: str
) -> None:
    folder = shared_data / "dicom" / "ct-chest-one-slice-all-syntaxes"
    (path,) = folder.glob(f"*_{name}TransferSyntax*")
    with listening(intake) as port:
        dcmtk.storescu(path, port, options=options)
        eventually(lambda: intake.ends == [EndOfTransfer.RELEASED])
    (received,) = intake.stored
    assert received.transfer_syntax_uid == syntax
    scan = scan_header(received.data_set, syntax)
    assert scan.sop_instance_uid == pydicom.dcmread(path).SOPInstanceUID


def test_one_association_is_one_reception_and_names_its_sender(
    intake: RecordingIntake, shared_data: Path
) -> None:
    folder = shared_data / "dicom" / "ct-head-ge-tilt"
    count = len(list(folder.glob("*.dcm")))
    with listening(intake) as port:
        dcmtk.storescu(sorted(folder.glob("*.dcm")), port, aet="SCANNER", aec="HUB")
        eventually(lambda: bool(intake.ends))
    (reception,) = intake.receptions
    assert len(reception.stored) == count
    assert reception.ends == [EndOfTransfer.RELEASED]
    sender = reception.sender
    assert (sender.calling_ae_title, sender.called_ae_title) == ("SCANNER", "HUB")
    assert sender.address == "127.0.0.1"


def test_nothing_is_acknowledged_before_it_is_stored(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    may_store, answered = threading.Event(), threading.Event()

    def wait(received: ReceivedObject) -> None:
        may_store.wait(10)

    intake.before_store = wait
    (path,) = write_files(tmp_path, ["1.2.1"])

    def sending() -> None:
        assert send([path], port)[0].sent_as is SentAs.STORED
        answered.set()

    with listening(intake) as port:
        thread = threading.Thread(target=sending)
        thread.start()
        assert not answered.wait(0.5)
        may_store.set()
        assert answered.wait(10)
        thread.join()


def test_storescu_that_aborts_is_told_as_aborted(intake: RecordingIntake, tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["1.2.1", "1.2.2"])
    with listening(intake) as port:
        dcmtk.storescu(paths, port, options=["--abort"])
        eventually(lambda: bool(intake.ends))
    assert intake.ends == [EndOfTransfer.ABORTED]
    assert len(intake.stored) == 2


def test_a_sender_that_is_killed_is_told_as_aborted(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    paths = write_files(tmp_path, [f"1.2.{number}" for number in range(1, 400)])
    with listening(intake) as port:
        names = [str(path) for path in paths]
        process = subprocess.Popen(
            [find_tool("storescu", "dcmtk"), "-R", "127.0.0.1", str(port), *names],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: len(intake.stored) >= 3)
        process.kill()
        process.wait()
        eventually(lambda: bool(intake.ends))
        time.sleep(0.3)
    assert intake.ends == [EndOfTransfer.ABORTED]


def open_association(port: int) -> Any:
    ae = AE("SENDER")
    ae.add_requested_context(ENCAPSULATED_PDF, ["1.2.840.10008.1.2.1"])
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    return association


def test_garbage_on_an_open_association_ends_it_once_as_aborted(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])
    with listening(intake) as port:
        association = open_association(port)
        assert association.send_c_store(path).Status == 0
        association.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x00\x0a" + b"\xff" * 10)
        eventually(lambda: bool(intake.ends))
        time.sleep(0.3)
        association.abort()
        (other,) = write_files(tmp_path, ["1.2.2"])
        assert send([other], port)[0].sent_as is SentAs.STORED
    assert intake.receptions[0].ends == [EndOfTransfer.ABORTED]


def test_stopping_aborts_an_association_that_stays_open(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])
    with listening(intake) as port:
        association = open_association(port)
        assert association.send_c_store(path).Status == 0
    eventually(lambda: intake.ends == [EndOfTransfer.ABORTED])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransientError("out of disk space"), 0xA700),
        (RejectedError("StudyInstanceUID (0020,000D) is missing"), 0xC000),
        (IntegrityError("the segment is damaged"), 0x0110),
    ],
)
def test_each_error_is_answered_in_its_own_terms(
    intake: RecordingIntake, tmp_path: Path, error: Any, status: int
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])
    intake.errors["1.2.1"] = error
    with listening(intake) as port:
        association = open_association(port)
        answer = association.send_c_store(path)
        association.release()
    assert answer.Status == status
    assert answer.ErrorComment == str(error)


def test_an_object_that_is_not_the_one_named_is_answered_with_a900(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    path = tmp_path / "other.dcm"
    # The message names the instance of the file meta information, the data set another one.
    meta, inner = dicom_file("1.2.8"), dicom_file("1.2.9")
    data_set = split_part10(inner)[1]
    path.write_bytes(meta[: len(meta) - len(data_set)] + data_set)
    intake.errors["1.2.8"] = RejectedError("SOP Instance UIDs differ")
    with listening(intake) as port:
        association = open_association(port)
        assert association.send_c_store(path).Status == 0xA900
        association.release()


def test_a_port_in_use_is_transient_and_a_foreign_address_a_configuration_error(
    intake: RecordingIntake,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        source = DicomSource(DicomSourceConfig(port=port), intake.context())
        with pytest.raises(TransientError, match="cannot listen"):
            source.start()
        assert source.health().state == "failed"
    source = DicomSource(DicomSourceConfig(host="203.0.113.1"), intake.context("pacs"))
    with pytest.raises(ConfigError, match=r"sources\.pacs"):
        source.start()


def test_unknown_ae_titles_are_rejected_where_configured(intake: RecordingIntake) -> None:
    with listening(
        intake, require_called_ae_title=True, allowed_calling_ae_titles=("FRIEND",)
    ) as port:
        assert dcmtk.echoscu(port, aet="FRIEND", aec="CAIDX").returncode == 0
        assert dcmtk.echoscu(port, aet="STRANGER", aec="CAIDX", check=False).returncode != 0
        assert dcmtk.echoscu(port, aet="FRIEND", aec="OTHER", check=False).returncode != 0


def test_more_associations_than_allowed_are_asked_to_wait(intake: RecordingIntake) -> None:
    with listening(intake, maximum_associations=1) as port:
        first = open_association(port)
        assert dcmtk.echoscu(port, check=False).returncode != 0
        first.release()
        eventually(lambda: dcmtk.echoscu(port, check=False).returncode == 0)


def test_a_sop_class_that_is_not_allowed_is_refused(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    (path,) = write_files(tmp_path, ["1.2.1"])
    only_ct = listening(intake, storage_sop_classes=("1.2.840.10008.5.1.4.1.1.2",))
    with only_ct as port, pytest.raises(RejectedError, match="presentation contexts"):
        send([path], port)
    assert intake.receptions == []


def test_a_private_sop_class_is_accepted_when_it_is_named(
    intake: RecordingIntake, tmp_path: Path
) -> None:
    private = "1.2.246.352.70.1.70.999"
    dataset = pydicom.dcmread(write_files(tmp_path, ["1.2.1"])[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = private
    dataset.save_as(tmp_path / "1.2.1.dcm")
    with listening(intake, additional_sop_classes=(private,)) as port:
        (answer,) = send([tmp_path / "1.2.1.dcm"], port)
    assert answer.sent_as is SentAs.STORED
    assert intake.stored[0].sop_class_uid == private


def test_no_patient_data_is_logged_on_any_path(
    intake: RecordingIntake,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    intake.errors["1.2.2"] = RejectedError("wrong")
    paths = write_files(tmp_path, ["1.2.1", "1.2.2"])
    with listening(intake) as port:
        send(paths, port)
        dcmtk.storescu(paths, port, check=False)
    printed = capsys.readouterr()
    assert "CANARY" not in (caplog.text + printed.out + printed.err).upper()


# --- destination --------------------------------------------------------------------------


def destination(port: int, ae_title: str = "PACS", **settings: Any) -> DicomDestination:
    settings.setdefault("connect_timeout", 2.0)
    config = DicomDestinationConfig(ae_title=ae_title, host="127.0.0.1", port=port, **settings)
    return DicomDestination(config, DestinationContext("pacs", WallClock(), NoConfirmations()))


def test_orthanc_holds_a_document_once_however_often_it_is_delivered(orthanc: Orthanc) -> None:
    pacs = destination(orthanc.dicom_port, orthanc.ae_title)
    assert "C-ECHO" in pacs.check()
    for _ in range(2):
        assert pacs.deliver(document("2.25.7"), "key").detail.startswith("C-STORE 0x")
    (held,) = orthanc.instances(STUDY)
    assert orthanc.tags(held)["SOPInstanceUID"] == "2.25.7"


def test_orthanc_that_is_stopped_is_transient_and_taken_up_again(orthanc: Orthanc) -> None:
    pacs = destination(orthanc.dicom_port, orthanc.ae_title)
    orthanc.stop()
    with pytest.raises(TransientError, match="cannot be reached"):
        pacs.deliver(document(), "key")
    with pytest.raises(TransientError, match="cannot be reached"):
        pacs.check()
    orthanc.start()
    pacs.deliver(document(), "key")
    assert orthanc.count("instances") == 1


def test_storescp_gets_the_data_set_unchanged(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [find_tool("storescp", "dcmtk"), "-od", str(tmp_path), "+B", "-aet", "PACS", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pacs = destination(port)
        eventually(lambda: reachable(pacs))
        sent = document(padding=700_000)
        assert pacs.deliver(sent, "key").detail == "C-STORE 0x0000"
        (stored,) = [path for path in tmp_path.iterdir() if path.is_file()]
        assert split_part10(stored.read_bytes()) == split_part10(sent.content)
    finally:
        process.terminate()
        process.wait()


def reachable(pacs: DicomDestination) -> bool:
    try:
        return bool(pacs.check())
    except TransientError:
        return False


@contextmanager
def scp(answer: int | None, **settings: Any) -> Iterator[int]:
    """A Storage SCP that answers every C-STORE with one status, or (None) with an abort."""
    ae, port = AE("PACS"), free_port()
    for name, value in settings.items():
        setattr(ae, name, value)
    ae.add_supported_context(ENCAPSULATED_PDF, ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])

    def store(event: Any) -> int:
        if answer is None:
            event.assoc.abort()
            return 0
        return answer

    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield port
    finally:
        server.shutdown()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111])
def test_success_and_warnings_are_receipts_that_name_the_status(status: int) -> None:
    with scp(status) as port:
        receipt = destination(port).deliver(document(), "key")
    assert f"0x{status:04X}" in receipt.detail
    assert ("warning" in receipt.detail) == (status != 0)


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, 0x0213])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with scp(status) as port, pytest.raises(TransientError, match=f"0x{status:04X}"):
        destination(port).deliver(document(), "key")


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0124, 0x0117])
def test_what_can_never_pass_is_rejected(status: int) -> None:
    with scp(status) as port, pytest.raises(RejectedError, match=f"0x{status:04X}"):
        destination(port).deliver(document(), "key")


def test_an_abort_instead_of_an_answer_is_transient() -> None:
    with scp(None) as port, pytest.raises(TransientError, match="did not answer"):
        destination(port, response_timeout=2.0).deliver(document(), "key")


def test_an_association_that_is_rejected_for_its_name_is_for_a_person_to_mend() -> None:
    strict = scp(0, require_called_aet=True)
    with strict as port, pytest.raises(RejectedError, match="Called AE title not recognised"):
        destination(port, "WRONG").deliver(document(), "key")


def test_an_association_that_is_rejected_for_now_is_transient_and_says_why() -> None:
    with scp(0, maximum_associations=1) as port:
        other = AE("OTHER")
        other.add_requested_context(ENCAPSULATED_PDF)
        held = other.associate("127.0.0.1", port)
        with pytest.raises(TransientError, match="rejected the association"):
            destination(port).deliver(document(), "key")
        held.release()


def test_a_receiver_that_accepts_the_connection_and_stays_silent_is_transient() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TransientError):
            destination(silent.getsockname()[1], connect_timeout=1.0).check()
        assert time.monotonic() - started < 5


def test_a_sop_class_that_the_receiver_does_not_know_is_rejected() -> None:
    ae, port = AE("PACS"), free_port()
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", port), block=False)
    try:
        with pytest.raises(RejectedError, match="presentation contexts"):
            destination(port).deliver(document(), "key")
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        (StudyIdentity(STUDY, PatientIdentity("SOMEBODY-ELSE")), "PatientID"),
        (StudyIdentity("1.2.9", PatientIdentity("CANARY-7")), "StudyInstanceUID"),
    ],
)
def test_a_document_of_another_patient_or_study_never_leaves(
    intake: RecordingIntake, identity: StudyIdentity, named: str
) -> None:
    wrong = replace(document(), identity=identity)
    with listening(intake) as port, pytest.raises(RejectedError, match=named) as refused:
        destination(port, "CAIDX").deliver(wrong, "key")
    assert "CANARY" not in str(refused.value)
    assert intake.receptions == []


# --- sender -------------------------------------------------------------------------------


def test_every_file_gets_its_own_answer(intake: RecordingIntake, tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["1.2.1", "1.2.2", "1.2.3"])
    (tmp_path / "notes.txt").write_text("no DICOM")
    intake.errors["1.2.1"] = TransientError("full")
    intake.errors["1.2.2"] = RejectedError("wrong")
    seen: list[SentFile] = []
    with listening(intake) as port:
        assert CONNECTOR.send_files is not None
        answers = CONNECTOR.send_files(
            [tmp_path],
            host="127.0.0.1",
            port=port,
            called_ae_title="CAIDX",
            calling_ae_title="SENDER",
            on_progress=seen.append,
        )
    assert {answer.path.name: answer.sent_as for answer in answers} == {
        "notes.txt": SentAs.SKIPPED,
        "1.2.1.dcm": SentAs.FAILED,
        "1.2.2.dcm": SentAs.REFUSED,
        "1.2.3.dcm": SentAs.STORED,
    }
    assert seen == answers
    assert len(paths) == 3


def test_sending_to_nobody_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        send(write_files(tmp_path, ["1.2.1"]), free_port())
