"""Studies that came as priors, and workers that are stopped while they look for some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hub.domain.routing import RouteStart
from hub.errors import TransientError
from hub.ports import EndOfTransfer, Sender
from hub.prior_steps import PriorSteps
from hub.store.schema import instances, requests, study_revisions
from hub.study_steps import Rerouting
from tests.unit.test_pipeline import as_received
from tests.unit.test_priors import CURRENT, OLDER, PriorBench, parts, study

__all__ = ["parts"]


def test_a_prior_is_not_analysed_where_routes_start_with_a_series(parts: PriorBench) -> None:
    pipeline = parts.bench.pipeline
    early = tuple(replace(route, start=RouteStart.SERIES) for route in pipeline.routes)
    parts.bench.pipeline = replace(pipeline, routes=early)
    parts.offer(OLDER, "20240101")
    parts.bench.send(study(CURRENT, "20260314"))
    for _ in range(30):
        parts.bench.pipeline.start_complete_series()
        parts.turn(1.0)
    assert len(parts.bench.column(study_revisions.c.revision)) > 2  # the prior has two as well
    assert {r.study.key.study_instance_uid for r in parts.bench.adapter.asked} == {CURRENT}


def test_a_person_may_have_a_study_analysed_that_came_as_a_prior(parts: PriorBench) -> None:
    parts.offer(OLDER, "20240101")
    parts.ask()
    assert len(parts.bench.adapter.asked) == 1
    pipeline = parts.bench.pipeline
    Rerouting(pipeline.database, parts.bench.jobs, pipeline.journal).again(OLDER)
    for _ in range(200):
        parts.turn(1.0)
    assert [r.study.key.study_instance_uid for r in parts.bench.adapter.asked] == [CURRENT, OLDER]


SCANNER, ARCHIVE_ITSELF = Sender("dicom", "SCANNER"), Sender("dicom", "PACS")
CALLED_PACS = frozenset({"PACS"})


def fetch_prior(parts: PriorBench, while_it_runs: Callable[[], None] = lambda: None) -> None:
    """The older study is fetched for the current one, by C-MOVE or another way."""
    pipeline = parts.bench.pipeline
    assert pipeline.fetching is not None
    parts.bench.pipeline = replace(
        pipeline, fetching=replace(pipeline.fetching, ae_titles=CALLED_PACS)
    )
    parts.offer(OLDER, "20240101")
    parts.archive.on_retrieve = while_it_runs
    parts.ask()


def send_older(
    parts: PriorBench, sender: Sender, end: EndOfTransfer = EndOfTransfer.RELEASED
) -> None:
    objects = [as_received(file) for file in study(OLDER, "20240101")]
    parts.bench.store.store(objects, end, sender)


def analysed(parts: PriorBench) -> list[str]:
    """The studies that the model was asked about, after all that is to be done."""
    routed = [parts.bench.pipeline.route_priors_sent_for_themselves() for _ in range(3)]
    assert sum(routed) <= 1
    for _ in range(200):
        parts.turn(1.0)
    assert parts.bench.pipeline.route_priors_sent_for_themselves() == 0
    return [r.study.key.study_instance_uid for r in parts.bench.adapter.asked]


@pytest.mark.parametrize("sender", [SCANNER, ARCHIVE_ITSELF])
def test_a_prior_that_is_sent_for_itself_later_is_analysed_once(
    parts: PriorBench, sender: Sender
) -> None:
    fetch_prior(parts)
    assert analysed(parts) == [CURRENT]
    send_older(parts, sender)
    assert analysed(parts) == [CURRENT, OLDER]
    send_older(parts, sender)
    assert analysed(parts) == [CURRENT, OLDER]


def test_a_prior_that_is_sent_for_itself_while_it_is_fetched_is_analysed(parts: PriorBench) -> None:
    fetch_prior(parts, lambda: send_older(parts, SCANNER))
    assert analysed(parts) == [CURRENT, OLDER]


def test_what_the_archive_is_asked_for_is_no_order(parts: PriorBench) -> None:
    """By C-MOVE it calls the same source as everybody."""
    fetch_prior(parts, lambda: send_older(parts, ARCHIVE_ITSELF))
    assert analysed(parts) == [CURRENT]


def test_what_the_archive_sends_too_late_is_no_order(parts: PriorBench) -> None:
    def too_slow() -> None:
        send_older(parts, ARCHIVE_ITSELF)
        raise TransientError("not within its time limit")

    fetch_prior(parts, too_slow)
    send_older(parts, ARCHIVE_ITSELF)
    assert analysed(parts) == [CURRENT]


def test_a_transfer_that_broke_off_is_no_order(parts: PriorBench) -> None:
    fetch_prior(parts)
    send_older(parts, SCANNER, EndOfTransfer.ABORTED)
    assert analysed(parts) == [CURRENT]


def test_a_prior_that_was_deleted_is_not_analysed(parts: PriorBench) -> None:
    fetch_prior(parts)
    send_older(parts, SCANNER)
    with parts.bench.pipeline.database.write() as connection:
        connection.execute(sa.delete(instances).where(instances.c.study_instance_uid == OLDER))
    assert analysed(parts) == [CURRENT]


def test_a_worker_that_was_stopped_while_looking_undoes_nothing(
    parts: PriorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP between a look and the note that it has to be repeated; another worker goes on."""
    parts.offer(OLDER, "20240101")
    files = parts.archive.files.pop(OLDER)
    parts.bench.send(study(CURRENT, "20260314"))
    parts.bench.clock.advance(2.1)
    parts.bench.pipeline.complete_due_studies()
    parts.turn()
    (request_id,) = map(str, parts.bench.column(requests.c.request_id))
    parts.priors.run_priors(request_id)
    look_again, stopped = PriorSteps._look_again, list[Any]()

    def stop(self: PriorSteps, *state: Any) -> None:
        if stopped:
            look_again(self, *state)
            return
        stopped.extend(state)
        parts.archive.files[OLDER] = files
        for _ in range(20):
            parts.turn(1.0)
        assert parts.bench.column(requests.c.state) == ["done"]
        look_again(self, *state)

    monkeypatch.setattr(PriorSteps, "_look_again", stop)
    parts.priors.run_priors(request_id)
    assert stopped
    assert not parts.bench.jobs.enqueued
    assert parts.bench.column(requests.c.state) == ["done"]
    assert parts.given == [OLDER]
