"""The indexer when it dies, when writers die, when the disk lies, when the database is away."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hub.domain.study import StudyKey
from hub.errors import TransientError
from hub.ports import HealthState
from hub.store import audit, index_batch, indexing, instances, studies, transfers
from hub.store.disk import Disk
from hub.store.reception import StudyReception
from hub.store.schema import alerts, associations
from hub.store.schema import instances as instances_table
from hub.store.schema import segments as segments_table
from hub.store.segments.followers import RECORDS_PER_ROUND
from hub.store.segments.format import (
    CONTINUED,
    HEADER_SIZE,
    RECORD_HEADER_SIZE,
    read_record_header,
)
from hub.store.segments.names import path_of
from hub.store.segments.objects import SegmentLog
from tests.fakes import FrozenClock
from tests.received import received_object, study_uid
from tests.stored import StoreBench
from tests.unit.store.test_indexing import RELEASED, column, due, load
from tests.unit.store.test_reception import FailingDisk


class CrashError(BaseException):
    """The process is gone; nothing in the hub may catch it."""


def crash(*_: object, **__: object) -> None:
    raise CrashError


def away(*_: object, **__: object) -> None:
    raise TransientError("database: away")


def die(reception: StudyReception) -> None:
    """The writer's process is gone: its handles are closed and nothing more is written."""
    for writer in reception._open.values():
        os.close(writer._extent.handle)
        writer._open = False


def only_segment(bench: StoreBench) -> Path:
    (segment,) = bench.objects.segments()
    return path_of(bench.root, segment)


@contextmanager
def changed(path: Path) -> Iterator[bytearray]:
    """The bytes of a file, to be changed in place."""
    content = bytearray(path.read_bytes())
    yield content
    with path.open("r+b") as file:
        file.write(content)


def record_at(content: bytes | bytearray, number: int) -> int:
    """Offset of a record."""
    offset = HEADER_SIZE
    for _ in range(number):
        record = read_record_header(content, offset)
        assert record is not None
        offset = record.end
    return offset


def stored_numbers(bench: StoreBench) -> list[int]:
    uids = column(bench.database, instances_table.c.sop_instance_uid)
    return sorted(int(uid.rpartition(".")[2]) for uid in uids)


# --- the indexer dies ----------------------------------------------------------------------


def test_a_restart_in_the_middle_of_a_log_goes_on_where_the_index_ends(bench: StoreBench) -> None:
    reception = bench.open()
    for number in range(300):
        reception.store(received_object(number=number))
    assert bench.indexer.run_once(0.0) == RECORDS_PER_ROUND
    bench.restart()
    assert bench.index() == 300 - RECORDS_PER_ROUND - 1  # that it is durable, the other one heard
    reception.store(received_object(number=300))
    reception.close(RELEASED)
    bench.restart()
    assert bench.index() == 3
    assert stored_numbers(bench) == list(range(301))
    (event,) = audit.events(bench.database)
    assert (event.detail["instances"], event.detail["duplicates"]) == (301, 0)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (SegmentLog, "sync"),
        (instances, "add"),
        (index_batch.Round, "write_notes"),
        (transfers, "close_association"),
    ],
)
def test_an_indexer_that_dies_anywhere_leaves_nothing_half_done(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch, place: object, name: str
) -> None:
    reception = bench.open()
    for number in (1, 2, 2):
        reception.store(received_object(number=number))
    reception.close(RELEASED)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, crash)
        with pytest.raises(CrashError):
            bench.index()
    assert column(bench.database, segments_table.c.segment) == []
    bench.restart()
    assert bench.index() == 4
    assert stored_numbers(bench) == [1, 2]
    (event,) = audit.events(bench.database)
    assert (event.detail["instances"], event.detail["duplicates"]) == (2, 1)


