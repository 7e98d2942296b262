"""What sources are told of the store: storage commitment, procedure steps, expectations."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import (
    CommitmentRequest,
    EndOfTransfer,
    Expectation,
    ExpectationSource,
    NamedSeries,
    ProcedureStep,
    ReceivedObject,
    ReferencedInstance,
)
from hub.store import knowledge as knowledge_module
from hub.store import studies
from hub.store.knowledge import StoreKnowledge
from hub.store.schema import alerts, expectations, storage_commitments, study_revisions
from tests.fakes import FrozenClock
from tests.stored import StoreBench
from tests.unit.test_pipeline import as_received

CT = "1.2.840.10008.5.1.4.1.1.2"
STEP = "1.2.9.1"


@pytest.fixture
def knowledge(bench: StoreBench, clock: FrozenClock) -> StoreKnowledge:
    return StoreKnowledge(bench.database, bench.objects, clock)


@pytest.fixture
def objects() -> list[ReceivedObject]:
    return list(map(as_received, chest_phantom(slices=3, rows=64, columns=64).files))


@pytest.fixture
def study() -> str:
    return chest_phantom(slices=3, rows=64, columns=64).study_instance_uid


def named(objects: Sequence[ReceivedObject], sop_class: str = CT) -> list[ReferencedInstance]:
    return [ReferencedInstance(sop_class, one.sop_instance_uid) for one in objects]


# --- storage commitment ----------------------------------------------------------------------


def test_only_what_is_stored_is_confirmed(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject]
) -> None:
    bench.store(objects[:2])
    missing = knowledge.not_stored(named(objects), 0.0)
    assert missing == {named(objects)[2]: 0x0112}
    other = named(objects[:1], "1.2.840.10008.5.1.4.1.1.4")
    assert knowledge.not_stored(other, 0.0) == {other[0]: 0x0119}


def test_what_is_on_the_disk_but_not_indexed_yet_is_waited_for(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject]
) -> None:
    reception = bench.open()
    reception.store(objects[0])
    assert knowledge.not_stored(named(objects[:1]), 0.0) != {}
    later = threading.Timer(0.2, bench.index)
    later.start()
    assert knowledge.not_stored(named(objects[:1]), 10.0) == {}
    later.join()
    reception.close(EndOfTransfer.RELEASED)


def test_an_index_without_the_bytes_confirms_nothing(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject]
) -> None:
    """The promise is about the disk: a row alone is no image."""
    bench.store(objects)
    (segment,) = bench.objects.segments()
    (path,) = bench.root.rglob(segment)
    with path.open("r+b") as file:
        content = file.read()
        at = content.index(objects[1].data_set[:200]) + 300
        file.seek(at)
        file.write(bytes(64))
    assert knowledge.not_stored(named(objects), 0.0) == {named(objects)[1]: 0x0112}
    path.unlink()
    assert set(knowledge.not_stored(named(objects), 0.0).values()) == {0x0112}
    assert len(knowledge.not_stored(named(objects), 0.0)) == 3


def test_what_the_disk_does_not_give_is_not_confirmed(
    bench: StoreBench,
    knowledge: StoreKnowledge,
    objects: list[ReceivedObject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To touch a map of it would end the receiver (SIGBUS), and again when it starts again."""
    bench.store(objects[:1])

    def broken(log: memoryview, start: int, end: int) -> bool:
        return False

    monkeypatch.setattr(knowledge_module, "is_readable", broken)
    assert knowledge.not_stored(named(objects[:1]), 0.0) == {named(objects)[0]: 0x0112}


def question(attempts: int = 0) -> CommitmentRequest:
    references = (ReferencedInstance(CT, "1.2.3"), ReferencedInstance(CT, "1.2.4"))
    return CommitmentRequest("1.2.8", "MODALITY", "dicom", references, attempts)


def test_an_unanswered_question_outlives_its_process(
    knowledge: StoreKnowledge, clock: FrozenClock
) -> None:
    knowledge.keep_commitment(question())
    assert knowledge.due_commitments("dicom") == []  # whoever took it answers it first
    clock.advance(61)
    assert knowledge.due_commitments("other") == []
    assert knowledge.due_commitments("dicom") == [question()]
    knowledge.commitment_not_reported(question(), "away", 30.0)
    assert knowledge.due_commitments("dicom") == []
    clock.advance(31)
    assert knowledge.due_commitments("dicom") == [question(attempts=1)]
    knowledge.commitment_reported(question(attempts=1), 0)
    clock.advance(3600)
    assert knowledge.due_commitments("dicom") == []


