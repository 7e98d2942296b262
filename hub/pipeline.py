"""The path of one study through the hub.

1. receive   - a source stores each object durably, then (and only then) acknowledges it
               (hub/store/intake.py, in the receiver's process).
2. complete  - a study is complete when the evidence says so.
3. route     - rules turn the study into inference requests, with the reasons.
4. infer     - inside its intended use, the model is asked.
5. verify    - an answer that belongs to somebody else stops here.
6. encode    - one neutral result becomes every document that its destinations take.
7. deliver   - to each destination on its own, until that one confirms.
8. audit     - every step appends to the log, in the transaction of the change it records
               (``journal`` here, and in the two ledgers of hub/store).

Steps 3, 4 to 6, and 7 are durable jobs: one per study revision, one per attempt at an inference
request, one per attempt at a delivery. A job may run again after a crash, so each begins by asking
what is already done, and ends in one transaction that holds its changes, its audit row and the
jobs that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa

from hub.domain.delivery import Document, DocumentKind, Receipt
from hub.domain.identity import request_id_for
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    Outcome,
    Timing,
    Unsuitable,
)
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.routing import Decision, Match, Route, RouteMode, RuleError, match
from hub.domain.study import Study, StudyKey
from hub.errors import IntegrityError, RejectedError, TransientError, UnsuitableError
from hub.formats.encoding import Encoder, EncodingContext, check_document_identity
from hub.ports import Job, Jobs
from hub.registry import Registry, RunningModel
from hub.store import instances, studies
from hub.store.database import Database
from hub.store.deliveries import DeliveryTask
from hub.store.delivery_ledger import DeliveryLedger
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.request_ledger import RequestLedger
from hub.store.results import RequestRow, RequestState

STUDY_JOB, STUDY_QUEUE = "study", "studies"
_DUE_AT_ONCE = 100


def inference_queue(concurrency: int) -> str:
    """Models with the same limit share a queue; each is a line of its own in it."""
    return f"inference-{concurrency}"


def delivery_queue(concurrency: int) -> str:
    """Destinations with the same limit share a queue; each is a line of its own in it."""
    return f"delivery-{concurrency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The steps, and all that they need; every field is shared by the jobs of one process."""

    database: Database
    documents: DocumentStore
    jobs: Jobs
    journal: Journal
    requests: RequestLedger
    deliveries: DeliveryLedger
    registry: Registry
    routes: tuple[Route, ...]
    encoders: Mapping[DocumentKind, Encoder]
    """In the order in which documents may refer to each other."""
    context: Callable[[], EncodingContext]

    # --- 2. complete ---------------------------------------------------------------------

    def complete_due_studies(self) -> int:
        """Close every study whose evidence says that it is complete; returns how many."""
        with self.database.read() as connection:
            due = studies.due(connection, self.journal.clock.now(), _DUE_AT_ONCE)
        return sum(self.complete(key) for key in due)

    def complete(self, key: StudyKey) -> bool:
        """Close one revision and start its job; False when it is not due any more."""
        with self.database.write() as connection:
            if not studies.complete(connection, key, self.journal.clock.now()):
                return False
            job = Job(kind=STUDY_JOB, queue=STUDY_QUEUE, job_id=f"study:{key}", argument=str(key))
            self.jobs.enqueue(connection, job)
            self.journal.record(
                connection,
                "study.completed",
                f"study:{key}",
                key.study_instance_uid,
                because=studies.evidence_of(connection, key),
            )
        return True

    # --- 3. route ------------------------------------------------------------------------

    def run_study(self, argument: str) -> None:
        """The job of a study revision: apply every route, record every answer."""
        self.route(_study_key(argument))

    def route(self, key: StudyKey) -> None:
        """Turn a complete study into inference requests."""
        with self.database.read() as connection:
            study = instances.load_study(connection, key)
        decisions = [self._decide(route, study) for route in self.routes]
        with self.database.write() as connection:
            if studies.state_of(connection, key) != studies.COMPLETE:
                return  # routed before a crash
            studies.mark_routed(connection, key, decisions, self.journal.clock.now())
            requests = [
                self._request(study, route, decision)
                for route, decision in zip(self.routes, decisions, strict=True)
                if isinstance(decision, Match)
            ]
            for request in requests:
                self.requests.create(connection, request)
            for decision in decisions:
                self._alarm_if_broken(connection, key, decision)
            self.journal.record(
                connection,
                "study.routed",
                f"study:{key}",
                key.study_instance_uid,
                decisions={d.route: type(d).__name__ for d in decisions},
                requests=[request.request_id for request in requests],
                problems=list(study.problems),
            )

    def _decide(self, route: Route, study: Study) -> Decision:
        """The route's answer; a match whose model cannot run is an error, not a silence."""
        decision = match(route, study)
        reason = self.registry.why_not(route.model)
        if isinstance(decision, Match) and reason is not None:
            return RuleError(route.name, (f"model {route.model} cannot run: {reason}",))
        return decision

    def _request(self, study: Study, route: Route, decision: Match) -> RequestRow:
        """The request, pinned to the model as it is now."""
        model = self.registry.model(route.model).package
        return RequestRow(
            request_id=request_id_for(
                study_instance_uid=study.study_instance_uid,
                revision=study.key.revision,
                route=route.name,
                model=f"{model.key}|{model.key.sha256}",
                series_instance_uids=decision.series_instance_uids,
            ),
            study=study.key,
            route=route.name,
            shadow=route.mode is RouteMode.SHADOW,
            model=model.key,
            queue=inference_queue(model.card.runtime.concurrency),
            priority=route.priority,
            series_instance_uids=decision.series_instance_uids,
            deliver_to=route.deliver_to,
            reasons=decision.reasons,
            state=RequestState.QUEUED,
            attempts=0,
            detail="",
            created_at=self.journal.clock.now(),
        )

    def _alarm_if_broken(
        self, connection: sa.Connection, key: StudyKey, decision: Decision
    ) -> None:
        """A rule that cannot be evaluated is never "no match": a person has to mend it."""
        if isinstance(decision, RuleError):
            self.journal.alarm(
                connection,
                "route.error",
                f"route:{decision.route}",
                key.study_instance_uid,
                reason="; ".join(decision.reasons),
            )

    # --- 4 to 6. infer, verify, encode -----------------------------------------------------

    def run_request(self, request_id: str) -> None:
        """The job of an inference request."""
        row = self.requests.begin(request_id)
        if row is None:
            return
        try:
            model = self._pinned_model(row)
            request = self._inference_request(row)
            result = self.infer(model, request)
            self.verify(request, result)
            result, documents = self.encode(model, request, result, row)
            self._answer(row, request, result, documents)
        except TransientError as error:
            self.requests.retry(row, error)
        except IntegrityError as error:
            self.requests.end(row, RequestState.QUARANTINED, str(error))
        except RejectedError as error:
            self.requests.end(row, RequestState.FAILED, str(error))

    def _pinned_model(self, row: RequestRow) -> RunningModel:
        model = self.registry.model(row.model.model_id)
        if model.package.key != row.model:
            raise RejectedError(f"the request is pinned to {row.model}, which runs no longer")
        return model

    def _inference_request(self, row: RequestRow) -> InferenceRequest:
        with self.database.read() as connection:
            study = instances.load_study(connection, row.study)
        if study.problems:  # found after the study was routed
            raise IntegrityError(f"the study is held back: {'; '.join(study.problems)}")
        series = study.with_series(row.series_instance_uids)
        return InferenceRequest(
            request_id=row.request_id,
            model=row.model,
            route=row.route,
            priority=row.priority,
            study=study,
            inputs=(ImagingInput(InputRole.CURRENT, series),),
            reasons=row.reasons,
        )

    @staticmethod
    def infer(model: RunningModel, request: InferenceRequest) -> InferenceResult:
        """Ask the model, unless the input is outside its intended use: that is an answer too."""
        reasons = unsuitable_reasons(model.package.card, request.study, request.series)
        if not reasons:
            try:
                answer = model.adapter.infer(request)
            except UnsuitableError as error:
                answer = Unsuitable(request.request_id, error.reasons)
            if isinstance(answer, InferenceResult):
                return answer
            if not isinstance(answer, Unsuitable):
                raise RejectedError("the adapter answers later, which no route allows yet")
            reasons = answer.reasons
        return InferenceResult(
            request_id=request.request_id,
            model=request.model,
            identity=request.study.identity,
            outcome=Outcome.UNSUITABLE,
            reasons=reasons,
        )

    @staticmethod
    def verify(request: InferenceRequest, result: InferenceResult) -> None:
        """The identity gate: patient, study, order, model and images are those of the request.

        Raises:
            IntegrityError: they are not; nothing of the result leaves the hub.
        """
        check_document_identity(request, result)

    def encode(
        self,
        model: RunningModel,
        request: InferenceRequest,
        result: InferenceResult,
        row: RequestRow,
    ) -> tuple[InferenceResult, dict[DocumentKind, Document]]:
        """Make every document that a destination of the request takes.

        A model that was never asked (``unsuitable``) and a route in shadow mode make none.
        """
        wanted = set() if row.shadow or result.outcome is Outcome.UNSUITABLE else self._wanted(row)
        context, clock = self.context(), self.journal.clock
        made: dict[DocumentKind, Document] = {}
        timings = []
        for kind in (k for k in self.encoders if k in wanted):
            begun = clock.now()
            document = self.encoders[kind](request, result, model.package.card, context, made)
            if document is not None:
                made[kind] = document
            timings.append(Timing(f"encode {kind}", (clock.now() - begun).total_seconds()))
        return replace(result, timings=(*result.timings, *timings)), made

    def _wanted(self, row: RequestRow) -> set[DocumentKind]:
        there = [name for name in row.deliver_to if name in self.registry.destinations]
        wanted = {kind for name in there for kind in self.registry.destination(name).documents}
        if wanted & {DocumentKind.FHIR, DocumentKind.ENCAPSULATED_PDF}:
            wanted.add(DocumentKind.PDF)  # it is carried inside them
        return wanted

    def _answer(
        self,
        row: RequestRow,
        request: InferenceRequest,
        result: InferenceResult,
        documents: Mapping[DocumentKind, Document],
    ) -> None:
        """Keep the answer and start its deliveries, all or nothing."""
        stored = {d: self.documents.put(d.content) for d in documents.values()}
        with self.database.write() as connection:
            if not self.requests.finish(connection, row, request, result, stored):
                return
            if row.shadow or result.outcome is Outcome.UNSUITABLE:
                return
            for name in row.deliver_to:
                destination = self.registry.destinations.get(name)
                if destination is None:
                    self._alarm_no_destination(connection, row, name)
                    continue
                for kind in destination.documents:
                    if kind in documents:
                        self.deliveries.start(
                            connection,
                            row,
                            documents[kind],
                            destination=name,
                            queue=delivery_queue(destination.concurrency),
                        )

    def _alarm_no_destination(self, connection: sa.Connection, row: RequestRow, name: str) -> None:
        """A destination that was taken out of the configuration keeps nothing from the others."""
        self.journal.alarm(
            connection,
            "delivery.no-destination",
            f"request:{row.request_id}",
            row.study.study_instance_uid,
            reason=f"destination {name} is not configured any more; it gets no report",
        )

    # --- 7. deliver ------------------------------------------------------------------------

    def run_delivery(self, delivery_id: str) -> None:
        """The job of a delivery: one attempt. What fails for now starts the next one, later."""
        task = self.deliveries.task(delivery_id)
        if task is None:
            return
        try:
            receipt = self.deliver(task)
        except TransientError as error:
            policy = self.registry.destination(task.delivery.destination).retry
            self.deliveries.retry(task, error, policy)
        except (RejectedError, IntegrityError) as error:
            self.deliveries.give_up(task, str(error))
        else:
            self.deliveries.confirm(task, receipt)

    def deliver(self, task: DeliveryTask) -> Receipt:
        """Send once; only the destination's own confirmation counts."""
        delivery = task.delivery
        if task.identity.study_instance_uid != delivery.study_instance_uid:
            raise IntegrityError("the document belongs to another study")
        running = self.registry.destination(delivery.destination)
        document = task.document(self.documents.get(task.sha256))
        return running.destination.deliver(document, delivery.delivery_id)

    # --- faults of the hub itself, reported by the supervisor --------------------------------

    def study_failed(self, argument: str, reason: str) -> None:
        """A study could not be routed: it never looks like "no route matched"."""
        key = _study_key(argument)
        with self.database.write() as connection:
            self.journal.alarm(
                connection,
                "study.not-routed",
                f"study:{key}",
                key.study_instance_uid,
                reason=reason,
            )

    def request_failed(self, request_id: str, reason: str) -> None:
        """An attempt at a request ended in a fault: the next one, or a dead letter, follows."""
        self.requests.fail(request_id, reason)

    def delivery_failed(self, delivery_id: str, reason: str) -> None:
        """An attempt at a delivery ended in a fault: the next one, or a dead letter, follows."""
        task = self.deliveries.task(delivery_id)
        if task is not None:
            policy = self.registry.destination(task.delivery.destination).retry
            self.deliveries.retry(task, TransientError(reason), policy)


def _study_key(argument: str) -> StudyKey:
    uid, _, revision = argument.rpartition("#")
    return StudyKey(uid, int(revision))
