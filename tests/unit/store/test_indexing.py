"""What the indexer makes of the logs: studies, duplicates, conflicts, ends of transfers."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.study import EvidenceKind, StudyKey
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import EndOfTransfer, ReceivedObject, Sender
from hub.store import audit, instances, studies
from hub.store.database import Database
from hub.store.index_batch import OTHER_BYTES, TWO_PATIENTS, QuietTimes
from hub.store.index_mark import index_mark
from hub.store.schema import alerts, associations
from hub.store.schema import instances as instances_table
from hub.store.schema import segments as segments_table
from hub.store.segments import followers as segment_followers
from hub.store.segments.followers import RECORDS_PER_ROUND
from tests.fakes import FrozenClock
from tests.received import received_object, study_uid
from tests.stored import StoreBench

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
RELEASED, ABORTED = EndOfTransfer.RELEASED, EndOfTransfer.ABORTED


def phantom_objects(slices: int = 3, **what: Any) -> list[ReceivedObject]:
    """A phantom's slices as a source receives them."""
    received = []
    for file in chest_phantom(slices=slices, rows=64, columns=64, **what).files:
        syntax, data_set = split_part10(file)
        at = data_set.index(b"\x08\x00\x18\x00UI")
        length = int.from_bytes(data_set[at + 6 : at + 8], "little")
        uid = data_set[at + 8 : at + 8 + length].rstrip(b"\0").decode()
        received.append(ReceivedObject(CT_IMAGE_STORAGE, uid, syntax, data_set))
    return received


def with_value(received: ReceivedObject, element: bytes, value: bytes) -> ReceivedObject:
    """The same with another value of a short text element."""
    data_set = bytes(received.data_set)
    start = data_set.index(element)
    length = int.from_bytes(data_set[start + 6 : start + 8], "little")
    value += b" " * (len(value) % 2)
    changed = data_set[: start + 6] + len(value).to_bytes(2, "little") + value
    return ReceivedObject(
        received.sop_class_uid,
        received.sop_instance_uid,
        received.transfer_syntax_uid,
        changed + data_set[start + 8 + length :],
    )


def due(bench: StoreBench) -> list[StudyKey]:
    """What is complete now."""
    with bench.database.read() as connection:
        return studies.due(connection, bench.clock.now(), 10)


def column(database: Database, wanted: sa.Column[Any]) -> list[Any]:
    """All values of a column."""
    with database.read() as connection:
        return list(connection.execute(sa.select(wanted)).scalars())


def load(bench: StoreBench, study: str, revision: int = 1) -> Any:
    with bench.database.read() as connection:
        return instances.load_study(connection, StudyKey(study, revision))


def test_what_was_stored_comes_back_as_a_study(bench: StoreBench) -> None:
    sent = phantom_objects(3)
    bench.store(sent)
    (uid,) = set(column(bench.database, instances_table.c.study_instance_uid))
    study = load(bench, uid)
    assert study.calling_ae_title == "SCANNER"
    assert study.modalities_in_study == ("CT",)
    found = {
        i.sop_instance_uid: split_part10(bench.objects.read(i.location))[1] for i in study.instances
    }
    assert found == {received.sop_instance_uid: received.data_set for received in sent}


def test_the_same_object_again_is_indexed_once_and_counted(bench: StoreBench) -> None:
    one = received_object()
    bench.store([one, one])
    bench.store([one])
    assert len(column(bench.database, instances_table.c.sha256)) == 1
    events = list(audit.events(bench.database))
    assert [(e.detail["instances"], e.detail["duplicates"]) for e in events] == [(1, 1), (0, 1)]
    assert column(bench.database, alerts.c.kind) == []


def test_other_bytes_under_a_known_uid_are_kept_and_flagged_and_not_used(bench: StoreBench) -> None:
    first, other = received_object(), received_object(seed=1)
    bench.store([first, other])
    (kept,) = load(bench, study_uid(1)).instances
    assert split_part10(bench.objects.read(kept.location))[1] == first.data_set
    assert column(bench.database, alerts.c.message) == [OTHER_BYTES]
    assert sorted(column(bench.database, instances_table.c.state)) == ["conflict", "current"]


