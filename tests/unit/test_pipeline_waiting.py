"""A model that answers later: it is asked once, waited for, called back by, and given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Unsuitable,
)
from hub.domain.model_runtime import VendorHttpRuntime
from hub.errors import JobLostError, LeftToRecoveryError, RejectedError, TransientError
from hub.ports import ModelPackage
from hub.registry import RunningModel
from hub.store import audit
from hub.store.callbacks import CallbackLedger, Taken
from hub.store.schema import alerts, requests, results
from hub.store.schema_vendors import deferred_answers
from tests.fakes import FakeAdapter
from tests.unit.test_pipeline import KEY, Bench, _card, _finding, make_bench

WITHIN = 60.0


@dataclass(slots=True)
class Later(FakeAdapter):
    """Says "later" when it is asked (`hub.ports.Resuming`), and what it is told to when it is asked
    after that."""

    said: list[object] = field(default_factory=list)
    resumed: list[tuple[Deferred, bytes | None]] = field(default_factory=list)
    abandoned: list[Deferred] = field(default_factory=list)
    refuses: list[Exception] = field(default_factory=list)
    """What is raised when it is told that nobody waits, one after another."""
    deadlines: set[object] = field(default_factory=set)

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        self.deadlines.add(request.deadline)
        FakeAdapter.infer(self, request)
        return self._later(request)

    def resume(
        self, request: InferenceRequest, job: Deferred, answer: bytes | None
    ) -> InferenceResult | Unsuitable | Deferred:
        self.deadlines.add(request.deadline)
        self.resumed.append((job, answer))
        said = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        if callable(said):
            said = said()
        if isinstance(said, BaseException):
            raise said
        return self._later(request) if said == "later" else _finding(request)

    def abandon(self, model: ModelKey, job: Deferred) -> None:
        assert model == KEY
        self.abandoned.append(job)
        if self.refuses:
            raise self.refuses.pop(0)

    def _later(self, request: InferenceRequest) -> Deferred:
        soon = self.clock.now() + timedelta(seconds=5)
        return Deferred(request.request_id, f"job-{len(self.asked)}", soon)


@dataclass
class Waiting:
    bench: Bench
    adapter: Later

    def run(self) -> None:
        """The jobs that are there, and not those that they enqueue."""
        self.bench.run()

    @property
    def delay(self) -> float:
        (job,) = self.bench.jobs.enqueued
        return job.delay_seconds

    @property
    def state(self) -> str:
        (state,) = self.bench.column(requests.c.state)
        return str(state)

    @property
    def request_id(self) -> str:
        (request_id,) = self.bench.column(requests.c.request_id)
        return str(request_id)

    def call_back(self, message: str = "m-1", body: bytes = b"answer") -> Taken:
        pipeline = self.bench.pipeline
        ledger = CallbackLedger(pipeline.database, self.bench.jobs, pipeline.journal)
        return ledger.take(self.request_id, message, body)


@pytest.fixture
def this(tmp_path: Path) -> Iterator[Waiting]:
    """One whose request waits."""
    made = waiting(tmp_path)
    yield made
    made.bench.store.close()
    made.bench.pipeline.database.close()


def waiting(folder: Path) -> Waiting:
    bench = make_bench(folder)
    adapter = Later(bench.clock, [_finding], said=["done"])
    runtime = VendorHttpRuntime(
        kind="vendor_http", url="https://v.example", answer_within_seconds=WITHIN
    )
    package = ModelPackage(KEY, replace(_card(), runtime=runtime), folder)
    models = {"lung-density": RunningModel(package, adapter)}
    bench.pipeline = replace(
        bench.pipeline, registry=replace(bench.pipeline.registry, models=models)
    )
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()  # the study
    bench.run()  # its request
    return Waiting(bench, adapter)


def test_an_answer_that_comes_later_is_a_result_like_any_other(this: Waiting) -> None:
    assert (this.state, this.delay) == ("waiting", 5.0)
    this.bench.clock.advance(5)
    this.bench.finish()
    assert this.state == "done"
    assert this.bench.column(deferred_answers.c.request_id) == []
    assert len(this.adapter.asked) == 1
    assert len(this.bench.destinations["pacs"].delivered) == 1
    assert this.bench.actions()[3:6] == [
        "inference.started",
        "inference.deferred",
        "inference.finished",
    ]
    assert audit.verify(this.bench.pipeline.database)[1] is None


def test_the_model_is_asked_by_the_same_deadline_each_time(this: Waiting) -> None:
    this.adapter.said[:] = ["later", "later", "done"]
    for _ in range(3):
        this.bench.clock.advance(5)
        this.run()
    (deadline,) = this.adapter.deadlines
    assert deadline == this.bench.clock.now() + timedelta(seconds=WITHIN - 15)


def test_whoever_takes_over_asks_after_the_job_and_not_anew(this: Waiting) -> None:
    (job,) = this.bench.jobs.enqueued
    this.adapter.said[:] = [LeftToRecoveryError(), "done"]
    with pytest.raises(LeftToRecoveryError):  # the worker dies while it asks
        this.bench.pipeline.run_request(job.argument)
    assert this.state == "running"
    this.bench.pipeline.run_request(job.argument)
    assert this.state == "done"
    assert len(this.adapter.asked) == 1
    assert [held.job_reference for held, _ in this.adapter.resumed] == ["job-1", "job-1"]


def test_the_submission_that_runs_once_more_does_nothing(this: Waiting) -> None:
    before = this.bench.actions()
    this.bench.pipeline.run_request(this.request_id)
    assert (this.state, len(this.adapter.asked), this.adapter.resumed) == ("waiting", 1, [])
    assert len(this.bench.jobs.enqueued) == 1
    assert this.bench.actions() == before


def test_the_callback_ends_the_wait(this: Waiting) -> None:
    asking, this.bench.jobs.enqueued[:] = list(this.bench.jobs.enqueued), []
    assert this.call_back() is Taken.NEW
    assert this.delay == 0.0
    this.bench.finish()
    assert this.state == "done"
    assert [answer for _, answer in this.adapter.resumed] == [b"answer"]
    this.bench.jobs.enqueued[:] = asking  # its time comes
    this.bench.finish()
    assert len(this.adapter.resumed) == 1
    assert len(this.bench.column(results.c.request_id)) == 1
    assert this.call_back() is Taken.AGAIN
    assert this.call_back("m-2", b"other") is Taken.LATE


def test_what_the_callback_brought_is_used_after_the_deadline_too(this: Waiting) -> None:
    this.call_back()
    this.bench.clock.advance(WITHIN + 1)
    this.bench.finish()
    assert this.state == "done"


def test_after_the_deadline_nobody_asks_any_more(this: Waiting) -> None:
    this.adapter.said[:] = ["later"]
    for _ in range(20):
        if not this.bench.jobs.enqueued or this.state != "waiting":
            break
        this.bench.clock.advance(max(this.delay, 0.0))
        this.run()
    assert this.state == "failed"
    assert "no answer came by the deadline" in str(this.bench.column(requests.c.detail)[0])
    assert len(this.adapter.resumed) == WITHIN / 5 - 1
    this.bench.finish()
    assert [job.job_reference for job in this.adapter.abandoned] == ["job-1"]
    assert "inference.failed" in this.bench.column(alerts.c.kind)
    assert this.call_back() is Taken.LATE


def test_what_cannot_be_asked_now_is_asked_until_the_deadline(this: Waiting) -> None:
    this.adapter.said[:] = [TransientError("HTTP 503")]
    for _ in range(30):
        if this.state != "waiting":
            break
        this.bench.clock.advance(this.delay)
        this.run()
    assert this.state == "failed"
    assert len(this.adapter.asked) == 1


def test_a_job_that_is_lost_is_begun_anew(this: Waiting) -> None:
    this.adapter.said[:] = [JobLostError("unknown"), "done"]
    this.run()
    assert this.state == "retrying"
    this.run()
    assert (this.state, len(this.adapter.asked)) == ("waiting", 2)
    this.bench.finish()
    assert this.state == "done"


def test_a_vendor_that_gives_up_ends_it(this: Waiting) -> None:
    this.adapter.said[:] = [RejectedError("the vendor answers that it failed: internal-error")]
    this.run()
    assert this.state == "failed"
    assert this.bench.column(deferred_answers.c.request_id) == []


def test_an_adapter_that_cannot_be_asked_after_must_not_say_later(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    bench.adapter.answers = [lambda r: Deferred(r.request_id, "job", bench.clock.now())]
    bench.receive()
    bench.finish()
    assert bench.column(requests.c.state) == ["failed"]
    assert "cannot be asked after" in str(bench.column(requests.c.detail)[0])
    bench.store.close()
    bench.pipeline.database.close()
