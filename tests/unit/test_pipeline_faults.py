"""The story when workers die, hang or wake up again, and when the ground shifts under a request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.domain.inference import InferenceRequest, InferenceResult
from hub.errors import RejectedError, TransientError
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.ct_phantom import chest_phantom
from hub.store.index_batch import TWO_PATIENTS
from hub.store.request_ledger import MOST_LOST_ATTEMPTS
from hub.store.schema import alerts, requests, results
from tests.unit.test_pipeline import Bench, _finding, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


def _routed(bench: Bench) -> str:
    """Receive a study and route it; returns its request, which nobody has begun."""
    bench.receive()
    bench.pipeline.complete_due_studies()
    bench.run()
    (request_id,) = bench.column(requests.c.request_id)
    return str(request_id)


def _another_answers_first(bench: Bench, error: Exception) -> None:
    def hang(request: InferenceRequest) -> InferenceResult:
        bench.adapter.answers = [_finding]
        bench.pipeline.run_request(request.request_id)  # we were thought dead
        raise error

    bench.adapter.answers = [hang]


def test_a_worker_that_wakes_up_without_an_answer_takes_none_back(bench: Bench) -> None:
    for error in (TransientError("the worker process died"), RejectedError("NaN")):
        _another_answers_first(bench, error)
        bench.receive(seed=len(bench.actions()) + 1)
        bench.finish()
    assert bench.column(requests.c.state) == ["done", "done"]
    assert bench.column(alerts.c.kind) == []
    assert "inference.retrying" not in bench.actions()
    assert len(bench.destinations["ehr"].delivered) == 2


def test_a_worker_that_wakes_up_does_not_end_the_attempt_of_another(bench: Bench) -> None:
    request_id = _routed(bench)
    first = bench.pipeline.requests.begin(request_id)
    second = bench.pipeline.requests.begin(request_id)  # taken over
    assert first is not None
    assert second is not None
    bench.jobs.enqueued.clear()
    bench.pipeline.requests.retry(first, TransientError("late"))
    assert bench.jobs.enqueued == []
    bench.pipeline.requests.retry(second, TransientError("busy"))
    assert [job.job_id for job in bench.jobs.enqueued] == [f"request:{request_id}:2"]


def test_a_request_that_kills_every_process_ends_as_a_dead_letter(bench: Bench) -> None:
    request_id = _routed(bench)
    for _ in range(MOST_LOST_ATTEMPTS):
        assert bench.pipeline.requests.begin(request_id) is not None
    assert bench.pipeline.requests.begin(request_id) is None
    assert bench.column(requests.c.state) == ["failed"]
    assert bench.column(alerts.c.kind) == ["inference.failed"]
    assert bench.pipeline.requests.ask_again(request_id)
    assert bench.pipeline.requests.begin(request_id) is not None


def test_a_fault_before_the_attempt_began_gets_a_job_of_its_own(bench: Bench) -> None:
    request_id = _routed(bench)
    (first,) = bench.jobs.enqueued
    bench.jobs.enqueued.clear()
    bench.pipeline.request_failed(request_id, "fault of the hub: KeyError")
    (second,) = bench.jobs.enqueued
    assert second.job_id != first.job_id


def test_a_study_that_turned_out_to_be_of_two_patients_is_not_computed(bench: Bench) -> None:
    request_id = _routed(bench)
    file = chest_phantom(slices=2, rows=64, columns=64, seed=1).files[1]
    _, data_set = split_part10(file)
    stranger = bytearray(data_set)
    patient_id = stranger.index(b"\x10\x00\x20\x00LO") + 8
    stranger[patient_id : patient_id + 2] = b"ZZ"
    at = stranger.index(b"\x08\x00\x18\x00UI")
    length = int.from_bytes(stranger[at + 6 : at + 8], "little")
    stranger[at + 8 + length - 4 : at + 8 + length - 1] = b"777"  # another SOP Instance UID
    stranger_file = file[: len(file) - len(data_set)] + bytes(stranger)
    bench.send([stranger_file])
    assert TWO_PATIENTS in bench.column(alerts.c.message)
    bench.pipeline.run_request(request_id)
    assert bench.adapter.asked == []
    assert bench.column(requests.c.state) == ["quarantined"]
    assert bench.column(results.c.outcome) == []


def test_a_destination_that_was_removed_keeps_nothing_from_the_others(bench: Bench) -> None:
    _routed(bench)
    left = {"ehr": bench.pipeline.registry.destinations["ehr"]}
    bench.pipeline = replace(
        bench.pipeline, registry=replace(bench.pipeline.registry, destinations=left)
    )
    bench.finish()
    assert bench.column(requests.c.state) == ["done"]
    assert len(bench.destinations["ehr"].delivered) == 1
    with bench.pipeline.database.read() as connection:
        query = sa.select(alerts.c.kind, alerts.c.message)
        ((kind, message),) = connection.execute(query).all()
    assert kind == "delivery.no-destination"
    assert "pacs" in message