def test_a_known_instance_under_another_study_is_a_conflict_and_its_transfer_ends_well(
    bench: StoreBench,
) -> None:
    one = received_object()
    moved = with_value(one, b"\x20\x00\x0d\x00UI", study_uid(2).encode() + b"\0")
    bench.store([one])
    bench.store([moved])
    assert column(bench.database, alerts.c.message) == [OTHER_BYTES]
    actions = [event.action for event in audit.events(bench.database)]
    assert sorted(actions) == ["instance.conflict", "study.received", "study.received"]


def test_two_patients_in_one_study_hold_it_back(bench: StoreBench) -> None:
    bench.store([received_object(number=1), received_object(number=2, patient_id="P2")])
    assert load(bench, study_uid(1)).problems == (TWO_PATIENTS,)
    assert column(bench.database, alerts.c.message) == [TWO_PATIENTS]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("name", "problems"), [(b"DOE^JIM", 1), (b"", 0)])
def test_patients_without_an_id_are_told_apart_by_name(
    bench: StoreBench, name: bytes, problems: int, at_once: bool
) -> None:
    one, two = (with_value(r, b"\x10\x00\x20\x00LO", b"") for r in phantom_objects(2))
    two = with_value(two, b"\x10\x00\x10\x00PN", name)
    reception = bench.open()
    reception.store(one)
    if not at_once:
        bench.index()
    reception.store(two)
    bench.index()
    (uid,) = set(column(bench.database, instances_table.c.study_instance_uid))
    assert len(load(bench, uid).problems) == problems


def test_a_released_transfer_is_complete_after_the_quiet_time(
    bench: StoreBench, clock: FrozenClock
) -> None:
    reception = bench.open()
    reception.store(received_object())
    bench.index()
    clock.advance(5)
    reception.close(RELEASED)
    bench.index()
    clock.advance(1.9)
    assert due(bench) == []
    clock.advance(0.1)
    (key,) = due(bench)
    with bench.database.write() as connection:
        assert studies.complete(connection, key, clock.now())
        assert studies.evidence_of(connection, key)["evidence"] == EvidenceKind.ASSOCIATION_RELEASED


@pytest.mark.parametrize("end", [ABORTED, None])
def test_a_transfer_that_is_not_released_waits_for_stragglers(
    bench: StoreBench, clock: FrozenClock, end: EndOfTransfer | None
) -> None:
    reception = bench.open()
    reception.store(received_object())
    if end is not None:
        reception.close(end)
    bench.index()
    clock.advance(29)
    assert due(bench) == []
    clock.advance(1)
    assert len(due(bench)) == 1
    assert column(bench.database, associations.c.end) == [end]


def test_a_second_open_transfer_of_the_study_keeps_it_open(
    bench: StoreBench, clock: FrozenClock
) -> None:
    first, second = bench.open(), bench.open(Sender("dicom", "OTHER"))
    first.store(received_object(number=1))
    second.store(received_object(number=2))
    first.close(RELEASED)
    bench.index()
    clock.advance(5)
    assert due(bench) == []
    second.close(RELEASED)
    bench.index()
    clock.advance(2)
    assert len(due(bench)) == 1
    assert len(load(bench, study_uid(1)).instances) == 2


def test_a_transfer_of_known_objects_is_on_record_ends_the_wait_and_is_erased(
    bench: StoreBench, clock: FrozenClock
) -> None:
    bench.store([received_object()], ABORTED)
    bench.store([received_object()], RELEASED)
    clock.advance(2)
    assert len(due(bench)) == 1
    assert sorted(column(bench.database, segments_table.c.state)) == ["released", "sealed"]


def test_studies_that_a_transfer_mixes_are_told_apart(
    bench: StoreBench, clock: FrozenClock
) -> None:
    reception = bench.open()
    for number in range(1, 5):
        for study in (1, 2, 3):
            reception.store(received_object(study, number))
        bench.index()
    reception.close(RELEASED)
    bench.index()
    for study in (1, 2, 3):
        assert len(load(bench, study_uid(study)).instances) == 4
    clock.advance(2)
    assert len(due(bench)) == 3
    assert len([e for e in audit.events(bench.database) if e.action == "study.received"]) == 3


