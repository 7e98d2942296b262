"""Power cuts at random points: whatever was acknowledged is there, and nothing torn is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from hub.domain.study import Location
from hub.formats.dicom.part10 import part10
from hub.ports import EndOfTransfer, ReceivedObject, Sender
from hub.store.disk import Disk
from hub.store.reception import IntakeLimits, SegmentIntake, StudyReception
from hub.store.segments.extent_files import is_all_zero
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import RecordKind, whole_records
from hub.store.segments.names import FREE
from hub.store.segments.objects import SegmentStore
from tests.fakes import FrozenClock
from tests.power_cut import CutDisk, PowerCutError
from tests.received import received_object

CUTS = 12
"""In each run of the test; each has its own course of events."""
SENDER = Sender("dicom", "SCANNER", "CAIDX", "127.0.0.1")


class Unsynced(Disk):
    """After the power cut there is no other one: no time is spent on syncs."""

    def sync_data(self, handle: int) -> None: ...

    def sync_folder(self, folder: Path) -> None: ...


@dataclass
class LastRung:
    """Stands for the bell: it is rung just before an object is acknowledged."""

    segment: str = ""

    def ring(self, segment: str, durable_to: int | None = None) -> None:
        self.segment = segment


@dataclass
class Course:
    """What a hospital did until the power went."""

    root: Path
    disk: CutDisk
    random: Random
    bell: LastRung = field(default_factory=LastRung)
    sent: set[bytes] = field(default_factory=set)
    acknowledged: list[tuple[str, bytes]] = field(default_factory=list)
    """(segment, Part 10 file)."""
    released: set[str] = field(default_factory=set)
    """Segments whose erasure had begun."""

    def run(self) -> None:
        pool = ExtentPool(self.root, ready_bytes=9 << 20, minimum_free_bytes=0, disk=self.disk)
        intake = SegmentIntake(
            pool, self.bell, FrozenClock(), "receiver", IntakeLimits(), lambda _: None
        )
        for number in range(3):
            pool.keep_ready()
            self._transfers(intake, number)
            self._erase_one(pool)

    def _transfers(self, intake: SegmentIntake, number: int) -> None:
        """Two senders at once, one of them with two studies and a large object."""
        receptions = [intake.open(SENDER), intake.open(SENDER)]
        for at in range(self.random.randint(4, 8)):
            chosen = self.random.randrange(3)
            size = self.random.choice([10, 4000, 60_000, 300_000])
            received = received_object(10 * number + chosen, at, pixel_bytes=size, seed=number)
            self._send(receptions[chosen % 2], received, spooled=self.random.random() < 0.1)
        for reception in receptions:
            reception.close(EndOfTransfer.RELEASED)

    def _send(self, reception: StudyReception, received: ReceivedObject, *, spooled: bool) -> None:
        file = part10(received)
        self.sent.add(file)
        if spooled:
            spool = reception.spool(
                received.sop_class_uid, received.sop_instance_uid, received.transfer_syntax_uid
            )
            for start in range(0, len(received.data_set), 50_000):
                spool.write(received.data_set[start : start + 50_000])
            spool.store()
        else:
            reception.store(received)
        self.acknowledged.append((self.bell.segment, file))

    def _erase_one(self, pool: ExtentPool) -> None:
        segment = self.random.choice(sorted(SegmentStore(self.root).segments()))
        self.released.add(segment)
        pool.release(segment)


def run_until_cut(folder: Path, seed: int, cut_at: int | None) -> Course:
    course = Course(folder / "before", CutDisk(cut_at), Random(seed))
    try:
        course.run()
    except PowerCutError:
        assert cut_at is not None
    return course


@pytest.mark.parametrize("run", range(6))
def test_what_was_acknowledged_survives_a_power_cut(run: int, tmp_path: Path) -> None:
    random = Random(run)
    calls = run_until_cut(tmp_path / "whole", run, None).disk.calls
    acknowledged = 0
    for cut in range(CUTS):
        folder = tmp_path / str(cut)
        course = run_until_cut(folder, run, random.randint(1, calls))
        course.disk.image(course.root, folder / "after", random)
        check_after(course, folder / "after")
        acknowledged += len(course.acknowledged)
    assert acknowledged > CUTS, "the power went before anything had happened"


def check_after(course: Course, root: Path) -> None:
    """Open the store as after a start, and look for everything."""
    pool = ExtentPool(root, ready_bytes=0, minimum_free_bytes=0, disk=Unsynced())
    pool.keep_ready()
    pool.reconcile()
    store = SegmentStore(root)
    found: set[tuple[str, bytes]] = set()
    for segment in set(store.segments()) - course.released:
        found |= {(segment, file) for file in objects_of(store, segment)}
    missing = {(s, f) for s, f in course.acknowledged if s not in course.released} - found
    assert not missing
    assert {file for _, file in found} <= course.sent
    for free in (root / FREE).iterdir():
        with free.open("rb") as file:
            assert is_all_zero(file.fileno()), free.name


def objects_of(store: SegmentStore, segment: str) -> list[bytes]:
    objects = []
    with store.open_log(segment) as log:
        for record, whole in whole_records(log.log):
            assert whole, "a torn record was given"
            assert log.header is not None
            if record.kind is RecordKind.OBJECT:
                file = store.read(Location(segment, record.payload_start, record.length))
                assert log.header.study_instance_uid.encode() in file
                objects.append(file)
    return objects


def test_the_layer_loses_what_no_sync_covered(tmp_path: Path) -> None:
    """The test above can fail: without a sync, bytes and names are lost."""
    disk, outcomes = CutDisk(), set()
    path = tmp_path / "before" / "file"
    path.parent.mkdir()
    handle = disk.create(path)
    disk.write(handle, [b"a" * 700], 0)
    for number in range(40):
        disk.image(tmp_path / "before", tmp_path / str(number), Random(number))
        image = tmp_path / str(number) / "file"
        outcomes.add(image.read_bytes() if image.exists() else None)
    assert {None, b"", b"a" * 700} < outcomes
    disk.sync_data(handle)
    disk.sync_folder(path.parent)
    for number in range(40, 50):
        disk.image(tmp_path / "before", tmp_path / str(number), Random(number))
        assert (tmp_path / str(number) / "file").read_bytes() == b"a" * 700
