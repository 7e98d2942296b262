"""Transactions that lock the same things take them in one order: studies, then requests and
deliveries, then the audit log. Shown on PostgreSQL; SQLite has one writer at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue

import pytest
import sqlalchemy as sa

from hub.domain.assessment import Decision
from hub.domain.delivery import Receipt, RetryPolicy
from hub.domain.finding import Finding
from hub.domain.identity import PatientIdentity
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.domain.report import Person, ReportCause
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import AFTER_COMMIT, Job
from hub.store import audit, deliveries, patients, results
from hub.store.database import Database, open_database
from hub.store.delivery_ledger import SETTLED
from hub.store.journal import Journal
from hub.store.quarantine import Quarantine
from hub.store.report_versions import VersionState
from hub.store.retention import StudyKeeper
from hub.store.schema import alerts, report_versions, requests
from hub.store.schema import deliveries as deliveries_table
from tests.fakes import FrozenClock
from tests.unit.test_corrections import make_corrections_bench
from tests.unit.test_pipeline import Bench, _finding

DOCTOR = Person("Doctor^Dora")
SECONDS = 4.0
STUDIES = 3


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Iterator[Database]:
    opened = open_database(request.getfixturevalue("migrated_postgres_database"))
    yield opened
    opened.close()


@pytest.fixture
def bench(postgres: Database, tmp_path: Path) -> Iterator[Bench]:
    made = make_corrections_bench(tmp_path, postgres)
    yield made
    made.store.close()


@dataclass
class Deadlocks:
    """What PostgreSQL said of transactions that waited for each other."""

    seen: list[str] = field(default_factory=list)

    def watch(self, database: Database) -> None:
        @sa.event.listens_for(database.engine, "handle_error")
        def note(context: sa.engine.ExceptionContext) -> None:
            if "Deadlock" in type(context.original_exception).__name__:
                self.seen.append(str(context.statement))


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def is_waiting(database: Database) -> bool:
    """A transaction waits for a lock."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.read() as connection:
        return connection.execute(query).scalar_one() > 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_alert_that_two_transactions_raise_keeps_neither_from_ending(
    postgres: Database, clock: FrozenClock
) -> None:
    deadlocks, failed = Deadlocks(), []
    deadlocks.watch(postgres)
    journal = Journal(clock, "worker:1")

    def alarm() -> None:
        try:
            with postgres.write() as connection:
                journal.alarm(connection, "route.error", "route:chest", reason="broken")
        except TransientError as error:
            failed.append(error)

    with postgres.write() as connection:
        journal.alarm(connection, "route.error", "route:another", reason="broken")
        other = in_thread(alarm)  # the same rule fails on another study
        until(lambda: is_waiting(postgres))
        journal.alarm(connection, "route.error", "route:chest", reason="broken")
    other.join(10)
    assert (deadlocks.seen, failed) == ([], [])
    with postgres.read() as connection:
        assert len(connection.execute(sa.select(alerts.c.alert_id)).all()) == 2


def _wrong_patient(request: InferenceRequest) -> InferenceResult:
    result = _finding(request)
    patient = replace(result.identity.patient, patient_id="X")
    return replace(result, identity=replace(result.identity, patient=patient))


@pytest.mark.parametrize("what", ["release", "discard"])
def test_a_person_who_decides_on_a_quarantined_answer_waits_for_its_study(
    what: str, bench: Bench
) -> None:
    bench.adapter.answers = [_wrong_patient]
    uid = bench.receive()
    bench.finish()
    (request_id,) = bench.column(requests.c.request_id)
    pipeline = bench.pipeline
    deadlocks = Deadlocks()
    deadlocks.watch(pipeline.database)
    kept = Quarantine(pipeline.database, pipeline.documents, pipeline.jobs, pipeline.journal)
    decide = getattr(kept, what)
    with pipeline.database.write() as connection:
        deliveries.lock_lines(connection, uid)  # as every step that ends with documents
        person = in_thread(lambda: decide(str(request_id), DOCTOR, "the RIS confirmed it"))
        until(lambda: is_waiting(pipeline.database))
        results.get_request(connection, str(request_id))
    person.join(10)
    assert deadlocks.seen == []
    assert bench.column(requests.c.state) == ["done" if what == "release" else "discarded"]


# --- everything at once ----------------------------------------------------------------------


@dataclass
class CommittedJobs:
    """Jobs of committed transactions, each once (hub.ports.Jobs)."""

    queue: Queue[Job] = field(default_factory=Queue)
    seen: set[str] = field(default_factory=set)

    def enqueue(self, connection: sa.Connection, job: Job) -> None:
        def committed() -> None:
            if job.job_id not in self.seen:
                self.seen.add(job.job_id)
                self.queue.put(job)

        connection.info.setdefault(AFTER_COMMIT, []).append(committed)


