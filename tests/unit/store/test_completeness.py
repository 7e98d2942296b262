"""When a study counts as complete, by what is known of it: before and after its images."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hub.domain.study import EvidenceKind, StudyKey
from hub.ports import EndOfTransfer, Expectation, ExpectationSource
from hub.store import studies
from hub.store.index_mark import index_mark
from hub.store.schema import instances, study_revisions
from hub.store.segments.names import path_of
from hub.store.series_progress import OpenStudy, close_early
from tests.fakes import FrozenClock
from tests.received import instance_uid, received_object, study_uid
from tests.stored import StoreBench
from tests.unit.store.test_indexing import column, due

KEY = StudyKey(study_uid(1), 1)
ARCHIVE, ORDER = ExpectationSource.ARCHIVE, ExpectationSource.ORDER
NOTIFICATION = ExpectationSource.AVAILABILITY_NOTIFICATION


def expect(
    bench: StoreBench,
    number: int | None = None,
    named: tuple[int, ...] = (),
    source: ExpectationSource = ARCHIVE,
) -> None:
    uids = tuple(instance_uid(1, one) for one in named)
    expectation = Expectation(study_uid(1), source, number, uids)
    with bench.database.write() as connection:
        studies.expect(connection, expectation, bench.clock.now())


def receive(bench: StoreBench, *numbers: int) -> None:
    """Images of a transfer that stays open."""
    reception = bench.open()
    for number in numbers:
        reception.store(received_object(number=number))
    bench.index()


def evidence(bench: StoreBench, revision: int = 1) -> tuple[object, ...]:
    with bench.database.read() as connection:
        found = studies.evidence_of(connection, StudyKey(study_uid(1), revision))
    return found["evidence"], found["received_instances"], found["expected_instances"]


def complete(bench: StoreBench) -> StudyKey:
    (key,) = due(bench)
    with bench.database.write() as connection:
        assert studies.complete(connection, key, bench.clock.now())
    return key


@pytest.mark.parametrize("known_first", [True, False])
@pytest.mark.parametrize(("number", "named"), [(2, ()), (None, (1, 2)), (9, (1, 2))])
def test_a_study_of_which_all_is_there_needs_no_quiet_time(
    bench: StoreBench, known_first: bool, number: int | None, named: tuple[int, ...]
) -> None:
    if known_first:
        expect(bench, number, named)
    receive(bench, 1)
    if not known_first:
        expect(bench, number, named)
    assert due(bench) == []
    receive(bench, 2)
    assert due(bench) == [KEY]
    assert evidence(bench) == (EvidenceKind.EXPECTED_COUNT, 2, 2)


@pytest.mark.parametrize(("number", "named"), [(2, ()), (None, (1, 2))])
def test_what_is_learned_after_the_last_image_makes_it_due(
    bench: StoreBench, number: int | None, named: tuple[int, ...]
) -> None:
    receive(bench, 1, 2)
    assert due(bench) == []
    expect(bench, number, named)
    assert due(bench) == [KEY]


def test_named_instances_are_waited_for_and_not_any_others(bench: StoreBench) -> None:
    expect(bench, named=(1, 2))
    receive(bench, 1, 3, 4)
    assert due(bench) == []
    receive(bench, 2)
    assert due(bench) == [KEY]
    assert evidence(bench) == (EvidenceKind.EXPECTED_COUNT, 4, 2)


def test_more_than_expected_is_complete_too(bench: StoreBench) -> None:
    expect(bench, 2)
    receive(bench, 1, 2, 3)
    assert due(bench) == [KEY]
    assert evidence(bench) == (EvidenceKind.EXPECTED_COUNT, 3, 2)


def test_too_few_at_the_quiet_time_is_complete_and_on_record(
    bench: StoreBench, clock: FrozenClock
) -> None:
    expect(bench, 3)
    bench.store([received_object(number=1)])
    clock.advance(2)
    assert due(bench) == [KEY]
    assert evidence(bench) == (EvidenceKind.ASSOCIATION_RELEASED, 1, 3)


def test_conflicts_and_duplicates_do_not_count(bench: StoreBench) -> None:
    expect(bench, 2)
    receive(bench, 1)
    reception = bench.open()
    reception.store(received_object(number=1))
    reception.store(received_object(number=1, seed=1))
    bench.index()
    assert due(bench) == []


@pytest.mark.parametrize("archive_first", [True, False])
def test_the_most_trusted_source_decides(bench: StoreBench, archive_first: bool) -> None:
    said = [(ARCHIVE, 3), (ORDER, 1)]
    for source, number in said if archive_first else reversed(said):
        expect(bench, number, source=source)
    receive(bench, 1)
    assert due(bench) == []
    receive(bench, 2, 3)
    assert due(bench) == [KEY]


def test_a_source_that_says_nothing_leaves_it_to_the_next(bench: StoreBench) -> None:
    expect(bench, None)
    expect(bench, 1, source=ORDER)
    receive(bench, 1)
    assert due(bench) == [KEY]


def test_what_a_source_says_later_replaces_what_it_said(bench: StoreBench) -> None:
    expect(bench, 1, source=NOTIFICATION)
    expect(bench, 2, source=NOTIFICATION)
    receive(bench, 1)
    assert due(bench) == []
    expect(bench, 1, source=NOTIFICATION)
    assert due(bench) == [KEY]


@pytest.mark.parametrize(("number", "named"), [(1, ()), (None, (1,))])
def test_late_images_wait_for_silence_when_the_expectation_was_met_before(
    bench: StoreBench, clock: FrozenClock, number: int | None, named: tuple[int, ...]
) -> None:
    expect(bench, number, named)
    receive(bench, 1)
    assert complete(bench) == KEY
    receive(bench, 2)
    assert due(bench) == []
    receive(bench, 3)
    clock.advance(30)
    assert due(bench) == [StudyKey(study_uid(1), 2)]
    assert evidence(bench, 2) == (EvidenceKind.QUIET_TIME, 3, 1)


@pytest.mark.parametrize(("number", "named"), [(2, ()), (None, (1, 2))])
def test_missing_images_that_come_late_complete_the_next_revision_at_once(
    bench: StoreBench, clock: FrozenClock, number: int | None, named: tuple[int, ...]
) -> None:
    expect(bench, number, named)
    receive(bench, 1)
    clock.advance(30)
    assert complete(bench) == KEY
    receive(bench, 2)
    assert due(bench) == [StudyKey(study_uid(1), 2)]
    assert evidence(bench, 2) == (EvidenceKind.EXPECTED_COUNT, 2, 2)


def test_a_straggling_transfer_holds_back_no_complete_study(
    bench: StoreBench, clock: FrozenClock
) -> None:
    receive(bench, 1)  # a second sender that never ends
    bench.store([received_object(number=2)])
    assert due(bench) == []
    expect(bench, 2)
    assert due(bench) == [KEY]


def test_each_image_starts_the_quiet_time_again(bench: StoreBench, clock: FrozenClock) -> None:
    reception = bench.open()
    for number in range(3):
        reception.store(received_object(number=number))
        bench.index()
        assert column(bench.database, study_revisions.c.due_at) == [
            clock.now() + timedelta(seconds=30)
        ]
        clock.advance(20)
    assert due(bench) == []


@pytest.mark.parametrize("named", [(), (1, 2)])
def test_what_was_closed_early_for_a_series_still_is_complete_when_all_is_there(
    bench: StoreBench, clock: FrozenClock, named: tuple[int, ...]
) -> None:
    reception = bench.open()
    for number in (1, 2):
        reception.store(received_object(1, number))
    bench.index()
    early = OpenStudy(StudyKey(study_uid(1), 1), 2)
    with bench.database.write() as connection:
        assert close_early(connection, early, {"series": "next-series"}, clock.now())
    source, uids = ExpectationSource.ARCHIVE, tuple(instance_uid(1, n) for n in named)
    said = Expectation(study_uid(1), source, None if named else 2, uids)
    with bench.database.write() as connection:
        studies.expect(connection, said, clock.now())
    assert due(bench) == [StudyKey(study_uid(1), 2)]
    reception.close(EndOfTransfer.RELEASED)


def test_a_study_is_not_complete_before_what_a_power_cut_moved_is_indexed(
    bench: StoreBench, clock: FrozenClock
) -> None:
    """The name of a claimed extent is not synced: after a power cut it may be the old one."""
    reception = bench.open()
    reception.store(received_object(1, 1))
    bench.index()
    (known,) = bench.objects.segments()
    reception.store(received_object(1, 2, pixel_bytes=1 << 20))
    (last,) = set(bench.objects.segments()) - {known}
    path = path_of(bench.root, last)
    copy, size = path.read_bytes(), path.stat().st_size >> 20
    reception.close(EndOfTransfer.RELEASED)
    path.unlink()
    (bench.root / "free" / f"{size}-{path.stem}").write_bytes(copy)
    clock.advance(60)
    bench.restart()
    bench.indexer.run_once(0.0)
    assert index_mark(bench.root).get() == clock.now()
    assert len(column(bench.database, instances.c.sop_instance_uid)) == 2
