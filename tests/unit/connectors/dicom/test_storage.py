"""Objects of an association on their way to the intake; what the receiver's process loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from connectors.dicom.storage import StorageTransfer
from hub.errors import RejectedError, TransientError
from hub.ports import EndOfTransfer, ReceivedObject, Sender
from tests.contracts.recording import RecordingIntake


def part(data: bytes, uid: str = "1.2.3") -> ReceivedObject:
    return ReceivedObject("1.2", uid, "1.2.840.10008.1.2.1", data)


def transfer(intake: RecordingIntake, maximum: int = 1000) -> StorageTransfer:
    return StorageTransfer(lambda: intake.open(Sender("source")), maximum)


def test_nothing_is_opened_before_the_first_object_and_closed_once_after_it() -> None:
    intake = RecordingIntake()
    idle = transfer(intake)
    idle.close(EndOfTransfer.RELEASED)
    assert intake.receptions == []
    used = transfer(intake)
    used.store(part(b"abc"))
    used.close(EndOfTransfer.ABORTED)
    used.close(EndOfTransfer.ABORTED)
    assert intake.ends == [EndOfTransfer.ABORTED]


def test_chunks_become_one_object() -> None:
    intake = RecordingIntake()
    one = transfer(intake)
    one.chunk(part(b"abc"))
    one.chunk(part(b"def"))
    one.store(part(b"g"))
    one.store(part(b"next", "1.2.4"))
    assert [item.data_set for item in intake.stored] == [b"abcdefg", b"next"]
    assert [spool.state for spool in intake.spools] == ["stored"]


def test_what_breaks_off_amid_an_object_leaves_nothing_of_it() -> None:
    intake = RecordingIntake()
    one = transfer(intake)
    one.chunk(part(b"abc"))
    one.close(EndOfTransfer.ABORTED)
    assert intake.stored == []
    assert [spool.state for spool in intake.spools] == ["discarded"]
    assert intake.ends == [EndOfTransfer.ABORTED]


@pytest.mark.parametrize("error", [TransientError("the disk is full"), RejectedError("wrong")])
def test_an_error_amid_an_object_is_told_at_its_end_and_spares_the_next(error: Exception) -> None:
    intake = RecordingIntake()
    intake.spool_errors["1.2.3"] = error  # type: ignore[assignment]
    one = transfer(intake)
    for _ in range(3):
        one.chunk(part(b"abc"))
    with pytest.raises(type(error)):
        one.store(part(b"d"))
    one.store(part(b"next", "1.2.4"))
    assert [item.sop_instance_uid for item in intake.stored] == ["1.2.4"]
    assert [spool.state for spool in intake.spools] == ["discarded"]


def test_an_object_beyond_the_maximum_is_rejected_in_one_piece_and_in_chunks() -> None:
    intake = RecordingIntake()
    one = transfer(intake, maximum=10)
    with pytest.raises(RejectedError, match="longer than 10 bytes"):
        one.store(part(b"x" * 11))
    one.chunk(part(b"x" * 10))
    with pytest.raises(RejectedError, match="longer than 10 bytes"):
        one.store(part(b"x"))
    one.store(part(b"x" * 10))
    assert len(intake.stored) == 1
    assert all(spool.state == "discarded" for spool in intake.spools)


def test_the_process_that_receives_loads_no_dicom_library() -> None:
    code = (
        "import sys; from connectors.dicom import CONNECTOR; import connectors.dicom.source; "
        "import connectors.dicom.services; "
        "heavy = {'pydicom', 'pynetdicom', 'numpy', 'fastapi', 'sqlalchemy'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