@dataclass
class Crowd:
    """Workers and people who act on a few studies at once."""

    bench: Bench
    jobs: CommittedJobs
    faults: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, job: Job) -> None:
        pipeline = self.bench.pipeline
        work = {
            "study": pipeline.run_study,
            "request": pipeline.run_request,
            "report": pipeline.run_report,
            "delivery": pipeline.run_delivery,
        }
        work[job.kind](job.argument)

    def worker(self) -> None:
        with suppress(Empty):
            while True:
                self.run(self.jobs.queue.get(timeout=0.02))
        time.sleep(0.005)

    def each(self, column: sa.Column[str], *where: sa.ColumnElement[bool]) -> str | None:
        with self.bench.pipeline.database.read() as connection:
            found = list(connection.execute(sa.select(column).where(*where)).scalars())
        return random.choice(found) if found else None

    def decides(self) -> None:
        request_id = self.each(requests.c.request_id)
        cause = random.choice((ReportCause.ACCEPTED,) * 8 + (ReportCause.RETRACTED,))
        if request_id is not None:
            reason = f"because {random.random()}"
            decision = Decision(cause, DOCTOR, reason)
            self.bench.pipeline.corrections.ledger.decide(request_id, decision)

    def judges(self) -> None:
        pipeline = self.bench.pipeline
        kept = Quarantine(pipeline.database, pipeline.documents, pipeline.jobs, pipeline.journal)
        for one in kept.waiting()[:2]:
            act = random.choice((kept.release, kept.discard))
            act(one.identifier, DOCTOR, "looked at")

    def resends(self) -> None:
        dead = self.each(deliveries_table.c.delivery_id, deliveries_table.c.state == "dead")
        if dead is not None:
            self.bench.pipeline.deliveries.resend(dead)

    def asks_again(self) -> None:
        failed = self.each(requests.c.request_id, requests.c.state == "failed")
        if failed is not None:
            self.bench.pipeline.requests.ask_again(failed)

    def renames(self) -> None:
        pipeline, number = self.bench.pipeline, random.randrange(10**9)
        change = PatientChange(
            change_id=f"m{number}",
            kind=PatientChangeKind.UPDATED,
            patient_id="PHANTOM-1",
            issuer_of_patient_id="CAIDX",
            current=PatientIdentity("PHANTOM-1", "CAIDX", f"TEST^{number}"),
            source="his",
            received_at=self.bench.clock.now(),
        )
        with pipeline.database.write() as connection:
            patients.record_change(connection, pipeline.journal, change)
        time.sleep(0.05)

    def purges(self) -> None:
        pipeline = self.bench.pipeline
        uid = self.each(requests.c.study_instance_uid)
        keeper = StudyKeeper(pipeline.database, pipeline.documents, pipeline.journal)
        if uid is not None:
            keeper.purge_by_hand(uid, "no consent", force=True)

    def scans(self) -> None:
        """Images come again, or late: a further revision."""
        number = random.randrange(STUDIES)
        slices = random.randrange(2, 6)
        bench = self.bench
        phantom = chest_phantom(
            slices=slices, rows=64, columns=64, seed=number, study_instance_uid=f"2.25.{number + 1}"
        )
        bench.send(phantom.files)
        bench.clock.advance(3)
        bench.pipeline.complete_due_studies()

    def again_and_again(self, act: Callable[[], None]) -> None:
        try:
            while not self.stop.is_set():
                with suppress(RejectedError):
                    act()
                time.sleep(random.random() / 100)
        except BaseException as error:
            self.faults.append(error)
            raise


def _answer(request: InferenceRequest) -> InferenceResult:
    """Often what it should be; sometimes about somebody else, or nothing."""
    chance = random.random()
    if chance < 0.1:
        return _wrong_patient(request)
    if chance < 0.2:
        raise RejectedError("the model returned NaN")
    result = _finding(request)
    findings: tuple[Finding, ...] = result.findings
    if chance < 0.5:
        findings = tuple(replace(one, critical=True) for one in findings)
    return replace(result, findings=findings)


def _receive(_: object) -> Receipt:
    chance = random.random()
    if chance < 0.2:
        raise TransientError("timed out")
    if chance < 0.25:
        raise RejectedError("refused")
    if chance < 0.3:
        raise IntegrityError("whose is it?")
    return Receipt("ok")


def test_workers_and_people_at_once_never_wait_for_each_other_and_lose_nothing(
    bench: Bench,
) -> None:
    jobs, deadlocks = CommittedJobs(), Deadlocks()
    pipeline = bench.pipeline
    known = pipeline.registry.destinations
    policy = RetryPolicy(attempts=3, first_delay=0.0)
    destinations = {name: replace(one, retry=policy) for name, one in known.items()}
    bench.pipeline = replace(
        pipeline,
        jobs=jobs,
        requests=replace(pipeline.requests, jobs=jobs),
        deliveries=replace(pipeline.deliveries, jobs=jobs),
        registry=replace(pipeline.registry, destinations=destinations),
    )
    deadlocks.watch(pipeline.database)
    bench.adapter.answers = [_answer]
    for destination in bench.destinations.values():
        destination.answers = [_receive]
    crowd = Crowd(bench, jobs)
    acts = (
        *(crowd.worker,) * 4,
        *(crowd.decides, crowd.judges, crowd.resends, crowd.asks_again),
        *(crowd.renames, crowd.purges, crowd.scans),
    )
    threads = [in_thread(lambda act=act: crowd.again_and_again(act)) for act in acts]
    crowd.stop.wait(SECONDS)
    crowd.stop.set()
    for thread in threads:
        thread.join(20)
    for destination in bench.destinations.values():
        destination.answers = [Receipt("ok")]
    crowd.worker()  # what is left
    assert crowd.faults == []
    assert deadlocks.seen == []
    counts = _by_state(bench, deliveries_table.c.state)
    assert set(counts) <= {state.value for state in SETTLED}, "no line waits for nothing"
    assert counts.get("delivered", 0) > 10
    assert VersionState.ASKED.value not in _by_state(bench, report_versions.c.state)
    assert not {"running", "queued", "retrying"} & set(_by_state(bench, requests.c.state))
    assert audit.verify(pipeline.database)[1] is None


def _by_state(bench: Bench, column: sa.Column[str]) -> dict[str, int]:
    with bench.pipeline.database.read() as connection:
        query = sa.select(column, sa.func.count()).group_by(column)
        return {str(row[0]): int(row[1]) for row in connection.execute(query)}
