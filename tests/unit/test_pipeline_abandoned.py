"""Nobody waits for a vendor's answer any more: whoever works on it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hub.domain.audit import AuditEvent
from hub.domain.order import OrderState
from hub.domain.registration import RegistrationState
from hub.domain.routing import RouteTrigger
from hub.errors import JobLostError, RejectedError, TransientError
from hub.ports import Job
from hub.registry import Registry, RunningModel
from hub.store import audit
from hub.store.abandoning import ABANDON_JOB
from hub.store.callbacks import Taken
from hub.store.registrations import RegistrationLedger
from hub.store.schema import requests
from hub.store.schema_vendors import deferred_answers
from tests.unit.ordering import OrderBench, make_order_bench, order
from tests.unit.test_pipeline import KEY, _finding, _route
from tests.unit.test_pipeline_waiting import WITHIN, Later, Waiting, this

__all__ = ["this"]

BOTH = [RegistrationState.SUSPENDED, RegistrationState.RETIRED]


def stop(this: Waiting, state: RegistrationState = RegistrationState.SUSPENDED) -> None:
    """A person stops the model."""
    pipeline = this.bench.pipeline
    ledger = RegistrationLedger(pipeline.database, pipeline.journal)
    ledger.note_configured(KEY, vendor="v", runtime_kind="vendor_http")
    ledger.change(KEY, state, "it mixes patients up")


def told(this: Waiting) -> list[str]:
    """The jobs that the vendor was told of."""
    return [job.job_reference for job in this.adapter.abandoned]


def recorded(this: Waiting) -> list[AuditEvent]:
    events = audit.events(this.bench.pipeline.database)
    return [event for event in events if event.action == "inference.abandoned"]


def telling(this: Waiting) -> Job | None:
    """The job that waits to tell the vendor."""
    found = [job for job in this.bench.jobs.enqueued if job.kind == ABANDON_JOB]
    assert len(found) <= 1
    return found[0] if found else None


# --- the model is stopped ------------------------------------------------------------------------


@pytest.mark.parametrize("state", BOTH)
def test_a_request_whose_model_is_stopped_ends_at_once_and_its_vendor_is_told(
    this: Waiting, state: RegistrationState
) -> None:
    this.bench.jobs.enqueued.clear()  # the next question is far away
    stop(this, state)
    assert this.bench.pipeline.requests.wake_stopped() == 1
    assert this.delay == 0.0
    this.bench.finish()
    assert (this.state, told(this), this.adapter.resumed) == ("failed", ["job-1"], [])
    assert "was not asked" in str(this.bench.column(requests.c.detail)[0])
    assert "inference.failed" in this.bench.actions()
    (event,) = recorded(this)
    assert (event.outcome.value, event.entity) == ("success", f"request:{this.request_id}")
    assert event.detail["job_reference"] == "job-1"
    assert this.call_back() is Taken.LATE
    assert this.bench.pipeline.requests.wake_stopped() == 0


def test_its_next_question_finds_it_as_well(this: Waiting) -> None:
    stop(this)
    this.bench.finish()
    assert (this.state, told(this), this.adapter.resumed) == ("failed", ["job-1"], [])


def test_the_model_need_not_run_here_any_more(this: Waiting) -> None:
    """A suspended model is forgotten at once, and loaded to tell its vendor."""
    running = this.bench.pipeline.registry.models["lung-density"]
    brought: list[object] = []

    def bring(key: object) -> RunningModel:
        brought.append(key)
        return running

    registry = Registry(destinations=this.bench.pipeline.registry.destinations, bring=bring)
    this.bench.pipeline = replace(this.bench.pipeline, registry=registry)
    stop(this)
    this.bench.finish()
    assert (told(this), brought[-1]) == (["job-1"], KEY)


def test_whoever_waits_for_a_model_that_may_be_asked_is_left_alone(this: Waiting) -> None:
    assert this.bench.pipeline.requests.wake_stopped() == 0
    stop(this)
    pipeline = this.bench.pipeline
    ledger = RegistrationLedger(pipeline.database, pipeline.journal)
    ledger.change(KEY, RegistrationState.ACTIVE, "it does not")
    assert this.bench.pipeline.requests.wake_stopped() == 0
    this.bench.finish()
    assert (this.state, told(this)) == ("done", [])


def test_one_that_is_woken_for_nothing_goes_on_waiting_in_one_line(this: Waiting) -> None:
    """The model is activated again before the job runs."""
    stop(this)
    this.bench.pipeline.requests.wake_stopped()
    pipeline = this.bench.pipeline
    ledger = RegistrationLedger(pipeline.database, pipeline.journal)
    ledger.change(KEY, RegistrationState.ACTIVE, "it does not")
    this.adapter.said[:] = ["later", "later", "done"]
    this.bench.finish()
    assert (this.state, len(this.adapter.resumed), told(this)) == ("done", 3, [])


def test_an_answer_that_is_here_needs_nobody_to_stop(this: Waiting) -> None:
    this.call_back()
    stop(this)
    assert this.bench.pipeline.requests.wake_stopped() == 0
    this.bench.finish()
    assert (this.state, told(this)) == ("failed", [])


# --- other ends ----------------------------------------------------------------------------------


def test_a_vendor_that_cannot_be_asked_by_the_deadline_is_told_too(this: Waiting) -> None:

    def asking() -> object:
        this.bench.clock.advance(WITHIN)
        return TransientError("HTTP 503")

    this.adapter.said[:] = [asking]
    this.bench.finish()
    assert (this.state, told(this)) == ("failed", ["job-1"])


def test_a_request_whose_study_is_held_back_ends_and_its_vendor_is_told(
    this: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.pipeline.foreign_priors", lambda _: ("2.25.9",))
    this.bench.finish()
    assert (this.state, told(this)) == ("quarantined", ["job-1"])


@pytest.mark.parametrize(
    "said", [RejectedError("it gave up"), "done"], ids=["it-gives-up", "it-answers"]
)
def test_a_vendor_that_has_spoken_is_told_nothing(this: Waiting, said: object) -> None:
    this.adapter.said[:] = [said]
    this.bench.finish()
    assert (told(this), recorded(this)) == ([], [])
    assert this.bench.column(deferred_answers.c.request_id) == []


def test_a_job_that_the_vendor_has_lost_by_the_deadline_is_not_named(this: Waiting) -> None:
    def asking() -> object:
        this.bench.clock.advance(WITHIN)
        return JobLostError("unknown")

    this.adapter.said[:] = [asking]
    this.bench.finish()
    assert (this.state, told(this)) == ("failed", [])


# --- telling -------------------------------------------------------------------------------------


def test_a_vendor_that_cannot_be_told_now_is_told_later_and_not_for_ever(this: Waiting) -> None:
    this.adapter.refuses[:] = [TransientError("Connection refused")] * 3
    stop(this)
    this.run()
    delays = []
    while waits := telling(this):
        delays.append(waits.delay_seconds)
        this.run()
    assert (delays, told(this)) == ([0.0, 2.0, 4.0], ["job-1"] * 3)
    (event,) = recorded(this)
    assert event.outcome.value == "minor-failure"
    assert event.detail["reason"] == "Connection refused"


def test_one_that_may_not_be_told_is_not_told_again(this: Waiting) -> None:
    this.adapter.refuses[:] = [RejectedError("10.0.0.1 is not public")]
    stop(this)
    this.bench.finish()
    assert told(this) == ["job-1"]
    assert [event.outcome.value for event in recorded(this)] == ["minor-failure"]


def test_a_fault_of_the_hub_is_recorded_in_the_end(this: Waiting) -> None:
    stop(this)
    this.run()
    for _ in range(3):
        job = telling(this)
        assert job is not None
        this.bench.jobs.enqueued.clear()
        this.bench.pipeline.abandon_failed(job.argument, "a fault")
    assert this.bench.jobs.enqueued == []
    assert [event.detail["reason"] for event in recorded(this)] == ["a fault"]


def test_a_job_that_is_waited_for_again_is_not_stopped(this: Waiting) -> None:
    """A person asked again, and the vendor works on the same request by the same job."""
    stop(this)
    this.run()
    job = telling(this)
    assert job is not None
    this.bench.jobs.enqueued.clear()
    pipeline = this.bench.pipeline
    ledger = RegistrationLedger(pipeline.database, pipeline.journal)
    ledger.change(KEY, RegistrationState.ACTIVE, "it does not")
    assert pipeline.requests.ask_again(this.request_id)
    this.adapter.asked.clear()  # it calls the job as before
    this.run()
    pipeline.run_abandon(job.argument)
    assert (this.state, told(this)) == ("waiting", [])


def test_the_job_may_run_twice(this: Waiting) -> None:
    stop(this)
    this.run()
    job = telling(this)
    assert job is not None
    for _ in range(2):
        this.bench.pipeline.run_abandon(job.argument)
    assert told(this) == ["job-1"] * 2
    assert this.state == "failed"


# --- its order is taken back ---------------------------------------------------------------------


@pytest.fixture
def ordered(tmp_path: Path) -> Iterator[tuple[OrderBench, Later]]:
    """An order whose request waits for a vendor."""
    parts = make_order_bench(tmp_path)
    bench = parts.bench
    adapter = Later(bench.clock, [_finding], said=["done"])
    running = bench.pipeline.registry.models["lung-density"]
    models = {"lung-density": replace(running, adapter=adapter)}
    registry = replace(bench.pipeline.registry, models=models)
    bench.pipeline = replace(bench.pipeline, registry=registry)
    parts.use(_route(trigger=RouteTrigger.ORDER))
    uid = bench.receive()
    parts.finish()
    parts.orders.place(order(uid, patient=parts.study(uid).patient))
    parts.look()
    bench.run()
    assert bench.column(requests.c.state) == ["waiting"]
    yield parts, adapter
    bench.store.close()
    bench.pipeline.database.close()


def test_an_order_that_is_taken_back_stops_the_vendor(
    ordered: tuple[OrderBench, Later],
) -> None:
    parts, adapter = ordered
    assert parts.orders.cancel("a" * 32, "not needed").state is OrderState.CANCELLED
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["discarded"]
    assert parts.bench.column(deferred_answers.c.request_id) == []
    assert [job.job_reference for job in adapter.abandoned] == ["job-1"]
    assert adapter.resumed == []
    late = Waiting(parts.bench, adapter).call_back()
    assert late is Taken.LATE


def test_one_that_is_just_being_asked_after_is_not_reported_any_more(
    ordered: tuple[OrderBench, Later],
) -> None:
    parts, adapter = ordered

    def asking() -> str:
        parts.orders.cancel("a" * 32, "")
        return "done"

    adapter.said[:] = [asking]
    parts.finish()
    assert parts.bench.column(requests.c.state) == ["discarded"]
    assert parts.bench.destinations["ehr"].delivered == []
    assert len(adapter.abandoned) == 1


def test_what_another_order_waits_for_goes_on(ordered: tuple[OrderBench, Later]) -> None:
    parts, adapter = ordered
    uid = parts.placed().order.study_instance_uid
    parts.orders.place(order(uid, order_id="b" * 32, patient=parts.study(uid).patient))
    parts.look()
    parts.orders.cancel("a" * 32, "")
    parts.finish()
    assert (parts.bench.column(requests.c.state), adapter.abandoned) == (["done"], [])
    assert parts.placed("b" * 32).state is OrderState.COMPLETED


def test_an_answer_that_came_before_is_reported(ordered: tuple[OrderBench, Later]) -> None:
    parts, adapter = ordered
    assert Waiting(parts.bench, adapter).call_back() is Taken.NEW
    parts.orders.cancel("a" * 32, "")
    parts.finish()
    assert (parts.bench.column(requests.c.state), adapter.abandoned) == (["done"], [])


def test_what_was_taken_back_may_be_ordered_again(ordered: tuple[OrderBench, Later]) -> None:
    parts, adapter = ordered
    uid = parts.placed().order.study_instance_uid
    parts.orders.cancel("a" * 32, "")
    parts.orders.place(order(uid, order_id="b" * 32, patient=parts.study(uid).patient))
    parts.finish()
    assert parts.placed("b" * 32).state is OrderState.COMPLETED
    assert len(adapter.asked) == 2
