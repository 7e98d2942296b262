"""Small real implementations of the hub's ports for unit tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from hub.domain.delivery import Document, Receipt
from hub.domain.inference import (
    Deferred,
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Unsuitable,
)
from hub.ports import CommitmentReport, Health, HealthState, Job, ModelPackage


@dataclass(slots=True)
class FrozenClock:
    """A clock that moves when told to (hub.ports.Clock)."""

    moment: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass(slots=True)
class RecordingJobs:
    """Remembers what was enqueued (hub.ports.Jobs); transactions are tested with the engine."""

    enqueued: list[Job] = field(default_factory=list)

    def enqueue(self, connection: sa.Connection, job: Job) -> None:
        self.enqueued.append(job)


@dataclass(slots=True)
class FakeAdapter:
    """Answers what it is told to (hub.ports.ModelAdapter)."""

    clock: FrozenClock
    answers: list[object] = field(default_factory=list)
    """Used one after another; an exception is raised, a function is called with the request;
    the last one stays."""
    asked: list[InferenceRequest] = field(default_factory=list)

    def load(self, package: ModelPackage) -> None: ...

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        self.asked.append(request)
        return _next(self.answers, request)

    def unload(self, model: ModelKey) -> None: ...

    def health(self) -> Health:
        return Health(HealthState.HEALTHY, "fake", self.clock.now())

    def close(self) -> None: ...


@dataclass(slots=True)
class FakeDestination:
    """Keeps what it is sent, or fails as told (hub.ports.Destination)."""

    answers: list[object] = field(default_factory=lambda: [Receipt("ok")])
    delivered: list[Document] = field(default_factory=list)

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:
        receipt = _next(self.answers, document)
        self.delivered.append(document)
        return receipt

    def check(self) -> str:
        return "fake"

    def close(self) -> None: ...


@dataclass(slots=True)
class NoConfirmations:
    """Nothing was confirmed (hub.ports.Confirmations), but what a test puts in."""

    reports: dict[str, CommitmentReport] = field(default_factory=dict)

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        return self.reports.get(transaction_uid)


def _next(answers: list[object], argument: object) -> Any:
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer(argument) if callable(answer) else answer
