"""The order, the pace and the confirmation of deliveries, on both databases."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import sqlalchemy as sa

from hub.domain.delivery import Document, DocumentKind, Receipt, RetryPolicy
from hub.domain.identity import PatientIdentity, StudyIdentity
from hub.domain.inference import ModelKey, Priority
from hub.domain.study import StudyKey
from hub.errors import TransientError
from hub.ports import Job
from hub.store import results, schema
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.delivery_ledger import IN_TURN, DeliveryLedger
from hub.store.journal import Journal
from hub.store.results import FiledDocument, RequestRow, RequestState
from tests.fakes import FrozenClock, RecordingJobs

STUDY = "1.2.3"
IDENTITY = StudyIdentity(STUDY, PatientIdentity("4711"))
POLICY = RetryPolicy(first_delay=10, confirm_within=60)
TAKEN = Receipt("C-STORE 0x0000", awaiting="2.25.9")


@dataclass
class Bench:
    ledger: DeliveryLedger
    jobs: RecordingJobs
    clock: FrozenClock
    row: RequestRow
    seen: set[str] = field(default_factory=set)

    def send(
        self, *uids: str, destination: str = "pacs", kind: DocumentKind = DocumentKind.SR
    ) -> None:
        """One more answer of the study."""
        documents = [Document(uid, kind, self.row.request_id, IDENTITY, b"") for uid in uids]
        with self.ledger.database.write() as connection:
            self.ledger.lock(connection, STUDY)
            results.add_documents(connection, (FiledDocument(d, "", 1, "") for d in documents))
            self.ledger.start(
                connection,
                self.row,
                documents,
                destination=destination,
                queue="delivery-4",
                priority=Priority.ROUTINE,
            )

    def take(self) -> list[Job]:
        """The jobs since, the delayed ones too: one for each identifier, as the engine has it."""
        new = {job.job_id: job for job in self.jobs.enqueued if job.job_id not in self.seen}
        self.jobs.enqueued.clear()
        self.seen.update(new)
        return list(new.values())

    def task(self) -> DeliveryTask:
        """The delivery that the only new job is about."""
        (job,) = self.take()
        task = self.ledger.task(job.argument.partition(" ")[0])
        assert task is not None
        return task

    def states(self) -> dict[str, str]:
        table = schema.deliveries
        with self.ledger.database.read() as connection:
            rows = connection.execute(sa.select(table.c.document_id, table.c.state))
            return {row.document_id: row.state for row in rows}


@pytest.fixture
def bench(database: Database, clock: FrozenClock) -> Bench:
    jobs = RecordingJobs()
    row = RequestRow(
        request_id="ab" * 16,
        study=StudyKey(STUDY, 1),
        route="chest",
        shadow=False,
        model=ModelKey("m", "1", "cd" * 32),
        queue="inference-1",
        priority=Priority.ROUTINE,
        series_instance_uids=("1.2.3.1",),
        deliver_to=("pacs",),
        reasons=(),
        state=RequestState.DONE,
        attempts=1,
        detail="",
        created_at=clock.now(),
    )
    with database.write() as connection:
        connection.execute(
            sa.insert(schema.studies).values(
                study_instance_uid=STUDY,
                patient_id="4711",
                issuer_of_patient_id="",
                first_received_at=clock.now(),
                problems=[],
            )
        )
        results.add_request(connection, row)
    return Bench(DeliveryLedger(database, jobs, Journal(clock, "worker:1")), jobs, clock, row)


def test_what_goes_to_one_destination_of_a_study_goes_in_order(bench: Bench) -> None:
    bench.send("1.1", "1.2")
    bench.clock.advance(1)
    bench.send("2.1")
    order = []
    for _ in range(3):
        task = bench.task()  # one job at a time
        order.append(task.delivery.document_id)
        bench.ledger.taken(task, Receipt("ok"))
    assert order == ["1.1", "1.2", "2.1"]
    assert bench.take() == []


def test_one_that_fails_keeps_those_behind_it_and_no_other_destination(bench: Bench) -> None:
    bench.send("1.1", "1.2")
    first = bench.task()
    bench.ledger.retry(first, TransientError("down"), POLICY)
    (again,) = bench.take()
    assert again.delay_seconds == 10
    bench.send("1.3", destination="other")
    assert bench.task().delivery.document_id == "1.3"
    assert bench.states()["1.2"] == "pending"


def test_a_dead_letter_keeps_nobody_waiting_and_can_be_sent_again(bench: Bench) -> None:
    bench.send("1.1", "1.2")
    dead = bench.task()
    bench.ledger.give_up(dead, "refused")
    second = bench.task()
    assert second.delivery.document_id == "1.2"
    assert bench.ledger.resend(dead.delivery.delivery_id)
    assert bench.task().delivery.document_id == "1.1"
    bench.ledger.taken(second, Receipt("ok"))
    assert bench.take() == [], "it has its job already"


def test_documents_are_confirmed_later_without_keeping_others(bench: Bench) -> None:
    bench.send("1.1", "1.2")
    first = bench.task()
    bench.ledger.taken(first, TAKEN)
    question, following = bench.take()
    assert question.argument == first.delivery.delivery_id
    assert question.delay_seconds == 0.5
    assert following.argument != question.argument
    waiting = bench.ledger.task(question.argument)
    assert waiting is not None
    assert (waiting.awaiting, waiting.delivery.state) == ("2.25.9", "confirming")
    bench.clock.advance(20)
    bench.ledger.ask_later(waiting, "no answer", POLICY)
    (later,) = bench.take()
    assert later.delay_seconds == 10
    assert later.job_id != question.job_id
    bench.ledger.taken(waiting, Receipt("committed"))
    assert bench.states()["1.1"] == "delivered"
    assert bench.ledger.task(question.argument) is None


def test_what_is_not_confirmed_in_time_is_sent_again(bench: Bench) -> None:
    bench.send("1.1")
    bench.ledger.taken(bench.task(), TAKEN)
    waiting = bench.task()
    bench.clock.advance(61)
    bench.ledger.ask_later(waiting, "no answer", POLICY)
    again = bench.task()
    assert (again.awaiting, again.delivery.state) == ("", "retrying")
    assert "not confirmed within 60 s" in again.delivery.detail
    bench.ledger.taken(again, TAKEN)
    assert bench.task().awaiting == "2.25.9", "another question, by another job"


def test_a_destination_with_a_rate_gets_one_document_at_a_time(bench: Bench) -> None:
    for uid in ("1.1", "1.2", "1.3"):
        bench.send(uid)
    task = bench.task()
    assert not bench.ledger.wait_for_turn(task, 60.0), "the first goes at once"
    assert bench.ledger.wait_for_turn(task, 60.0)
    assert bench.ledger.wait_for_turn(task, 60.0)
    first, second = bench.jobs.enqueued
    assert [first.delay_seconds, second.delay_seconds] == [1.0, 2.0]
    assert first.argument == f"{task.delivery.delivery_id} {IN_TURN}"
    bench.clock.advance(5)
    assert not bench.ledger.wait_for_turn(task, 60.0)
    assert not bench.ledger.wait_for_turn(task, None)


def test_turns_of_several_workers_never_coincide(bench: Bench) -> None:
    bench.send("1.1")
    task = bench.task()
    threads = [
        threading.Thread(target=bench.ledger.wait_for_turn, args=(task, 60.0)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    delays = sorted(job.delay_seconds for job in bench.jobs.enqueued)
    assert delays == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_a_report_that_waits_is_dropped_as_soon_as_a_newer_one_stands_behind_it(
    bench: Bench,
) -> None:
    bench.send("a", kind=DocumentKind.FHIR, destination="ehr")
    bench.ledger.retry(bench.task(), TransientError("busy"), POLICY)
    bench.take()
    later = RequestRow(
        **{
            **{name: getattr(bench.row, name) for name in RequestRow.__slots__},
            "request_id": "cd" * 16,
            "study": StudyKey(STUDY, 2),
            "created_at": bench.row.created_at + timedelta(seconds=5),
        }
    )
    with bench.ledger.database.write() as connection:
        results.add_request(connection, later)
    bench.row = later
    bench.clock.advance(1)
    bench.send("b", kind=DocumentKind.FHIR, destination="ehr")
    waiting = bench.task()
    assert waiting.delivery.document_id == "a"
    assert bench.ledger.supersede(waiting)
    assert bench.task().delivery.document_id == "b"
    assert bench.states() == {"a": "superseded", "b": "pending"}
    bench.ledger.taken(waiting, Receipt("it was on its way all the same"))
    assert bench.states()["a"] == "superseded"
