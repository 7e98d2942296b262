"""Answers that come later: waiting, being called back, and ending, in every order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hub.domain.delivery import RetryPolicy
from hub.domain.inference import Deferred, ModelKey, Priority
from hub.domain.registration import RegistrationState
from hub.domain.study import StudyKey
from hub.errors import JobLostError, TransientError
from hub.ports import Job
from hub.store import audit, deferred, results
from hub.store.abandoning import ABANDON_JOB, AbandonLedger
from hub.store.callbacks import MOST_REFUSALS, CallbackLedger, Taken
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.registrations import RegistrationLedger
from hub.store.request_ledger import MOST_LOST_ATTEMPTS, RequestLedger
from hub.store.results import RequestRow, RequestState
from tests.fakes import FrozenClock, RecordingJobs

ID, OTHER = "0" * 32, "1" * 32
QUARTER = timedelta(minutes=15)
BODY = b'{"answer": 42}'


class Desk:
    """Both ledgers over one database."""

    def __init__(self, database: Database, clock: FrozenClock) -> None:
        self.database, self.clock, self.jobs = database, clock, RecordingJobs()
        journal = Journal(clock, "worker:1")
        retry = RetryPolicy(first_delay=1.0, max_delay=60.0, attempts=3)
        self.requests = RequestLedger(database, self.jobs, journal, retry)
        self.callbacks = CallbackLedger(database, self.jobs, journal)
        for request_id in (ID, OTHER):
            with database.write() as connection:
                self.requests.create(connection, _request(request_id, clock.now()))
        self.jobs.enqueued.clear()

    def begin(self, question: str = "", request_id: str = ID) -> RequestRow | None:
        return self.requests.begin(request_id, question, lambda _: QUARTER)

    def begun(self, question: str = "", request_id: str = ID) -> RequestRow:
        row = self.begin(question, request_id)
        assert row is not None
        return row

    def job(self, name: str = "job-1", seconds: float = 5.0) -> Deferred:
        return Deferred(ID, name, self.clock.now() + timedelta(seconds=seconds))

    def row(self, request_id: str = ID) -> RequestRow:
        with self.database.read() as connection:
            return results.get_request(connection, request_id)

    def held(self, request_id: str = ID) -> deferred.DeferredAnswer | None:
        with self.database.read() as connection:
            return deferred.get(connection, request_id)

    def only_job(self) -> Job:
        (job,) = self.jobs.enqueued
        self.jobs.enqueued.clear()
        return job

    def actions(self) -> list[str]:
        return [event.action for event in audit.events(self.database)]


def _request(request_id: str, now: datetime) -> RequestRow:
    return RequestRow(
        request_id=request_id,
        study=StudyKey("2.25.1", 1),
        route="chest",
        shadow=False,
        model=ModelKey("lung", "1.0", "ab" * 32),
        queue="inference-4",
        priority=Priority.URGENT,
        series_instance_uids=("2.25.1.1",),
        deliver_to=(),
        reasons=("because",),
        state=RequestState.QUEUED,
        attempts=0,
        detail="",
        created_at=now,
    )


@pytest.fixture
def desk(database: Database, clock: FrozenClock) -> Desk:
    return Desk(database, clock)


# --- waiting ------------------------------------------------------------------------------------


def test_a_request_waits_with_its_next_job_and_audit_row(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    assert desk.row().state is RequestState.WAITING
    job = desk.only_job()
    assert (job.argument, job.delay_seconds) == (f"{ID} 1", 5.0)
    assert (job.queue, job.partition, job.priority) == ("inference-4", "lung", 5)
    (event,) = [e for e in audit.events(desk.database) if e.action == "inference.deferred"]
    assert event.detail["job_reference"] == "job-1"
    assert event.detail["deadline"] == (desk.clock.now() + QUARTER).isoformat()


def test_going_on_is_no_new_attempt_and_the_deadline_stays(desk: Desk) -> None:
    first = desk.begun()
    assert first.deadline_at == desk.clock.now() + QUARTER
    for question in range(1, 31):
        desk.requests.wait(desk.begun(str(question - 1)) if question > 1 else first, desk.job())
        assert desk.only_job().job_id == f"request:{ID}:1:{question}"
        desk.clock.advance(5)
    last = desk.begun("30")
    assert (last.attempts, last.deadline_at) == (1, first.deadline_at)
    assert last.deferred is not None
    assert last.deferred.job.job_reference == "job-1"
    assert desk.actions().count("inference.started") == 1
    assert desk.actions().count("inference.deferred") == 1


def test_nobody_waits_beyond_the_deadline(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job(seconds=3600))
    assert desk.only_job().delay_seconds == QUARTER.total_seconds()


def test_an_order_that_ends_earlier_counts(desk: Desk) -> None:
    ends = desk.clock.now() + timedelta(minutes=3)
    with desk.database.write() as connection:
        results.set_state(connection, ID, RequestState.QUEUED, deadline_at=ends)
    assert desk.begun().deadline_at == ends


def test_a_job_that_runs_once_more_begins_no_second_line(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    assert desk.begin() is None  # that of the submission, after its worker died
    desk.requests.wait(desk.begun("1"), desk.job())
    assert desk.begin("1") is None
    assert desk.row().state is RequestState.WAITING
    assert desk.begin("2") is not None


def test_one_that_died_in_the_middle_is_gone_on_with(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    dead = desk.begun("1")
    again = desk.begun("1")
    assert again.deferred is not None
    assert again.deferred.job.job_reference == "job-1"
    desk.requests.wait(dead, desk.job("other"))  # it was not dead after all
    held = desk.held()
    assert held is not None
    assert held.job.job_reference == "job-1"
    desk.requests.wait(again, desk.job())
    assert desk.row().state is RequestState.WAITING


def test_one_that_kills_whoever_goes_on_with_it_ends(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    for _ in range(MOST_LOST_ATTEMPTS):
        desk.begin("1")
    assert desk.begin("1") is None
    assert (desk.row().state, desk.held()) == (RequestState.FAILED, None)


def test_a_vendor_that_cannot_be_asked_now_is_asked_later_and_for_long(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    for question in range(1, 20):
        desk.jobs.enqueued.clear()
        row = desk.begun(str(question))
        desk.requests.retry(row, TransientError("HTTP 503", retry_after=7.0))
        assert desk.only_job().delay_seconds == 7.0
    assert desk.row().state is RequestState.WAITING
    assert desk.row().detail == "HTTP 503"
    assert desk.actions().count("inference.unanswered") == 1  # and not nineteen times


def test_until_its_deadline(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    desk.clock.advance(QUARTER.total_seconds())
    desk.requests.retry(desk.begun("1"), TransientError("HTTP 503"))
    assert desk.row().state is RequestState.FAILED
    assert desk.row().detail == "no answer came by the deadline; HTTP 503"


def test_a_job_that_was_lost_is_begun_anew_but_not_for_ever(desk: Desk) -> None:
    for attempt in (1, 2):
        desk.requests.wait(desk.begun(), desk.job())
        desk.jobs.enqueued.clear()
        desk.requests.retry(desk.begun("1"), JobLostError("unknown job"))
        assert (desk.row().state, desk.held()) == (RequestState.RETRYING, None)
        assert desk.only_job().argument == ID
        assert desk.row().attempts == attempt
    desk.requests.wait(desk.begun(), desk.job())
    desk.requests.retry(desk.begun("1"), JobLostError("unknown job"))
    assert desk.row().state is RequestState.FAILED


def test_asked_again_by_a_person_it_has_its_time_once_more(desk: Desk) -> None:
    desk.requests.end(desk.begun(), RequestState.FAILED, "no answer came by the deadline")
    desk.clock.advance(3600)
    assert desk.requests.ask_again(ID)
    assert desk.begun().deadline_at == desk.clock.now() + QUARTER


def test_nothing_is_left_of_a_request_that_has_ended(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    desk.requests.end(desk.begun("1"), RequestState.FAILED, "it broke")
    assert desk.held() is None


def test_a_fault_of_the_hub_loses_no_job(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    desk.begun("1")
    desk.requests.fail(ID, "a fault")
    assert desk.row().state is RequestState.WAITING
    held = desk.held()
    assert held is not None
    assert held.job.job_reference == "job-1"


# --- callbacks ----------------------------------------------------------------------------------


def waiting(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())


def submitted(desk: Desk) -> None:
    """The vendor was asked, and its word that the answer comes later is still on its way."""
    desk.begun()


def between_attempts(desk: Desk) -> None:
    desk.requests.retry(desk.begun(), TransientError("the reply was lost"))


def asking(desk: Desk) -> None:
    desk.requests.wait(desk.begun(), desk.job())
    desk.begun("1")


@pytest.mark.parametrize("before", [waiting, submitted, between_attempts, asking])
def test_an_answer_is_kept_and_the_request_goes_on(
    desk: Desk, before: Callable[[Desk], None]
) -> None:
    before(desk)
    desk.jobs.enqueued.clear()
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.NEW
    job = desk.only_job()
    assert (job.argument, job.delay_seconds) == (ID, 0.0)
    row = desk.begun()
    assert row.deferred is not None
    assert row.deferred.answer == BODY
    assert "callback.taken" in desk.actions()


def test_an_answer_that_was_faster_than_the_word_for_it_is_not_lost(desk: Desk) -> None:
    row = desk.begun()
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.NEW
    desk.requests.wait(row, desk.job())
    held = desk.held()
    assert held is not None
    assert (held.answer, held.job.job_reference) == (BODY, "job-1")
    assert desk.jobs.enqueued[-1].delay_seconds == 0.0


def test_an_answer_that_is_worked_on_before_the_word_for_it_came_is_one_question(
    desk: Desk,
) -> None:
    asking = desk.begun()
    desk.callbacks.take(ID, "v m-1", BODY)
    row = desk.begun()
    assert row.deferred is not None
    assert row.deferred.answer == BODY
    desk.jobs.enqueued.clear()
    desk.requests.wait(asking, desk.job())  # the vendor's word, overtaken
    assert desk.actions().count("inference.started") == 1
    assert desk.actions().count("inference.deferred") == 1
    held = desk.held()
    assert held is not None
    assert held.answer == BODY
    assert (desk.row().state, desk.jobs.enqueued) == (RequestState.RUNNING, [])


def test_the_same_message_again_changes_nothing(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    desk.jobs.enqueued.clear()
    count = len(desk.actions())
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.AGAIN
    assert desk.callbacks.take(ID, "v m-2", BODY) is Taken.AGAIN  # signed anew by another name
    assert (desk.jobs.enqueued, len(desk.actions())) == ([], count)
    desk.requests.end(desk.begun(), RequestState.FAILED, "it broke")
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.AGAIN


@pytest.mark.parametrize(
    ("request_id", "message", "body", "taken"),
    [
        (ID, "v m-1", b"{}", Taken.REPLAYED),
        (OTHER, "v m-1", BODY, Taken.REPLAYED),
        (ID, "v m-2", b"{}", Taken.SECOND),
        (OTHER, "v m-2", BODY, Taken.NOT_ASKED),
    ],
)
def test_what_is_not_taken_changes_nothing(
    desk: Desk, request_id: str, message: str, body: bytes, taken: Taken
) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    desk.jobs.enqueued.clear()
    assert desk.callbacks.take(request_id, message, body) is taken
    held = desk.held()
    assert held is not None
    assert (held.answer, desk.held(OTHER), desk.jobs.enqueued) == (BODY, None, [])
    last = list(audit.events(desk.database))[-1]
    assert (last.action, last.detail["reason"]) == ("callback.refused", taken.value)


@pytest.mark.parametrize("ended", [True, False], ids=["it-has-ended", "its-deadline-has-passed"])
def test_what_comes_too_late_is_refused_and_recorded(desk: Desk, *, ended: bool) -> None:
    waiting(desk)
    if ended:
        desk.requests.end(desk.begun("1"), RequestState.FAILED, "it broke")
    else:
        desk.clock.advance(QUARTER.total_seconds())
    desk.jobs.enqueued.clear()
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.LATE
    assert desk.jobs.enqueued == []
    assert desk.actions()[-1] == "callback.refused"


def refusals(desk: Desk) -> list[tuple[object, object]]:
    """Of `ID`, as the audit log has them: the reason, and whether it is the last that is told."""
    found = [e for e in audit.events(desk.database) if e.action == "callback.refused"]
    return [(e.detail["reason"], e.detail["is_last"]) for e in found if ID in e.entity]


def test_the_same_refused_message_again_is_one_audit_row(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    for number in range(5):
        assert desk.callbacks.take(ID, f"v m-2{number}", b"{}") is Taken.SECOND
        assert desk.callbacks.take(ID, "v m-1", b"{}") is Taken.REPLAYED
    assert refusals(desk) == [("second", False), ("replayed", False)]
    desk.requests.end(desk.begun(), RequestState.FAILED, "it broke")
    for number in range(5):
        assert desk.callbacks.take(ID, f"v m-2{number}", b"{}") is Taken.LATE
    assert refusals(desk)[2:] == [("late", False)]


def test_a_vendor_that_posts_on_and_on_does_not_fill_the_audit_log(desk: Desk) -> None:
    waiting(desk)
    other_process = CallbackLedger(desk.database, desk.jobs, Journal(desk.clock, "vendor:lung"))
    assert desk.callbacks.take(ID, "v m-1", BODY) is Taken.NEW
    for number in range(2 * MOST_REFUSALS):
        ledger = (desk.callbacks, other_process)[number % 2]
        assert ledger.take(ID, f"v m-{number + 2}", b"%d" % number) is Taken.SECOND
    assert refusals(desk) == [("second", n == MOST_REFUSALS - 1) for n in range(MOST_REFUSALS)]
    assert desk.callbacks.take(OTHER, "v m-99", BODY) is Taken.NOT_ASKED  # it counts for itself
    assert list(audit.events(desk.database))[-1].entity == f"request:{OTHER}"
    assert desk.actions().count("callback.taken") == 1
    assert audit.verify(desk.database)[1] is None


def test_what_is_taken_is_recorded_however_much_was_refused_before(desk: Desk) -> None:
    for number in range(2 * MOST_REFUSALS):
        assert desk.callbacks.take(ID, f"v m-{number}", b"%d" % number) is Taken.NOT_ASKED
    waiting(desk)
    assert desk.callbacks.take(ID, "v m-taken", BODY) is Taken.NEW
    last = list(audit.events(desk.database))[-1]
    assert (last.action, last.detail["length"]) == ("callback.taken", len(BODY))


def test_processes_that_refuse_at_the_same_moment_count_together(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)

    def post(number: int) -> Taken:
        return desk.callbacks.take(ID, f"v m-{number + 2}", b"%d" % number)

    with ThreadPoolExecutor(4) as posting:
        answers = list(posting.map(post, range(3 * MOST_REFUSALS)))
    assert set(answers) == {Taken.SECOND}
    assert len(refusals(desk)) == MOST_REFUSALS


def test_an_answer_that_cannot_be_used_now_is_not_asked_for_again(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    row = desk.begun()
    desk.requests.retry(row, TransientError("no room"))
    held = desk.held()
    assert held is not None
    assert (desk.row().state, held.answer) == (RequestState.RETRYING, BODY)


def test_a_vendor_that_posts_that_it_cannot_now_is_asked_anew(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    desk.requests.retry(desk.begun(), JobLostError("overloaded"))
    assert desk.held() is None
    assert desk.begun().deferred is None
    assert desk.callbacks.take(ID, "v m-2", b"{}") is Taken.NEW


def test_old_messages_are_forgotten(desk: Desk) -> None:
    waiting(desk)
    desk.callbacks.take(ID, "v m-1", BODY)
    desk.clock.advance(10)
    with desk.database.write() as connection:
        deferred.forget_callbacks(connection, desk.clock.now() - timedelta(seconds=20))
    assert desk.callbacks.take(OTHER, "v m-1", BODY) is Taken.REPLAYED
    with desk.database.write() as connection:
        deferred.forget_callbacks(connection, desk.clock.now())
    assert desk.callbacks.take(OTHER, "v m-1", BODY) is Taken.NOT_ASKED


# --- nobody waits any more ------------------------------------------------------------------------


def stop(desk: Desk, state: RegistrationState = RegistrationState.SUSPENDED) -> None:
    model, journal = desk.row().model, Journal(desk.clock, "user:anna")
    ledger = RegistrationLedger(desk.database, journal)
    ledger.note_configured(model, vendor="v", runtime_kind="vendor_http")
    ledger.change(model, state, "wrong units")


def test_who_works_on_an_answer_is_told_in_the_transaction_that_ends_the_wait(desk: Desk) -> None:
    waiting(desk)
    row = desk.begun("1")
    desk.jobs.enqueued.clear()
    desk.requests.end(row, RequestState.FAILED, "too late", abandons=True)
    (job,) = [job for job in desk.jobs.enqueued if job.kind == ABANDON_JOB]
    assert (job.queue, job.partition, job.argument) == ("inference-4", "lung", f"{ID} 1 job-1")
    told = AbandonLedger(desk.database, desk.jobs, desk.requests.journal).begin(job.argument)
    assert told is not None
    assert (told.row.request_id, told.job.job_reference) == (ID, "job-1")


@pytest.mark.parametrize("job_reference", ["", "job-1"])
def test_where_there_is_nothing_to_stop_nobody_is_told(desk: Desk, job_reference: str) -> None:
    """A job without a name; an answer that is here."""
    desk.requests.wait(desk.begun(), desk.job(job_reference))
    if job_reference:
        desk.callbacks.take(ID, "v m-1", BODY)
    desk.requests.end(desk.begun("1"), RequestState.FAILED, "it broke", abandons=True)
    assert [job for job in desk.jobs.enqueued if job.kind == ABANDON_JOB] == []


def test_of_a_request_that_was_deleted_nobody_is_told(desk: Desk) -> None:
    ledger = AbandonLedger(desk.database, desk.jobs, desk.requests.journal)
    assert ledger.begin(f"{'f' * 32} 1 job-1") is None


@pytest.mark.parametrize("state", [RegistrationState.SUSPENDED, RegistrationState.RETIRED])
def test_who_waits_for_a_stopped_model_is_woken(desk: Desk, state: RegistrationState) -> None:
    waiting(desk)
    assert desk.requests.wake_stopped() == 0
    desk.jobs.enqueued.clear()
    stop(desk, state)
    assert desk.requests.wake_stopped() == 1
    assert desk.requests.wake_stopped() == 1  # as long as it waits; the job's name is the same
    first, second = desk.jobs.enqueued
    assert first == second
    assert (first.argument, first.delay_seconds) == (f"{ID} 1", 0.0)
    assert desk.begin("1") is not None
    assert desk.requests.wake_stopped() == 0


def test_the_version_before_is_woken_with_the_one_that_took_its_place(desk: Desk) -> None:
    """Whoever suspends a model suspends what it was asked before, too."""
    waiting(desk)
    journal = Journal(desk.clock, "user:anna")
    ledger = RegistrationLedger(desk.database, journal)
    later = ModelKey("lung", "2.0", "cd" * 32)
    for model in (desk.row().model, later):
        ledger.add(model, vendor="v", runtime_kind="vendor_http", reason="offered")
        ledger.change(model, RegistrationState.ACTIVE, "tried")
    older = ModelKey("lung", "0.9", "ef" * 32)
    ledger.add(older, vendor="v", runtime_kind="vendor_http", reason="offered")
    ledger.change(older, RegistrationState.RETIRED, "it is old")
    assert desk.requests.wake_stopped() == 0  # another version is stopped, and replaced
    ledger.change(later, RegistrationState.SUSPENDED, "wrong units")
    assert desk.requests.wake_stopped() == 1


def test_a_request_that_waits_is_open(desk: Desk) -> None:
    assert RequestState.WAITING in results.OPEN_STATES
    assert replace(desk.row(), state=RequestState.WAITING).state in results.OPEN_STATES