def test_a_transfer_with_more_studies_than_open_segments_ends_once(bench: StoreBench) -> None:
    bench.store(received_object(study, number) for number in (1, 2) for study in range(1, 12))
    assert column(bench.database, associations.c.end) == ["released"]
    for study in range(1, 12):
        assert len(load(bench, study_uid(study)).instances) == 2
    assert len([e for e in audit.events(bench.database) if e.action == "study.received"]) == 11


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_transfers_of_a_study_may_end_in_any_order(
    bench: StoreBench, clock: FrozenClock, order: tuple[int, ...]
) -> None:
    receptions = [bench.open() for _ in order]
    for number, reception in enumerate(receptions):
        reception.store(received_object(number=number))
    for place in order:
        bench.index()
        assert due(bench) == []
        receptions[place].close(RELEASED)
        clock.advance(3)
    bench.index()
    clock.advance(2)
    assert due(bench) == [StudyKey(study_uid(1), 1)]


def test_a_late_image_opens_a_new_revision_and_a_duplicate_does_not(
    bench: StoreBench, clock: FrozenClock
) -> None:
    bench.store([received_object(number=1)])
    clock.advance(2)
    (key,) = due(bench)
    with bench.database.write() as connection:
        studies.complete(connection, key, clock.now())
    bench.store([received_object(number=1)])
    clock.advance(31)
    assert due(bench) == []
    bench.store([received_object(number=2)])
    clock.advance(2)
    assert due(bench) == [StudyKey(key.study_instance_uid, 2)]
    assert len(load(bench, study_uid(1), 1).instances) == 1
    assert len(load(bench, study_uid(1), 2).instances) == 2


def test_quiet_times_are_those_of_the_source(bench: StoreBench, clock: FrozenClock) -> None:
    bench.store([received_object()], sender=Sender("stow"))
    assert column(bench.database, instances_table.c.received_at) == [clock.now()]
    clock.advance(2)
    assert len(due(bench)) == 1  # a source without any has the defaults


def test_the_mark_tells_up_to_when_the_index_is_whole(
    bench: StoreBench, clock: FrozenClock, tmp_path: Path
) -> None:
    mark = index_mark(bench.root)
    before = mark.get()
    assert before.year == 1970
    reception = bench.open()
    for number in range(RECORDS_PER_ROUND + 36):
        clock.advance(1)
        reception.store(received_object(number=number))
    clock.advance(100)
    assert bench.indexer.run_once(0.0) == RECORDS_PER_ROUND
    last = max(column(bench.database, instances_table.c.received_at))
    assert mark.get() == last < clock.now()
    assert bench.indexer.run_once(0.0) == 36
    assert mark.get() == clock.now()


def test_the_quiet_time_counts_from_the_release_however_late_it_is_indexed(
    bench: StoreBench, clock: FrozenClock
) -> None:
    reception = bench.open()
    reception.store(received_object())
    reception.close(RELEASED)
    clock.advance(1.5)
    bench.index()
    assert due(bench) == []
    clock.advance(0.5)
    assert due(bench) == [StudyKey(study_uid(1), 1)]


def test_rounds_are_gathered_until_a_transfer_ends(bench: StoreBench) -> None:
    bench.indexer._pause = 30.0
    bench.store([received_object(2)])  # a round was just now
    reception = bench.open()
    reception.store(received_object(1))
    begun, done = time.monotonic(), threading.Event()
    timer = threading.Timer(0.1, lambda: (reception.close(RELEASED), done.set()))
    timer.start()
    assert bench.indexer.run_once(0.0) == 2
    assert done.is_set()
    assert time.monotonic() - begun < 15
    timer.join()


def test_the_mark_is_raised_when_a_study_waits_for_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_followers, "LOOK_SECONDS", 30.0)
    bench = StoreBench(
        database, tmp_path / "now", _Now(), {"dicom": QuietTimes(quiet=timedelta(seconds=0.1))}
    )
    bench.store([received_object()])
    begun = time.monotonic()
    while not due_at_mark(bench):
        bench.indexer.run_once(20.0)
        assert time.monotonic() - begun < 10
    bench.close()


class _Now:
    def now(self) -> datetime:
        return datetime.now(UTC)


def due_at_mark(bench: StoreBench) -> list[StudyKey]:
    """What completeness finds."""
    with bench.database.read() as connection:
        return studies.due(connection, index_mark(bench.root).get(), 10)


def test_no_transfer_waits_for_another(bench: StoreBench) -> None:
    busy, other = bench.open(), bench.open()
    for number in range(300):
        busy.store(received_object(1, number))
    other.store(received_object(2, 1))
    bench.indexer.run_once(0.0)
    assert len(load(bench, study_uid(2)).instances) == 1
    assert len(load(bench, study_uid(1)).instances) < 300
