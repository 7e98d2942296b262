"""The indexer where the disk lies, where nothing is needed any more, and where nothing happens."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import pytest
import sqlalchemy as sa

from hub.errors import TransientError
from hub.formats.dicom.part10 import part10_prefix
from hub.ports import ReceivedObject
from hub.store.journal import Journal
from hub.store.schema import alerts, association_studies, associations
from hub.store.schema import instances as instances_table
from hub.store.schema import segments as segments_table
from hub.store.segments import erasing
from hub.store.segments.erasing import Eraser
from hub.store.segments.extents import ExtentPool
from hub.store.segments.format import HEADER_SIZE, SegmentHeader
from hub.store.segments.log_reader import DAMAGED, UNREADABLE, Share, read_portion
from hub.store.segments.writer import SegmentWriter
from tests.received import received_object, study_uid
from tests.stored import StoreBench
from tests.unit.store.test_indexing import RELEASED, column
from tests.unit.store.test_indexing_faults import (
    away,
    changed,
    die,
    only_segment,
    record_at,
    stored_numbers,
)

# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["payload", "header"])
def test_a_damaged_record_is_told_and_skipped(bench: StoreBench, place: str) -> None:
    reception = bench.open()
    for number in (1, 2, 3):
        reception.store(received_object(number=number))
    reception.close(RELEASED)
    with changed(only_segment(bench)) as content:
        content[record_at(content, 1) + (500 if place == "payload" else 17)] ^= 0xFF
    bench.index()
    assert stored_numbers(bench) == [1, 3]
    assert column(bench.database, alerts.c.kind) == [DAMAGED]
    assert column(bench.database, alerts.c.study_instance_uid) == [study_uid(1)]
    assert column(bench.database, associations.c.end) == ["released"]


def test_a_damaged_segment_header_is_told_once_and_the_segment_kept(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object(1))
    die(reception)
    damaged = only_segment(bench)
    with changed(damaged) as content:
        content[30] ^= 0xFF
    bench.open().store(received_object(2))
    bench.index()
    bench.restart()
    bench.index()
    assert column(bench.database, instances_table.c.study_instance_uid) == [study_uid(2)]
    assert column(bench.database, alerts.c.kind) == [DAMAGED]
    eraser(bench).turn()
    assert damaged.exists()


def test_a_segment_that_was_claimed_and_not_written_to_is_nobodys(bench: StoreBench) -> None:
    os.close(bench.pool.claim(0).handle)
    reception = bench.open()
    held = bench.pool.claim(0)
    bench.index()
    os.close(held.handle)
    reception.store(received_object())
    bench.index()
    assert stored_numbers(bench) == [1]
    assert column(bench.database, alerts.c.kind) == []


def test_a_segment_that_is_gone_is_told_and_keeps_no_transfer_open(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object())
    bench.index()
    only_segment(bench).unlink()
    bench.restart()
    bench.index()
    assert column(bench.database, alerts.c.kind) == [DAMAGED]
    assert column(bench.database, segments_table.c.state) == ["sealed"]


@pytest.mark.parametrize(
    "received",
    [
        received_object(study=2, number=2),  # of another study than its segment
        ReceivedObject("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", b"\0" * 99),
        received_object(number=2, patient_id="P" * 66),
    ],
)
def test_a_record_that_cannot_be_indexed_blocks_nothing(
    bench: StoreBench, received: ReceivedObject
) -> None:
    if bench.database.is_sqlite and b"PPPP" in received.data_set:
        pytest.skip("SQLite takes texts of any length")
    writer = _writer(bench)
    for one in (received, received_object(number=1), received_object(number=3)):
        writer.append(part10_prefix(one), one.data_set, bench.clock.now())
    writer.close("released", bench.clock.now())
    bench.index()
    assert stored_numbers(bench) == [1, 3]
    assert column(bench.database, alerts.c.kind) == [UNREADABLE]
    assert column(bench.database, associations.c.end) == ["released"]


def _writer(bench: StoreBench, caller: str = "SCANNER") -> SegmentWriter:
    header = SegmentHeader("a1", "receiver", study_uid(1), "dicom", caller, "", "", 0.0)
    return SegmentWriter(bench.pool.claim(0), header, bench.pool.disk)


def test_what_a_sender_says_of_itself_always_fits(bench: StoreBench) -> None:
    writer = _writer(bench, "S" * 200 + "\0")
    one = received_object()
    writer.append(part10_prefix(one), one.data_set, bench.clock.now())
    bench.bell.ring(writer.segment, writer.end)
    bench.index()
    assert stored_numbers(bench) == [1]


# --- erasing -----------------------------------------------------------------------------------


def eraser(bench: StoreBench, pool: ExtentPool | None = None) -> Eraser:
    return Eraser(bench.database, pool or bench.pool, Journal(bench.clock, "indexer"))


def test_a_segment_of_duplicates_is_overwritten_and_used_again(bench: StoreBench) -> None:
    bench.store([received_object()])
    kept = only_segment(bench)
    bench.store([received_object()])
    pool = ExtentPool(bench.root, ready_bytes=8 << 20, minimum_free_bytes=0)
    assert eraser(bench, pool).turn() == 1
    assert eraser(bench, pool).turn() == 0
    assert only_segment(bench) == kept
    assert column(bench.database, segments_table.c.segment) == [kept.name]
    (free,) = (path for path in (bench.root / "free").iterdir() if path.name[0].isdigit())
    assert free.read_bytes().count(0) == free.stat().st_size
    assert sorted(column(bench.database, association_studies.c.duplicates)) == [0, 1]


def test_a_segment_that_a_person_has_to_look_at_is_not_erased(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object())
    reception.close(RELEASED)
    with changed(only_segment(bench)) as content:
        content[HEADER_SIZE + 500] ^= 0xFF
    bench.index()
    assert column(bench.database, segments_table.c.state) == ["sealed"]


def test_an_erasure_that_fails_is_tried_again(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store([received_object()])
    bench.store([received_object()])
    with monkeypatch.context() as patched:
        patched.setattr(bench.pool, "release", away)
        with pytest.raises(TransientError):
            eraser(bench).turn()
    assert "released" in column(bench.database, segments_table.c.state)
    assert eraser(bench).turn() == 1


def test_erasures_that_fail_keep_no_others_and_are_told_once(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_AT_ONCE", 2)
    monkeypatch.setattr(erasing, "TRIES", 3)
    bench.store([received_object()])
    for _ in range(6):
        bench.store([received_object()])
    released = segments_table.c.state == "released"
    with bench.database.read() as connection:
        query = sa.select(segments_table.c.segment).where(released)
        names = sorted(connection.execute(query).scalars())
    release = bench.pool.release

    def fail(segment: str) -> None:
        (away if segment in names[:3] else release)(segment)

    monkeypatch.setattr(bench.pool, "release", fail)
    turns = eraser(bench)
    for _ in range(12):
        with suppress(TransientError):
            turns.turn()
    with bench.database.read() as connection:
        assert sorted(connection.execute(query).scalars()) == names[:3]
    assert column(bench.database, alerts.c.kind) == [erasing.NOT_ERASED]
    monkeypatch.setattr(bench.pool, "release", release)
    assert sum(turns.turn() for _ in range(4)) == 3


# --- at rest -----------------------------------------------------------------------------------


def test_an_idle_indexer_asks_the_database_nothing(bench: StoreBench) -> None:
    bench.open().store(received_object())
    bench.index()
    asked = []
    engine = bench.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    time.sleep(1.0)
    bench.indexer.run_once(0.0)
    bench.indexer.run_once(0.1)
    assert asked == []


def test_an_unread_log_counts_as_lag(bench: StoreBench) -> None:
    reception = bench.open()
    for number in range(100):
        reception.store(received_object(number=number))
    bench.indexer.run_once(0.0)
    assert bench.indexer.lag.records == 100
    assert bench.indexer.lag.length > 100 * 1000
    bench.index()
    time.sleep(1.0)
    bench.indexer.run_once(0.0)
    assert bench.indexer.lag.records == 0


def test_a_file_that_becomes_shorter_ends_no_indexer(bench: StoreBench) -> None:
    reception = bench.open()
    for number in (1, 2):
        reception.store(received_object(number=number, pixel_bytes=40_000))
    path = only_segment(bench)
    header = reception._header(study_uid(1))
    with bench.objects.open_log(path.name) as log:
        os.truncate(path, 50_000)  # a page that the disk cannot give is the same to the reader
        portion = read_portion(log, header, HEADER_SIZE, Share(64, 1 << 30))
    assert len(portion.arrivals) == 1
    assert [flaw.action for flaw in portion.flaws] == [DAMAGED]
