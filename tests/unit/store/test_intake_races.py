"""What happens to received images when two things happen at once, or one of them fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.study import Location, StudyKey
from hub.errors import RejectedError, TransientError
from hub.formats.part10 import part10
from hub.ports import EndOfTransfer, ReceivedObject, StoredAs
from hub.store import audit, instances, studies
from hub.store import intake as intake_module
from hub.store.database import Database
from hub.store.intake import StudyIntake, adopt_open_associations
from hub.store.schema import alerts, associations
from hub.store.schema import instances as instances_table
from tests.fakes import FrozenClock
from tests.unit.store.test_intake import SENDER, _due, _objects, _study_uid


@contextmanager
def _meanwhile(work: Callable[[], object]) -> Iterator[list[object]]:
    """Run something on another thread; its answer is there afterwards."""
    answers: list[object] = []

    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    time.sleep(0.3)  # it has come as far as the other transaction lets it
    yield answers
    thread.join(20)


def _with_other_bytes(received: ReceivedObject) -> ReceivedObject:
    return ReceivedObject(
        received.sop_class_uid,
        received.sop_instance_uid,
        received.transfer_syntax_uid,
        received.data_set[:-2] + b"\1\1",
    )


def _with_patient_id(received: ReceivedObject, patient_id: bytes) -> ReceivedObject:
    return _with(received, b"\x10\x00\x20\x00LO", patient_id)


def _with(received: ReceivedObject, element: bytes, value: bytes) -> ReceivedObject:
    start = received.data_set.index(element)
    length = int.from_bytes(received.data_set[start + 6 : start + 8], "little")
    value += b" " * (len(value) % 2)
    return ReceivedObject(
        received.sop_class_uid,
        received.sop_instance_uid,
        received.transfer_syntax_uid,
        received.data_set[: start + 6]
        + len(value).to_bytes(2, "little")
        + value
        + received.data_set[start + 8 + length :],
    )


@pytest.mark.parametrize("same_bytes", [True, False])
def test_the_same_instance_from_two_transfers_at_once_is_current_once(
    intake: StudyIntake,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    same_bytes: bool,
) -> None:
    (one,) = _objects(1)
    other = one if same_bytes else _with_other_bytes(one)
    first, second = intake.open(SENDER), intake.open(SENDER)
    add, both = instances.add, threading.Barrier(2, timeout=1)

    def add_after_both_have_looked(*args: Any, **values: Any) -> bool:
        with suppress(threading.BrokenBarrierError):  # one of them waits for a lock of the other
            both.wait()
        return add(*args, **values)

    monkeypatch.setattr(instances, "add", add_after_both_have_looked)
    with _meanwhile(lambda: first.store(one)) as answers:
        answers.append(second.store(other))
    expected = StoredAs.DUPLICATE if same_bytes else StoredAs.CONFLICT
    assert sorted(map(str, answers)) == sorted([StoredAs.NEW, expected])
    with database.read() as connection:
        query = sa.select(instances_table.c.state)
        states = sorted(connection.execute(query).scalars())
    assert states == (["current"] if same_bytes else ["conflict", "current"])


def test_an_image_that_arrives_while_its_study_is_closed_opens_a_new_revision(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    one, two = _objects(2)
    reception = intake.open(SENDER)
    reception.store(one)
    clock.advance(31)
    (key,) = _due(database, clock)
    waiting = ExitStack()
    with database.write() as connection:
        assert studies.complete(connection, key, clock.now())
        late = waiting.enter_context(_meanwhile(lambda: reception.store(two)))
    waiting.close()
    assert late == [StoredAs.NEW]
    clock.advance(31)
    assert _due(database, clock) == [StudyKey(key.study_instance_uid, 2)]


def test_a_revision_holds_the_images_that_it_was_complete_with(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    one, two = _objects(2)
    reception = intake.open(SENDER)
    reception.store(one)
    clock.advance(31)
    (key,) = _due(database, clock)
    with database.write() as connection:
        studies.complete(connection, key, clock.now())
    reception.store(two)
    with database.read() as connection:
        first = instances.load_study(connection, key)
        second = instances.load_study(connection, StudyKey(key.study_instance_uid, 2))
    assert (len(first.instances), len(second.instances)) == (1, 2)


def test_a_transfer_whose_first_image_failed_still_ends_on_record(
    intake: StudyIntake,
    database: Database,
    clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise TransientError("database: away")

    one, two = _objects(2)
    reception = intake.open(SENDER)
    with monkeypatch.context() as patched:
        patched.setattr(studies, "join_association", away)
        with pytest.raises(TransientError):
            reception.store(one)
    assert reception.store(two) is StoredAs.NEW
    assert reception.store(one) is StoredAs.NEW
    reception.close(EndOfTransfer.RELEASED)
    assert [e.action for e in audit.events(database)] == ["study.received"]
    clock.advance(2)
    assert len(_due(database, clock)) == 1


def test_an_end_that_could_not_be_recorded_is_recorded_later(
    intake: StudyIntake,
    database: Database,
    clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise TransientError("database: away")

    reception = intake.open(SENDER)
    reception.store(_objects(1)[0])
    with monkeypatch.context() as patched:
        patched.setattr(studies, "close_association", away)
        with pytest.raises(TransientError):
            reception.close(EndOfTransfer.RELEASED)
        with pytest.raises(TransientError):
            intake.record_ends()
    intake.record_ends()
    intake.record_ends()
    assert [e.action for e in audit.events(database)] == ["study.received"]
    clock.advance(2)
    assert len(_due(database, clock)) == 1


def test_two_transfers_of_a_study_that_end_together_shorten_the_wait(
    intake: StudyIntake, database: Database, clock: FrozenClock
) -> None:
    receptions = [intake.open(SENDER), intake.open(SENDER)]
    for reception, received in zip(receptions, _objects(2), strict=True):
        reception.store(received)
    uid = _study_uid(database)
    waiting = ExitStack()
    with database.write() as connection:
        (first,) = connection.execute(sa.select(associations.c.association_id).limit(1)).scalars()
        studies.close_association(connection, first, EndOfTransfer.RELEASED, clock.now())
        due_at = clock.now() + timedelta(seconds=2)
        studies.bring_forward_after_release(connection, uid, due_at=due_at)
        ours = receptions[0]._association_id == first
        other = receptions[1] if ours else receptions[0]
        waiting.enter_context(_meanwhile(lambda: other.close(EndOfTransfer.RELEASED)))
    waiting.close()
    clock.advance(2)
    assert len(_due(database, clock)) == 1


def test_a_damaged_segment_does_not_keep_the_other_transfers_open(
    intake: StudyIntake, database: Database
) -> None:
    damaged, other = intake.open(SENDER), intake.open(SENDER)
    one, two = _objects(2)
    damaged.store(one)
    damaged.store(two)
    (writer,) = damaged._segments.values()
    path = next(intake.objects.root.rglob(writer.segment))
    content = bytearray(path.read_bytes())
    content[1000] ^= 0xFF
    path.write_bytes(content)
    other.store(_objects(1, seed=5)[0])
    assert adopt_open_associations(intake, "receiver-1") == 2
    assert adopt_open_associations(intake, "receiver-1") == 0
    with database.read() as connection:
        kinds = list(connection.execute(sa.select(alerts.c.kind)).scalars())
    assert kinds == ["segment.damaged"]


def test_many_studies_in_one_transfer_keep_few_files_open(
    intake: StudyIntake, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "OPEN_SEGMENTS", 2)
    reception = intake.open(SENDER)
    sent = [_objects(2, seed=seed) for seed in range(1, 6)]
    for at in (0, 1):
        for objects in sent:
            assert reception.store(objects[at]) is StoredAs.NEW
            assert _open_segments(intake.objects.root) <= 2
    reception.close(EndOfTransfer.RELEASED)
    assert _open_segments(intake.objects.root) == 0
    with database.read() as connection:
        rows = connection.execute(sa.select(instances_table)).all()
    assert len({row.segment for row in rows}) == 5
    stored = {intake.objects.read(Location(r.segment, r.offset, r.length)) for r in rows}
    assert stored == {part10(received) for objects in sent for received in objects}


def _open_segments(root: Path) -> int:
    return sum(_target(handle).startswith(str(root)) for handle in Path("/proc/self/fd").iterdir())


def _target(handle: Path) -> str:
    try:
        return str(handle.readlink())
    except FileNotFoundError:  # the handle that listed the folder
        return ""


@pytest.mark.parametrize("patient_id", [b"A\0B", b"1" * 66])
def test_a_patient_id_that_no_database_can_hold_is_refused(
    intake: StudyIntake, patient_id: bytes
) -> None:
    with pytest.raises(RejectedError, match="PatientID"):
        intake.open(SENDER).store(_with_patient_id(_objects(1)[0], patient_id))


@pytest.mark.parametrize(("name", "problems"), [(b"DOE^JIM", 1), (b"", 0)])
def test_patients_without_an_id_are_told_apart_by_name(
    intake: StudyIntake, database: Database, name: bytes, problems: int
) -> None:
    one, two = (_with_patient_id(received, b"") for received in _objects(2))
    reception = intake.open(SENDER)
    reception.store(one)
    reception.store(_with(two, b"\x10\x00\x10\x00PN", name))
    with database.read() as connection:
        study = instances.load_study(connection, StudyKey(_study_uid(database), 1))
    assert len(study.problems) == problems
