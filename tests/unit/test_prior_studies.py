"""Studies that came as priors, and workers that are stopped while they look for some."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hub.domain.routing import RouteStart
from hub.prior_steps import PriorSteps
from hub.store.schema import requests, study_revisions
from hub.study_steps import Rerouting
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
