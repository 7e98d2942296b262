"""The segment store: what it acknowledged is there, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.domain.study import Location
from hub.errors import IntegrityError, TransientError
from hub.store.objects import SegmentStore

STUDY = "1.2.826.0.1.3680043.8.498.1"


def store_at(folder: Path) -> SegmentStore:
    return SegmentStore(folder, minimum_free_bytes=0)


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return store_at(tmp_path / "objects")


def file_of(store: SegmentStore, segment: str) -> Path:
    return next(store.root.rglob(segment))


def fill(store: SegmentStore, payloads: list[bytes]) -> list[Location]:
    with store.create(STUDY) as writer:
        return [writer.append([payload]) for payload in payloads]


def test_what_was_appended_is_read_back(store: SegmentStore) -> None:
    payloads = [b"first", b"", b"x" * 100_000]
    assert [store.read(place) for place in fill(store, payloads)] == payloads


def test_chunks_are_stored_as_one_payload(store: SegmentStore) -> None:
    with store.create(STUDY) as writer:
        place = writer.append([b"DICM", b"", bytearray(b"meta"), memoryview(b"data set")])
    assert place.length == 16
    assert store.read(place) == b"DICMmetadata set"


def test_a_new_store_over_the_same_folder_reads_what_the_old_one_wrote(tmp_path: Path) -> None:
    place = fill(store_at(tmp_path), [b"kept"])[0]
    assert store_at(tmp_path).read(place) == b"kept"


def test_a_pickled_store_reads(store: SegmentStore) -> None:
    place = fill(store, [b"kept"])[0]
    copy: SegmentStore = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
    assert copy.read(place) == b"kept"


def test_the_log_gives_every_location_and_digest_back(store: SegmentStore) -> None:
    payloads = [b"one", b"two" * 1000, b""]
    places = fill(store, payloads)
    records = list(store.records(places[0].segment))
    assert [place for place, _ in records] == places
    assert [digest for _, digest in records] == [
        hashlib.sha256(payload).hexdigest() for payload in payloads
    ]


def test_file_names_tell_nothing_about_the_study(store: SegmentStore) -> None:
    place = fill(store, [b"x"])[0]
    assert list(store.segments()) == [place.segment]
    assert STUDY not in str(file_of(store, place.segment))
    assert "/" not in place.segment
    assert file_of(store, place.segment).stat().st_mode & 0o077 == 0


def test_two_associations_of_one_study_get_two_segments(store: SegmentStore) -> None:
    first, second = fill(store, [b"1"])[0], fill(store, [b"2"])[0]
    assert first.segment != second.segment
    assert list(store.segments()) == sorted([first.segment, second.segment])


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=1, max_value=48 + 500))
def test_a_torn_tail_is_left_out_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    store = store_at(tmp_path_factory.mktemp("objects"))
    places = fill(store, [b"a" * 300, b"b" * 500])
    path = file_of(store, places[0].segment)
    os.truncate(path, path.stat().st_size - cut)
    assert [place for place, _ in store.records(places[0].segment)] == places[:1]
    assert store.read(places[0]) == b"a" * 300
    with pytest.raises(IntegrityError):
        store.read(places[1])


def test_a_tail_whose_bytes_never_reached_the_disk_is_left_out(store: SegmentStore) -> None:
    places = fill(store, [b"a" * 300, b"b" * 500])
    with file_of(store, places[0].segment).open("r+b") as file:
        file.seek(places[1].offset)
        file.write(bytes(500))
    assert [place for place, _ in store.records(places[0].segment)] == places[:1]


def test_a_tail_of_zeros_is_left_out(store: SegmentStore) -> None:
    places = fill(store, [b"a" * 300])
    with file_of(store, places[0].segment).open("ab") as file:
        file.write(bytes(4096))
    assert [place for place, _ in store.records(places[0].segment)] == places


def test_a_changed_record_in_the_middle_is_an_integrity_error(store: SegmentStore) -> None:
    places = fill(store, [b"a" * 300, b"b" * 500])
    with file_of(store, places[0].segment).open("r+b") as file:
        file.seek(places[0].offset + 10)
        file.write(b"!")
    with pytest.raises(IntegrityError, match="damaged at byte 0"):
        list(store.records(places[0].segment))


def test_a_location_that_is_no_record_is_an_integrity_error(store: SegmentStore) -> None:
    place = fill(store, [b"a" * 300])[0]
    wrong = [
        Location(place.segment, place.offset + 1, place.length),
        Location(place.segment, place.offset, place.length - 1),
        Location(place.segment, place.offset, place.length + 1),
        Location(place.segment, 0, 10),
        Location(place.segment, place.offset, -1),
        Location("../../etc/passwd", place.offset, place.length),
        Location("0" * 16 + "-" + "0" * 32 + ".segment", place.offset, place.length),
    ]
    for location in wrong:
        with pytest.raises(IntegrityError):
            store.read(location)


def test_a_deleted_segment_is_gone_and_deleting_it_again_is_fine(store: SegmentStore) -> None:
    place = fill(store, [b"x"])[0]
    store.delete(place.segment)
    store.delete(place.segment)
    assert list(store.segments()) == []
    with pytest.raises(IntegrityError):
        store.read(place)


def test_nothing_is_accepted_below_the_watermark(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    store = SegmentStore(tmp_path, minimum_free_bytes=disk.f_bavail * disk.f_frsize * 2)
    with store.create(STUDY) as writer, pytest.raises(TransientError, match="disk space"):
        writer.append([b"x"])


def test_a_full_disk_is_transient_and_leaves_the_segment_whole(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def half_then_full(handle: int, buffers: list[memoryview]) -> int:
        real(handle, buffers[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.create(STUDY) as writer:
        first = writer.append([b"first"])
        with monkeypatch.context() as full:
            full.setattr(os, "writev", half_then_full)
            with pytest.raises(TransientError, match="No space left"):
                writer.append([b"second" * 100, b"the rest"])
        assert file_of(store, writer.segment).stat().st_size == writer.size
        third = writer.append([b"third"])
    assert [place for place, _ in store.records(first.segment)] == [first, third]
    assert store.read(third) == b"third"


def test_after_a_failed_sync_the_segment_takes_no_more(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with store.create(STUDY) as writer:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fail)
            with pytest.raises(IntegrityError):
                writer.append([b"x"])
        with pytest.raises(IntegrityError):
            writer.append([b"x"])


def test_every_append_is_synced_before_it_returns(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_size)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", note)
    with store.create(STUDY) as writer:
        for _ in range(3):
            writer.append([b"x" * 10])
            assert synced[-1] == writer.size
    assert len(synced) == 3


def test_a_name_is_synced_before_the_segment_is_used(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    with store.create(STUDY) as writer:
        folder = file_of(store, writer.segment).parent
        assert synced == [store.root.parent.name, store.root.name, folder.name]


def test_a_closed_writer_takes_no_more(store: SegmentStore) -> None:
    writer = store.create(STUDY)
    writer.close()
    writer.close()
    with pytest.raises(IntegrityError, match="is closed"):
        writer.append([b"x"])


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from hub.store.objects import SegmentStore
store = SegmentStore(Path(sys.argv[1]), minimum_free_bytes=0)
writer = store.create("1.2.3")
number = 0
while True:
    payload = number.to_bytes(4, "little") * 50_000
    place = writer.append([payload])
    print(place.segment, place.offset, place.length, number, flush=True)
    number += 1
"""


def test_all_that_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    store = store_at(tmp_path)
    segment = acknowledged[0][0]
    in_log = {place for place, _ in store.records(segment)}
    for _, offset, length, number in acknowledged:
        place = Location(segment, int(offset), int(length))
        assert place in in_log
        assert store.read(place) == int(number).to_bytes(4, "little") * 50_000
    assert len(in_log) <= len(acknowledged) + 1
