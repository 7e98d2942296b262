"""The segment store: what lies in it is read back, and nothing else is."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from hub.domain.study import Location
from hub.errors import IntegrityError, TransientError
from hub.formats.dicom.part10 import part10
from hub.ports import EndOfTransfer
from hub.store.segments import objects
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import HEADER_SIZE, RECORD_HEADER_SIZE, whole_records
from hub.store.segments.names import path_of
from hub.store.segments.objects import SegmentStore
from tests.received import Receiving, received_object, study_uid


@pytest.fixture
def hub(tmp_path: Path) -> Receiving:
    return Receiving(tmp_path / "objects")


def fill(hub: Receiving, *numbers: int) -> list[Location]:
    """Where the objects of one closed transfer lie."""
    reception = hub.open()
    for number in numbers:
        reception.store(received_object(1, number))
    before = set(hub.store.segments())
    reception.close(EndOfTransfer.RELEASED)
    (segment,) = before
    return places(hub, segment)[:-1]


def places(hub: Receiving, segment: str) -> list[Location]:
    with hub.store.open_log(segment) as log:
        return [
            Location(segment, record.payload_start, record.length)
            for record, _ in whole_records(log.log)
        ]


def damage(hub: Receiving, segment: str, offset: int, data: bytes) -> None:
    with path_of(hub.root, segment).open("r+b") as file:
        file.seek(offset)
        file.write(data)


# --- reading ------------------------------------------------------------------------------------


def test_what_was_received_is_read_back(hub: Receiving) -> None:
    found = [hub.store.read(location) for location in fill(hub, 1, 2, 3)]
    assert found == [part10(received_object(1, number)) for number in (1, 2, 3)]


def test_a_pickled_store_reads(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    copy: SegmentStore = pickle.loads(pickle.dumps(hub.store))  # noqa: S301 - our own
    assert copy.read(place) == part10(received_object(1, 1))


def test_a_location_that_is_no_object_is_an_integrity_error(hub: Receiving) -> None:
    first, second = fill(hub, 1, 2)
    end = places(hub, first.segment)[-1]
    wrong = [
        replace(first, offset=first.offset + 1),
        replace(first, length=first.length - 1),
        replace(first, length=first.length + 1),
        replace(first, length=1 << 40),
        replace(first, offset=0),
        replace(first, offset=RECORD_HEADER_SIZE),
        replace(first, length=-1),
        replace(second, offset=1 << 40),
        end,
        replace(first, segment="../../etc/passwd"),
        replace(first, segment="0" * 32 + ".segment"),
    ]
    for location in wrong:
        with pytest.raises(IntegrityError):
            hub.store.read(location)


@pytest.mark.parametrize("at", range(RECORD_HEADER_SIZE))
def test_a_damaged_record_header_is_an_integrity_error(hub: Receiving, at: int) -> None:
    (place,) = fill(hub, 1)
    offset = place.offset - RECORD_HEADER_SIZE + at
    old = path_of(hub.root, place.segment).read_bytes()[offset]
    damage(hub, place.segment, offset, bytes([old ^ 0x40]))
    with pytest.raises(IntegrityError, match="holds no object"):
        hub.store.read(place)


def test_a_disk_that_cannot_be_read_is_an_integrity_error(
    hub: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pread(handle: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (place,) = fill(hub, 1)
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(IntegrityError, match="Input/output error"):
        hub.store.read(place)


def test_what_one_read_does_not_give_the_next_one_does(
    hub: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = fill(hub, 1)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, length, at: real(handle, min(length, 300), at))
    assert hub.store.read(place) == part10(received_object(1, 1))


# --- names --------------------------------------------------------------------------------------


def test_file_names_tell_nothing_and_only_the_owner_reads_the_files(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    assert list(hub.store.segments()) == [place.segment]
    path = path_of(hub.root, place.segment)
    assert study_uid(1) not in str(path)
    assert path.stat().st_mode & 0o077 == 0
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in path.parents[:3])


def test_a_store_that_is_not_there_yet_has_no_segments(tmp_path: Path) -> None:
    assert list(SegmentStore(tmp_path / "nowhere").segments()) == []


def test_what_is_no_segment_is_not_listed(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    (path_of(hub.root, place.segment).parent / "lost+found").touch()
    (hub.root / "used" / "note").touch()
    assert list(hub.store.segments()) == [place.segment]


# --- logs ---------------------------------------------------------------------------------------


def test_a_log_shows_what_is_written_after_it_was_opened(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object(1, 1))
    (segment,) = hub.store.segments()
    with hub.store.open_log(segment) as log:
        assert len(list(whole_records(log.log))) == 1
        reception.store(received_object(1, 2))
        assert len(list(whole_records(log.log))) == 2
        assert log.header is not None
        assert log.is_being_written()
        reception.close(EndOfTransfer.RELEASED)
        assert not log.is_being_written()
        log.sync()


def test_a_segment_without_a_header_says_so(hub: Receiving) -> None:
    extent = hub.pool.claim(1)
    with hub.store.open_log(extent.segment) as log:
        assert log.header is None
        assert log.is_being_written()
    os.close(extent.handle)


def test_looking_whether_somebody_writes_leaves_no_lock_behind(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    with hub.store.open_log(place.segment) as log:
        assert not log.is_being_written()
        with path_of(hub.root, place.segment).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_released_segment_is_not_being_written(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    with hub.store.open_log(place.segment) as log:
        hub.store.release(place.segment, hub.pool)
        assert not log.is_being_written()


def test_a_view_of_a_log_that_was_kept_does_no_harm(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    with hub.store.open_log(place.segment) as log:
        kept = log.log[:HEADER_SIZE]
    assert kept[:8] == b"CAIDXSG2"


@pytest.mark.parametrize("segment", ["0" * 32 + ".segment", "../x", ""])
def test_a_log_that_is_not_there_is_an_integrity_error(hub: Receiving, segment: str) -> None:
    with pytest.raises(IntegrityError), hub.store.open_log(segment):
        pass


def test_a_failed_sync_of_a_log_is_an_integrity_error(
    hub: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (place,) = fill(hub, 1)
    with hub.store.open_log(place.segment) as log:
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(IntegrityError):
            log.sync()


# --- erasure ------------------------------------------------------------------------------------


def test_a_released_segment_is_gone_and_releasing_it_again_is_fine(hub: Receiving) -> None:
    (place,) = fill(hub, 1)
    hub.store.release(place.segment, hub.pool)
    hub.store.release(place.segment, hub.pool)
    assert list(hub.store.segments()) == []
    with pytest.raises(IntegrityError):
        hub.store.read(place)


def test_a_segment_that_is_being_written_is_not_released(hub: Receiving) -> None:
    reception = hub.open()
    reception.store(received_object())
    (segment,) = hub.store.segments()
    with pytest.raises(TransientError, match="in use"):
        hub.store.release(segment, hub.pool)
    reception.close(EndOfTransfer.RELEASED)
    assert len(hub.files()) == 1


def test_damage_is_noticed_when_it_is_read(hub: Receiving) -> None:
    first, second = fill(hub, 1, 2)
    damage(hub, first.segment, first.offset + first.length - 1, b"?")
    with pytest.raises(IntegrityError):
        hub.store.read(first)
    assert hub.store.read(second) == part10(received_object(1, 2))


def test_a_reader_that_was_stopped_does_not_read_the_next_studys_bytes(
    hub: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    (location,) = fill(hub, 1)
    pool, read = ExtentPool(hub.root, 8 << 20, 0), objects._read_fully
    given: list[bytes] = []

    def stopped(handle: int, length: int, offset: int) -> bytes:
        if length == location.length:  # its header was read; here the extent gets another owner
            pool.release(location.segment)
            pool.keep_ready()
            extent = pool.claim(1)
            other = part10(received_object(2, 1, patient_id="P2"))
            os.pwrite(extent.handle, other, location.offset)
            os.close(extent.handle)
        given.append(read(handle, length, offset))
        return given[-1]

    monkeypatch.setattr(objects, "_read_fully", stopped)
    with pytest.raises(IntegrityError):
        hub.store.read(location)
    assert b"P2" in given[-1]


def test_a_header_that_the_disk_does_not_give_is_none(
    hub: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    (location,) = fill(hub, 1)

    def broken(handle: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with hub.store.open_log(location.segment) as log:
        assert log.header is not None
        monkeypatch.setattr(os, "pread", broken)
        assert log.header is None