def test_what_is_indexed_was_synced_before(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception, order = bench.open(), []
    reception.store(received_object())
    sync, add = SegmentLog.sync, instances.add
    monkeypatch.setattr(SegmentLog, "sync", lambda log: (order.append("sync"), sync(log)))
    monkeypatch.setattr(instances, "add", lambda *a: (order.append("add"), add(*a)))
    bench.index()
    assert order == ["sync", "add"]


def test_a_second_indexer_stands_by_and_takes_over(bench: StoreBench) -> None:
    first, second = bench.indexer, bench.new_indexer()
    bench.store([received_object(number=1)])
    bench.open().store(received_object(number=2))
    assert second.run_once(0.0) == 0
    assert "stands by" in second.health().detail
    first.stop()
    bench.indexer = second
    assert bench.index() == 1
    assert "follows 1 segments" in second.health().detail
    assert stored_numbers(bench) == [1, 2]


def test_the_database_is_away_and_nothing_is_lost(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_FIRST_DELAY", 0.001)
    reception = bench.open()
    reception.store(received_object(number=1))
    bench.index()
    reception.store(received_object(number=2))
    reception.close(RELEASED)
    with monkeypatch.context() as patched:
        patched.setattr(instances, "known_digests", away)
        with pytest.raises(TransientError):
            bench.indexer.run_once(0.0)
        bench.indexer.turn()
        assert bench.indexer.health().state is HealthState.DEGRADED
    assert bench.index() == 2
    assert bench.indexer.health().state is HealthState.HEALTHY
    assert stored_numbers(bench) == [1, 2]
    assert column(bench.database, associations.c.end) == ["released"]


# --- writers die -----------------------------------------------------------------------------


def test_a_dead_writer_ends_its_transfer_as_aborted(bench: StoreBench, clock: FrozenClock) -> None:
    reception = bench.open()
    reception.store(received_object(1))
    reception.store(received_object(2))
    bench.index()
    die(reception)
    bench.restart()
    bench.index()
    assert column(bench.database, associations.c.end) == ["aborted"]
    assert column(bench.database, segments_table.c.state) == ["sealed"] * 2
    events = list(audit.events(bench.database))
    assert [event.detail["end"] for event in events] == ["aborted"] * 2
    clock.advance(30)
    assert len(due(bench)) == 2


def test_a_running_indexer_notices_a_dead_writer_by_itself(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object())
    bench.index()
    die(reception)
    time.sleep(1.0)  # the next look
    bench.index()
    assert column(bench.database, associations.c.end) == ["aborted"]


def test_a_transfer_of_which_one_segment_broke_off_is_aborted(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object(1))
    reception.store(received_object(2))
    first = next(iter(reception._open.values()))
    os.close(first._extent.handle)
    first._open = False
    reception.close(RELEASED)
    bench.index()
    assert column(bench.database, associations.c.end) == ["aborted"]


@pytest.mark.parametrize("is_sent_again", [True, False])
def test_a_transfer_in_which_a_write_failed_waits_for_stragglers(
    bench: StoreBench, clock: FrozenClock, is_sent_again: bool
) -> None:
    bench.pool.disk = disk = FailingDisk()
    reception = bench.open()
    reception.store(received_object(1, 1))
    disk.sync_error = errno.EIO
    with pytest.raises(TransientError):
        reception.store(received_object(1, 2))
    disk.sync_error = None
    if is_sent_again:
        reception.store(received_object(1, 2))
    reception.close(RELEASED)
    bench.index()
    assert column(bench.database, associations.c.end) == ["aborted"]
    clock.advance(29)
    assert due(bench) == []
    clock.advance(1)
    assert due(bench) == [StudyKey(study_uid(1), 1)]
    assert len(stored_numbers(bench)) == 1 + is_sent_again


@pytest.mark.parametrize("torn", ["payload", "header"])
def test_a_torn_tail_of_a_dead_writer_is_no_damage(bench: StoreBench, torn: str) -> None:
    reception = bench.open()
    for number in (1, 2):
        reception.store(received_object(number=number))
    die(reception)
    with changed(only_segment(bench)) as content:
        at = record_at(content, 1) + (RECORD_HEADER_SIZE + 50 if torn == "payload" else 20)
        content[at : at + 100] = bytes(100)
    bench.index()
    assert stored_numbers(bench) == [1]
    assert column(bench.database, alerts.c.kind) == []
    assert column(bench.database, associations.c.end) == ["aborted"]


def test_a_record_that_is_being_written_is_waited_for(bench: StoreBench) -> None:
    reception = bench.open()
    for number in (1, 2):
        reception.store(received_object(number=number))
    path = only_segment(bench)
    whole = path.read_bytes()
    with changed(path) as content:
        at = record_at(content, 1) + RECORD_HEADER_SIZE + 50
        content[at : at + 100] = bytes(100)
    assert bench.index() == 1
    with changed(path) as content:
        content[:] = whole
    bench.bell.ring(path.name)
    assert bench.index() == 1
    assert stored_numbers(bench) == [1, 2]


def test_what_looks_like_a_record_in_a_torn_payload_is_a_senders(bench: StoreBench) -> None:
    first = bench.open()
    first.store(received_object(number=7))
    log = only_segment(bench).read_bytes()
    first.close(RELEASED)
    reception, bait = bench.open(), received_object(number=8, pixel_bytes=4000)
    record = log[HEADER_SIZE : record_at(log, 1)]
    reception.store(replace(bait, data_set=bait.data_set[:-2000] + record.ljust(2000, b"x")))
    (writer,) = reception._open.values()
    die(reception)
    with changed(path_of(bench.root, writer.segment)) as content:
        content[HEADER_SIZE + RECORD_HEADER_SIZE + 10] ^= 0xFF
    bench.index()
    assert stored_numbers(bench) == [7]
    assert column(bench.database, alerts.c.kind) == []


def test_a_transfer_that_goes_on_in_a_segment_that_never_comes_ends(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception = bench.open()
    reception.store(received_object())
    (writer,) = reception._open.values()
    writer.close(CONTINUED, bench.clock.now())
    bench.index()
    assert column(bench.database, associations.c.closed_at) == [None]
    monkeypatch.setattr(indexing, "LINGER_SECONDS", 0.0)
    bench.restart()
    bench.index()
    assert column(bench.database, associations.c.end) == ["aborted"]


def test_a_transfer_that_was_given_up_goes_on(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch, clock: FrozenClock
) -> None:
    monkeypatch.setattr(indexing, "LINGER_SECONDS", 0.0)
    reception = bench.open()
    reception.store(received_object(number=1))
    (writer,) = reception._open.values()
    writer.close(CONTINUED, clock.now())
    bench.index()
    bench.indexer.run_once(0.0)
    assert column(bench.database, associations.c.end) == ["aborted"]
    reception.store(received_object(number=2))
    bench.index()
    assert column(bench.database, associations.c.end) == [None]
    reception.close(RELEASED)
    bench.index()
    assert column(bench.database, associations.c.end) == ["released"]


def test_a_transfer_ends_with_the_last_of_its_segments(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object(1))
    reception.store(received_object(2))
    first = next(iter(reception._open.values()))
    first.close("released", bench.clock.now())
    bench.bell.ring(first.segment)
    bench.index()
    assert column(bench.database, associations.c.closed_at) == [None]
    reception.close(RELEASED)
    bench.index()
    assert column(bench.database, associations.c.end) == ["released"]


def test_a_segment_that_nobody_heard_of_is_part_of_its_transfer(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object(1))
    bench.index()
    (first,) = bench.objects.segments()
    reception.store(received_object(2))
    reception.close(RELEASED)
    bench.bell.wait(0.0)  # all rings but one are lost
    bench.bell.ring(first)
    bench.index()
    events = [event.study_instance_uid for event in audit.events(bench.database)]
    assert sorted(events) == [study_uid(1), study_uid(2)]


class _LastSyncFails(Disk):
    """While it syncs, somebody reads what is not durable; then it fails."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self.fails = False

    def sync_data(self, handle: int) -> None:
        if self.fails:
            self.fails = False
            self._meanwhile()
            raise OSError(errno.EIO, "Input/output error")
        super().sync_data(handle)


def test_what_was_never_durable_is_not_indexed_though_it_could_be_read(bench: StoreBench) -> None:
    disk = bench.pool.disk = _LastSyncFails(bench.index)
    reception = bench.open()
    reception.store(received_object(number=1))
    disk.fails = True
    with pytest.raises(TransientError):
        reception.store(received_object(number=2))
    bench.index()
    assert stored_numbers(bench) == [1]
    reception.store(received_object(number=2))
    reception.close(RELEASED)
    bench.index()
    study = load(bench, study_uid(1))
    assert [len(bench.objects.read(one.location)) > 0 for one in study.instances] == [True, True]
    (event,) = audit.events(bench.database)
    assert (event.detail["instances"], event.detail["duplicates"]) == (2, 0)


def test_a_lost_ring_costs_seconds_and_no_image(bench: StoreBench) -> None:
    reception = bench.open()
    reception.store(received_object(number=1))
    bench.index()
    time.sleep(0.3)
    bench.index()
    reception.store(received_object(number=2))
    bench.bell.wait(0.0)  # it rang for somebody else
    deadline = time.monotonic() + 5
    while stored_numbers(bench) != [1, 2]:
        assert time.monotonic() < deadline
        bench.indexer.run_once(0.1)


# --- at the same moment ------------------------------------------------------------------------


def test_an_image_that_is_indexed_while_its_study_is_closed_opens_a_new_revision(
    bench: StoreBench, clock: FrozenClock
) -> None:
    bench.store([received_object(number=1)])
    clock.advance(2)
    (key,) = due(bench)
    reception = bench.open()
    reception.store(received_object(number=2))
    with bench.database.write() as connection:
        assert studies.complete(connection, key, clock.now())
        indexing_ = threading.Thread(target=bench.index)
        indexing_.start()
        time.sleep(0.3)  # it has come as far as the other transaction lets it
    indexing_.join(20)
    assert stored_numbers(bench) == [1, 2]
    clock.advance(30)
    assert due(bench) == [StudyKey(key.study_instance_uid, 2)]