def test_an_answer_that_is_given_up_is_an_alert(
    bench: StoreBench, knowledge: StoreKnowledge, clock: FrozenClock
) -> None:
    knowledge.keep_commitment(question())
    knowledge.commitment_not_reported(question(), "away", None)
    clock.advance(3600)
    assert knowledge.due_commitments("dicom") == []
    with bench.database.read() as connection:
        assert connection.execute(sa.select(alerts.c.kind)).scalars().all() == [
            "commitment.unreachable"
        ]
        state = connection.execute(sa.select(storage_commitments.c.state)).scalar_one()
    assert state == "unreachable"


def test_the_same_question_again_is_answered_again(
    knowledge: StoreKnowledge, clock: FrozenClock
) -> None:
    knowledge.keep_commitment(question())
    knowledge.commitment_reported(question(), 0)
    knowledge.keep_commitment(question())
    clock.advance(61)
    assert knowledge.due_commitments("dicom") == [question()]


# --- what a study will consist of ------------------------------------------------------------


def revision(bench: StoreBench) -> sa.Row[tuple[object, ...]]:
    with bench.database.read() as connection:
        return connection.execute(sa.select(study_revisions)).one()


def step(study: str, status: str, *uids: str, name: str = STEP) -> ProcedureStep:
    made = (NamedSeries(f"{name}.1", uids),) if uids else ()
    return ProcedureStep(name, study, status, made)


def test_a_study_is_complete_when_the_procedure_steps_images_are_there(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject], study: str
) -> None:
    uids = [one.sop_instance_uid for one in objects]
    knowledge.keep_procedure_step(step(study, "IN PROGRESS"))
    bench.store(objects[:2], EndOfTransfer.ABORTED)
    knowledge.keep_procedure_step(step(study, "COMPLETED", *uids))
    row = revision(bench)
    assert (row.evidence, row.expected_instances) == ("quiet-time", 3)
    bench.store(objects[2:], EndOfTransfer.ABORTED)
    row = revision(bench)
    assert (row.evidence, row.due_at <= bench.clock.now()) == ("expected-count", True)
    assert knowledge.procedure_step(STEP) == step(study, "COMPLETED", *uids)


def test_while_a_procedure_step_is_in_progress_nothing_is_expected(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject], study: str
) -> None:
    uids = [one.sop_instance_uid for one in objects]
    bench.store(objects[:1], EndOfTransfer.ABORTED)
    knowledge.keep_procedure_step(step(study, "IN PROGRESS", name="1.2.9.2"))
    knowledge.keep_procedure_step(step(study, "IN PROGRESS"))
    knowledge.keep_procedure_step(step(study, "COMPLETED", uids[0]))
    assert revision(bench).expected_instances is None
    knowledge.keep_procedure_step(step(study, "DISCONTINUED", *uids[1:], name="1.2.9.2"))
    row = revision(bench)
    assert (row.expected_instances, row.evidence) == (3, "quiet-time")


def test_named_instances_may_be_known_before_the_first_image(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject], study: str
) -> None:
    uids = tuple(one.sop_instance_uid for one in objects)
    source = ExpectationSource.AVAILABILITY_NOTIFICATION
    knowledge.expect(Expectation(study, source, sop_instance_uids=uids))
    bench.store(objects, EndOfTransfer.ABORTED)
    with bench.database.read() as connection:
        (key,) = studies.due(connection, bench.clock.now(), 10)
        said = connection.execute(sa.select(expectations.c.source)).scalars().all()
    assert key.study_instance_uid == study
    assert said == ["availability-notification"]


def test_others_than_the_named_instances_do_not_complete_a_study(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject], study: str
) -> None:
    source = ExpectationSource.AVAILABILITY_NOTIFICATION
    uids = (objects[0].sop_instance_uid, "1.2.3.4.5")
    knowledge.expect(Expectation(study, source, sop_instance_uids=uids))
    bench.store(objects, EndOfTransfer.ABORTED)  # 3 arrive where 2 are named
    assert revision(bench).evidence == "quiet-time"


def test_more_than_expected_completes_a_study(
    bench: StoreBench, knowledge: StoreKnowledge, objects: list[ReceivedObject], study: str
) -> None:
    source = ExpectationSource.ARCHIVE
    bench.store(objects, EndOfTransfer.ABORTED)
    knowledge.expect(Expectation(study, source, number_of_instances=2))
    assert revision(bench).evidence == "expected-count"
