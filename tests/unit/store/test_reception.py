"""Receiving: what is acknowledged is on the disk, and what is wrong is told in time."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hub.errors import RejectedError, TransientError
from hub.formats.dicom.part10 import part10
from hub.ports import EndOfTransfer, ReceivedObject, Sender, Spool
from hub.store.disk import Buffer, Disk
from hub.store.reception import OPEN_SEGMENTS, StudyReception
from hub.store.segments.format import HEADER_SIZE, RECORD_HEADER_SIZE, RecordKind
from hub.store.segments.names import FREE, MEBIBYTE
from hub.store.segments.writer import END_ROOM, bytes_needed
from tests.received import SENDER, Receiving, instance_uid, received_object, study_uid


@pytest.fixture
def hub(tmp_path: Path) -> Receiving:
    return Receiving(tmp_path / "objects")


class FailingDisk(Disk):
    """Fails one kind of call as long as it is told to."""

    def __init__(self) -> None:
        self.write_error: int | None = None
        self.sync_error: int | None = None
        self.synced = 0

    def write(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        if self.write_error:
            super().write(handle, buffers[:2], offset)
            raise OSError(self.write_error, os.strerror(self.write_error))
        super().write(handle, buffers, offset)

    def sync_data(self, handle: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        self.synced += 1
        super().sync_data(handle)


def size_on_disk(hub: Receiving, segment: str) -> int:
    return next(hub.root.rglob(segment)).stat().st_size


def open_handles(hub: Receiving) -> int:
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return sum(link.startswith(f"{hub.root}/") and not link.endswith("bell") for link in links)


# --- what arrives -------------------------------------------------------------------------------


def test_what_was_stored_lies_in_one_segment_as_part_10_files(hub: Receiving) -> None:
    reception, received = hub.open(), [received_object(1, number) for number in range(3)]
    for one in received:
        reception.store(one)
    reception.close(EndOfTransfer.RELEASED)
    (segment,) = hub.store.segments()
    records = hub.records(segment)
    assert [kind for kind, _ in records] == [RecordKind.OBJECT] * 3 + [RecordKind.END]
    assert [payload for _, payload in records[:3]] == [part10(one) for one in received]
    assert records[3][1] == b'{"end":"released"}'


def test_the_header_of_the_segment_tells_whose_objects_these_are(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object(7))
    (segment,) = hub.store.segments()
    with hub.store.open_log(segment) as log:
        header = log.header
    assert header is not None
    assert header.study_instance_uid == study_uid(7)
    assert header.association_id == reception.association_id
    assert header.receiver_id == "receiver-1"
    assert (header.source, header.calling_ae_title, header.called_ae_title, header.address) == (
        "dicom", "SCANNER", "CAIDX", "127.0.0.1",
    )  # fmt: skip
    assert header.opened_at == hub.clock.now().timestamp()


def test_a_sender_with_endless_texts_is_stored_all_the_same(hub: Receiving) -> None:
    hub.open(Sender("s" * 9000, "c" * 9000, "d" * 9000, "a" * 9000)).store(received_object())
    assert len(hub.files()) == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: memoryview(bytearray(data))])
def test_the_data_set_may_be_any_buffer_and_be_used_again(hub: Receiving, kind: Any) -> None:
    received = received_object()
    file, buffer = part10(received), kind(received.data_set)
    hub.open().store(replace(received, data_set=buffer))
    if not isinstance(buffer, bytes):
        buffer[:] = bytes(len(buffer))
    assert hub.files() == [file]


def test_every_object_is_synced_before_store_returns(tmp_path: Path) -> None:
    disk = FailingDisk()
    reception = Receiving(tmp_path, disk=disk).open()
    for number in range(3):
        before = disk.synced
        reception.store(received_object(1, number))
        assert disk.synced == before + 1


def test_the_bell_rings_for_each_object_and_for_the_end(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object())
    (segment,) = hub.store.segments()
    assert hub.bell.wait(0).segments == {segment}
    reception.close(EndOfTransfer.RELEASED)
    assert hub.bell.wait(0).segments == {segment}


def test_a_deflated_object_is_understood(hub: Receiving) -> None:
    received = received_object(deflated=True)
    hub.open().store(received)
    assert hub.files() == [part10(received)]


def test_many_transfers_at_once_do_not_mix(hub: Receiving) -> None:
    def transfer(study: int) -> None:
        reception = hub.open()
        for number in range(20):
            reception.store(received_object(study, number))
        reception.close(EndOfTransfer.RELEASED)

    threads = [threading.Thread(target=transfer, args=(study,)) for study in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for study in range(6):
        expected = {part10(received_object(study, number)) for number in range(20)}
        assert set(hub.files(study)) == expected


# --- segments -----------------------------------------------------------------------------------


def test_a_full_segment_is_followed_by_a_larger_one(hub: Receiving) -> None:
    reception = hub.open()
    received = [received_object(1, number, pixel_bytes=700_000) for number in range(9)]
    for one in received:
        reception.store(one)
    reception.close(EndOfTransfer.RELEASED)
    sizes = sorted(size_on_disk(hub, segment) for segment in hub.store.segments())
    assert sizes == [MEBIBYTE, 4 * MEBIBYTE, 16 * MEBIBYTE]
    assert set(hub.files()) == {part10(one) for one in received}
    assert hub.ends() == ["continued", "continued", "released"]


def test_an_object_larger_than_every_extent_gets_a_file_of_its_own(hub: Receiving) -> None:
    reception = hub.open()
    small, large = received_object(1, 1), received_object(1, 2, pixel_bytes=65 * MEBIBYTE)
    last = received_object(1, 3)
    for one in (small, large, last):
        reception.store(one)
    reception.close(EndOfTransfer.RELEASED)
    sizes = sorted(size_on_disk(hub, segment) for segment in hub.store.segments())
    assert sizes[:2] == [MEBIBYTE, 4 * MEBIBYTE]
    assert 65 * MEBIBYTE < sizes[2] < 65 * MEBIBYTE + 8192
    assert set(hub.files()) == {part10(one) for one in (small, large, last)}
    assert hub.ends() == ["continued", "continued", "released"]


def test_a_transfer_of_many_studies_keeps_few_files_open(hub: Receiving) -> None:
    reception, studies = hub.open(), 20
    for number in range(2):
        for study in range(studies):
            reception.store(received_object(study, number))
            assert open_handles(hub) <= OPEN_SEGMENTS
    reception.close(EndOfTransfer.RELEASED)
    assert open_handles(hub) == 0
    for study in range(studies):
        assert len(hub.files(study)) == 2
    ends = hub.ends()
    assert ends.count("released") == OPEN_SEGMENTS
    assert ends.count("continued") == len(ends) - OPEN_SEGMENTS


def test_a_segment_is_locked_as_long_as_it_may_be_written_to(hub: Receiving) -> None:
    reception = hub.open()
    for study in range(OPEN_SEGMENTS + 1):
        reception.store(received_object(study))
    written = {}
    for segment in hub.store.segments():
        with hub.store.open_log(segment) as log:
            assert log.header is not None
            written[log.header.study_instance_uid] = log.is_being_written()
    assert written == {study_uid(n): n > 0 for n in range(OPEN_SEGMENTS + 1)}
    assert hub.ends(0) == ["continued"]
    assert hub.ends(1) == ["none"]


def test_the_study_that_rested_longest_is_put_away(hub: Receiving) -> None:
    reception = hub.open()
    for number in range(OPEN_SEGMENTS * 3):
        reception.store(received_object(0, number))
        reception.store(received_object(1 + number, 1))
    assert hub.ends(0) == ["none"]


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_segment_that_is_filled_to_its_last_byte_still_tells_its_end(
    hub: Receiving, spare: int
) -> None:
    reception = hub.open()
    frame = len(part10(received_object(1, 1, pixel_bytes=0)))
    size = MEBIBYTE - bytes_needed(frame) + spare
    received = received_object(1, 1, pixel_bytes=size)
    reception.store(received)
    reception.close(EndOfTransfer.RELEASED)
    (segment,) = hub.store.segments()
    assert size_on_disk(hub, segment) == MEBIBYTE * (4 if spare == 1 else 1)
    assert hub.ends() == ["released"]
    assert hub.files() == [part10(received)]


@pytest.mark.parametrize(("spare", "segments"), [(END_ROOM, 1), (END_ROOM - 1, 2), (0, 2)])
def test_an_object_that_leaves_no_room_for_the_end_goes_elsewhere(
    hub: Receiving, spare: int, segments: int
) -> None:
    reception = hub.open()
    frame = len(part10(received_object(pixel_bytes=0)))
    first = received_object(1, 1, pixel_bytes=MEBIBYTE // 2)
    used = HEADER_SIZE + 2 * RECORD_HEADER_SIZE + len(part10(first)) + frame
    for received in (first, received_object(1, 2, pixel_bytes=MEBIBYTE - used - spare)):
        reception.store(received)
    reception.close(EndOfTransfer.RELEASED)
    assert hub.ends() == ["continued", "released"][-segments:]
    assert len(hub.files()) == 2


# --- ends ---------------------------------------------------------------------------------------


def test_a_transfer_without_objects_leaves_nothing(hub: Receiving) -> None:
    hub.open().close(EndOfTransfer.RELEASED)
    assert not hub.root.exists()


def test_an_aborted_transfer_says_so_and_keeps_what_it_stored(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object())
    reception.close(EndOfTransfer.ABORTED)
    assert hub.ends() == ["aborted"]
    assert len(hub.files()) == 1
    reception.close(EndOfTransfer.RELEASED)
    assert hub.ends() == ["aborted"]


# --- what is refused ----------------------------------------------------------------------------


def refused(reception: StudyReception, received: ReceivedObject, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        reception.store(received)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sop_instance_uid": instance_uid(9, 9)}, "SOP Instance UID of the message"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, "SOP Class UID of the message"),
        ({"data_set": b"no data set"}, "valid VR"),
        ({"transfer_syntax_uid": "1.2.3"}, "not one of PS3.5"),
    ],
)
def test_a_wrong_object_is_refused_and_told(
    hub: Receiving, change: dict[str, Any], reason: str
) -> None:
    reception = hub.open()
    wrong = replace(received_object(), **change)
    refused(reception, wrong, reason)
    (rejection,) = hub.rejections
    assert rejection.association_id == reception.association_id
    assert rejection.sender == SENDER
    assert reason in rejection.reason
    assert rejection.length == len(wrong.data_set)
    assert rejection.sha256 == hashlib.sha256(wrong.data_set).hexdigest()
    reception.close(EndOfTransfer.RELEASED)
    assert not hub.root.exists()


@pytest.mark.parametrize(
    ("patient_id", "ok"), [("1" * 64, True), ("1" * 65, False), ("a\tb", False)]
)
def test_a_patient_id_that_the_index_cannot_hold_is_refused(
    hub: Receiving, patient_id: str, ok: bool
) -> None:
    received = received_object(patient_id=patient_id)
    if ok:
        hub.open().store(received)
    else:
        refused(hub.open(), received, "PatientID")
    assert len(hub.files()) == ok


def test_a_refused_object_harms_no_other(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object(1, 1))
    refused(reception, replace(received_object(1, 2), sop_instance_uid="1.2"), "differ")
    reception.store(received_object(1, 3))
    reception.close(EndOfTransfer.RELEASED)
    assert set(hub.files()) == {part10(received_object(1, n)) for n in (1, 3)}


def test_an_object_that_is_too_long_is_refused(tmp_path: Path) -> None:
    hub = Receiving(tmp_path, maximum_instance_bytes=1000)
    refused(hub.open(), received_object(pixel_bytes=1000), "longer than the 1000 bytes")
    assert hub.rejections[0].length > 1000


# --- disks that are full, and disks that fail -----------------------------------------------------


def test_below_the_watermark_nothing_is_taken_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Receiving(tmp_path, minimum_free_bytes=1)
    reception = hub.open()
    reception.store(received_object(1, 1))
    asked, free = [], 0

    def statvfs(path: Path) -> os.statvfs_result:
        asked.append(path)
        return os.statvfs_result((4096, 4096, 9, free, free, 9, 9, 9, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    now = [time.monotonic() + 1]
    monkeypatch.setattr(
        "hub.store.segments.extents.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    for _ in range(5):
        with pytest.raises(TransientError, match="out of disk space"):
            reception.store(received_object(1, 2))
    assert len(asked) == 1, "the disk was asked for each object"
    now[0], free = now[0] + 0.3, 1000
    reception.store(received_object(1, 2))
    assert len(asked) == 2
    assert len(hub.files()) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT])
def test_without_space_or_handles_the_sender_may_try_again(
    hub: Receiving, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(disk: Disk, path: Path) -> int:
        raise OSError(code, os.strerror(code))

    reception = hub.open()
    with monkeypatch.context() as full:
        full.setattr(Disk, "create", create)
        with pytest.raises(TransientError, match=os.strerror(code)):
            reception.store(received_object())
    reception.store(received_object())
    assert len(hub.files()) == 1
    assert hub.rejections == []


@pytest.mark.parametrize("failing", ["write_error", "sync_error"])
def test_a_failed_write_or_sync_breaks_the_segment_and_another_one_goes_on(
    tmp_path: Path, failing: str
) -> None:
    disk = FailingDisk()
    hub = Receiving(tmp_path / "objects", disk=disk)
    reception = hub.open()
    reception.store(received_object(1, 1))
    setattr(disk, failing, errno.EIO)
    with pytest.raises(TransientError, match="Input/output error"):
        reception.store(received_object(1, 2))
    setattr(disk, failing, None)
    (broken,) = hub.store.segments()
    assert hub.records(broken) == [(RecordKind.OBJECT, part10(received_object(1, 1)))]
    with hub.store.open_log(broken) as log:
        assert not log.is_being_written()
    reception.store(received_object(1, 2))
    reception.close(EndOfTransfer.RELEASED)
    assert len(list(hub.store.segments())) == 2
    assert set(hub.files()) == {part10(received_object(1, n)) for n in (1, 2)}
    assert hub.ends() == ["none", "released"]


def test_the_end_is_told_where_every_segment_broke(tmp_path: Path) -> None:
    disk = FailingDisk()
    hub = Receiving(tmp_path / "objects", disk=disk)
    reception = hub.open()
    reception.store(received_object(1, 1))
    disk.sync_error = errno.EIO
    with pytest.raises(TransientError):
        reception.store(received_object(1, 2))
    disk.sync_error = None
    reception.close(EndOfTransfer.RELEASED)
    assert hub.ends() == ["none", "released"]


def test_closing_never_raises(tmp_path: Path) -> None:
    disk = FailingDisk()
    hub = Receiving(tmp_path / "objects", disk=disk)
    reception = hub.open()
    reception.store(received_object())
    disk.sync_error = errno.EIO
    reception.close(EndOfTransfer.RELEASED)
    assert open_handles(hub) == 0
    assert hub.ends() == ["none"]


# --- large objects --------------------------------------------------------------------------------


def begin(reception: StudyReception, received: ReceivedObject) -> Spool:
    return reception.spool(
        received.sop_class_uid, received.sop_instance_uid, received.transfer_syntax_uid
    )


def feed(spool: Spool, received: ReceivedObject, block: int = 100_000) -> None:
    view = memoryview(received.data_set)
    for start in range(0, len(view), block):
        spool.write(view[start : start + block])


@pytest.mark.parametrize("deflated", [False, True])
def test_a_spooled_object_is_a_segment_of_its_own(hub: Receiving, deflated: bool) -> None:
    received = received_object(pixel_bytes=3_000_000, deflated=deflated)
    reception = hub.open()
    spool = begin(reception, received)
    feed(spool, received)
    assert list(hub.store.segments()) == []
    spool.store()
    spool.discard()
    assert hub.files() == [part10(received)]
    (segment,) = hub.store.segments()
    assert hub.bell.wait(0).segments == {segment}
    reception.store(received_object(1, 2))
    reception.close(EndOfTransfer.RELEASED)
    assert hub.ends() == ["continued", "released"]
    assert open_handles(hub) == 0


def test_a_transfer_of_one_spooled_object_tells_its_end(hub: Receiving) -> None:
    received = received_object()
    reception = hub.open()
    spool = begin(reception, received)
    feed(spool, received)
    spool.store()
    reception.close(EndOfTransfer.RELEASED)
    assert hub.ends() == ["released"]


def test_many_spooled_objects_keep_few_files_open(hub: Receiving) -> None:
    reception = hub.open()
    for number in range(OPEN_SEGMENTS + 4):
        received = received_object(number)
        spool = begin(reception, received)
        feed(spool, received)
        spool.store()
        assert open_handles(hub) <= OPEN_SEGMENTS
    reception.close(EndOfTransfer.RELEASED)
    assert len(hub.files()) == OPEN_SEGMENTS + 4


def nothing_stays(hub: Receiving) -> bool:
    return not any(hub.store.segments()) and not any((hub.root / FREE).iterdir())


def test_a_discarded_object_leaves_nothing(hub: Receiving) -> None:
    spool = begin(hub.open(), received_object())
    spool.write(b"x" * 100_000)
    assert not nothing_stays(hub)
    spool.discard()
    spool.discard()
    assert nothing_stays(hub)
    assert open_handles(hub) == 0
    with pytest.raises(TransientError):
        spool.write(b"x")


def test_a_spooled_object_is_refused_as_soon_as_it_is_too_long(tmp_path: Path) -> None:
    hub = Receiving(tmp_path, maximum_instance_bytes=150_000)
    spool = begin(hub.open(), received_object())
    spool.write(b"x" * 100_000)
    with pytest.raises(RejectedError, match="longer than the 150000 bytes"):
        spool.write(b"x" * 100_000)
    assert nothing_stays(hub)
    assert [(r.length, r.sha256) for r in hub.rejections] == [(200_000, "")]


def test_a_spooled_object_that_is_not_what_was_announced_is_refused(hub: Receiving) -> None:
    announced, sent = received_object(1, 1), received_object(1, 2, pixel_bytes=2_500_000)
    spool = begin(hub.open(), announced)
    feed(spool, sent)
    with pytest.raises(RejectedError, match="SOP Instance UID"):
        spool.store()
    assert nothing_stays(hub)
    (rejection,) = hub.rejections
    assert rejection.sha256 == hashlib.sha256(sent.data_set).hexdigest()
    assert open_handles(hub) == 0


def test_a_full_disk_ends_a_spooled_object(tmp_path: Path) -> None:
    disk = FailingDisk()
    hub = Receiving(tmp_path / "objects", disk=disk)
    spool = begin(hub.open(), received_object())
    disk.write_error = errno.ENOSPC
    with pytest.raises(TransientError, match="No space left"):
        spool.write(b"x" * 1000)
    assert nothing_stays(hub)
