"""The path of one study through the hub.

1. receive   - a source stores each object durably, then (and only then) acknowledges it
               (hub/store/reception.py, in the receiver's process).
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
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hub.asking import (
    answer_within,
    asked,
    must_be_in_time,
    tell_abandoned,
    with_chosen_values,
)
from hub.corrections import Corrections, PreparedReport
from hub.critical_alerts import CriticalAlerts, rules_of
from hub.domain.critical import marked
from hub.domain.delivery import DocumentKind, Receipt, RetryPolicy
from hub.domain.inference import (
    Deferred,
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    Input,
    InputRole,
    ModelKey,
    ObservationInput,
)
from hub.domain.model_card import ModelCard
from hub.domain.priors import foreign_priors
from hub.domain.routing import Route
from hub.errors import CaidxError, IntegrityError, RejectedError, TransientError
from hub.fetching import Fetching
from hub.formats.encoding import Encoder, EncodingContext
from hub.formats.record import Record
from hub.identity_gate import IdentityGate, PatientChangedError, Verified, record_followed
from hub.ports import Confirming, Destination, Jobs
from hub.prior_steps import PriorSteps, prior_notes
from hub.registry import Registry, RunningDestination, RunningModel
from hub.report_steps import SHOWN, ReportMaker, groups_of
from hub.store import instances, order_rows, registrations, results
from hub.store.abandoning import AbandonLedger
from hub.store.database import Database
from hub.store.deferred import DeferredAnswer
from hub.store.deliveries import DeliveryTask
from hub.store.delivery_ledger import IN_TURN, DeliveryLedger
from hub.store.documents import DocumentStore
from hub.store.journal import Journal
from hub.store.quarantine import Quarantine
from hub.store.report_ledger import ReportLedger
from hub.store.request_ledger import RequestLedger
from hub.store.results import RequestRow, RequestState
from hub.store.series_progress import SeriesTimes, SeriesWatch
from hub.study_steps import StudySteps, study_key


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
    series_times: SeriesTimes = field(default_factory=SeriesTimes)
    series_watch: SeriesWatch = field(default_factory=SeriesWatch)
    indexed_until: Callable[[], datetime] | None = None
    fetching: Fetching | None = None
    priors: PriorSteps | None = None
    unique_accession_numbers: bool = True
    """`IdentityGate.unique_accession_numbers`"""
    shows_reports: bool = False
    """`ReportMaker.shows_reports`"""

    # --- 2. and 3. complete, route -----------------------------------------------------------

    @property
    def study_steps(self) -> StudySteps:
        """The same parts, for the steps before a model is asked."""
        return StudySteps(
            database=self.database,
            jobs=self.jobs,
            journal=self.journal,
            requests=self.requests,
            registry=self.registry.snapshot(),
            routes=self.routes,
            series_times=self.series_times,
            series_watch=self.series_watch,
            indexed_until=self.indexed_until,
            fetching=self.fetching,
            priors=self.priors,
        )

    def complete_due_studies(self) -> int:
        """Close every study whose evidence says that it is complete; returns how many."""
        return self.study_steps.complete_due_studies()

    def route_priors_sent_for_themselves(self) -> int:
        """Have the routes applied to priors that were sent for themselves since; returns to how
        many."""
        return self.study_steps.route_priors_sent_for_themselves()

    @property
    def encoders_in_use(self) -> Mapping[DocumentKind, Encoder]:
        """Those of the documents that any destination gets, and of the record."""
        wanted = self.reports.wanted(self.registry.destinations)
        if self.shows_reports:
            wanted[SHOWN] = (DocumentKind.FHIR,)
        kinds = frozenset({DocumentKind.RECORD}).union(*(g.kinds for g in groups_of(wanted)))
        return {kind: encode for kind, encode in self.encoders.items() if kind in kinds}

    @property
    def reports(self) -> ReportMaker:
        """The same parts, for making and sending documents."""
        return ReportMaker(
            encoders=self.encoders,
            context=self.context,
            clock=self.journal.clock,
            documents=self.documents,
            deliveries=self.deliveries,
            registry=self.registry,
            journal=self.journal,
            shows_reports=self.shows_reports,
        )

    @property
    def gate(self) -> IdentityGate:
        """What stands before encoding and before each delivery."""
        return IdentityGate(
            database=self.database, unique_accession_numbers=self.unique_accession_numbers
        )

    @property
    def corrections(self) -> Corrections:
        """The same parts, for every version of a report."""
        return Corrections(
            database=self.database,
            maker=self.reports,
            ledger=ReportLedger(self.database, self.jobs, self.journal),
            routes=self.routes,
        )

    @property
    def starts_with_series(self) -> bool:
        """Whether ``start_complete_series`` ever has anything to do."""
        return self.study_steps.starts_with_series

    def start_complete_series(self) -> int:
        """Begin early where a route starts with a series; returns with how many studies."""
        return self.study_steps.start_complete_series()

    def run_study(self, argument: str) -> None:
        """The job of a study revision: apply every route, record every answer."""
        self.catch_up()
        self.study_steps.route(study_key(argument))

    def catch_up(self) -> None:
        """Have every route's model run here that was activated by now.

        Raises:
            TransientError: the database cannot be reached.
        """
        self.registry.catch_up(route.model for route in self.routes)

    # --- 4 to 6. infer, verify, encode -----------------------------------------------------

    def run_request(self, argument: str) -> None:
        """The job of an inference request: one attempt, or one question after an answer that comes
        later."""
        request_id, _, question = argument.partition(" ")
        row = self.requests.begin(request_id, question, self._answer_within)
        if row is None:
            return
        try:
            model = self._pinned_model(row)
            request = with_chosen_values(model.package.card, self._inference_request(row))
            must_be_in_time(row, self.journal.clock.now())
        except TransientError as error:
            self.requests.retry(row, error)
        except IntegrityError as error:  # here and below: who works on an answer is told
            self._quarantine(row, str(error), None, abandons=True)
        except RejectedError as error:
            self.requests.end(row, RequestState.FAILED, str(error), abandons=True)
        else:
            self._ask(row, model, request)

    def _ask(self, row: RequestRow, model: RunningModel, request: InferenceRequest) -> None:
        """Ask, and go on with what is said, whatever it is."""
        answer: Record | None = None
        try:
            said = self.infer(model, request, row.deferred)
            if isinstance(said, Deferred):
                self.requests.wait(row, said)
                return
            result = self._noting_priors(said, row)
            result = self._marking_critical(result, row, model.package.card)
            answer = Record(request, result, model.package.card)
            verified = self.verify(request, result, model.package.card)
            report = self.encode(model, verified.request, verified.result, row)
            self._answer(row, verified, report)
        except TransientError as error:
            self.requests.retry(row, error)
        except IntegrityError as error:
            self._quarantine(row, str(error), answer)
        except RejectedError as error:
            self.requests.end(row, RequestState.FAILED, str(error))

    def run_abandon(self, argument: str) -> None:
        """The job that tells a vendor that nobody waits for its answer any more."""
        tell_abandoned(self.registry, self._abandoned, argument)

    @property
    def _abandoned(self) -> AbandonLedger:
        return AbandonLedger(self.database, self.jobs, self.journal)

    def _answer_within(self, row: RequestRow) -> timedelta | None:
        try:
            return answer_within(self.registry.pinned(row.model).package.card)
        except CaidxError:  # it cannot be asked, which is said a moment later
            return None

    def _pinned_model(self, row: RequestRow) -> RunningModel:
        """The version that the request is pinned to, unless a person has suspended it: the database
        is asked each time, so that nothing begins after that."""
        with self.database.read() as connection:
            refused = registrations.why_not_asked(connection, row.model)
        if refused:
            reason = f"the model {row.model} was not asked: {refused}"
            raise RejectedError(f"{reason}; `caidx request retry` asks again once it is active")
        return self.registry.pinned(row.model)

    def _still_active(self, model: ModelKey) -> None:
        """An answer that comes after its model was suspended is for a person to decide on.

        Raises:
            IntegrityError: it was.
        """
        with self.database.read() as connection:
            refused = registrations.why_not_asked(connection, model)
        if refused:
            raise IntegrityError(f"while the model {model} worked, it was stopped: {refused}")

    def _inference_request(self, row: RequestRow) -> InferenceRequest:
        with self.database.read() as connection:
            study = instances.load_study(connection, row.study)
            amends = results.amended_revision(connection, row)
            priors = self.priors.inputs(connection, row, study) if self.priors else ()
            ordered = order_rows.get(connection, row.order_id) if row.order_id else None
        if study.problems:  # found after the study was routed
            raise IntegrityError(f"the study is held back: {'; '.join(study.problems)}")
        current: Input = ImagingInput(
            InputRole.CURRENT, study.with_series(row.series_instance_uids)
        )
        if study.is_case:
            current = ObservationInput(InputRole.CURRENT, study.observations)
        request = InferenceRequest(
            request_id=row.request_id,
            model=row.model,
            route=row.route,
            priority=row.priority,
            study=study,
            inputs=(current, *priors),
            reasons=row.reasons,
            deadline=row.deadline_at,
            amends_revision=amends,
            order_id=row.order_id,
            based_on=() if ordered is None else ordered.order.based_on,
        )
        problems = foreign_priors(request)
        if problems:  # before the model sees them, too
            raise IntegrityError(f"the input holds {', '.join(problems)}")
        return request

    @staticmethod
    def _noting_priors(result: InferenceResult, row: RequestRow) -> InferenceResult:
        return replace(result, warnings=(*result.warnings, *prior_notes(row)))

    @staticmethod
    def infer(
        model: RunningModel, request: InferenceRequest, held: DeferredAnswer | None = None
    ) -> InferenceResult | Deferred:
        """Ask the model, unless the input is outside its intended use: that is an answer too. One
        that said that it answers later (``held``) is asked after its answer."""
        return asked(model, request, held)

    def _marking_critical(
        self, result: InferenceResult, row: RequestRow, card: ModelCard
    ) -> InferenceResult:
        rules = rules_of(self.routes, row.route, card)
        return replace(result, findings=marked(result.findings, rules))

    def verify(
        self, request: InferenceRequest, result: InferenceResult, card: ModelCard
    ) -> Verified:
        """The identity gate: patient, study, order, model and images are those of the request,
        and it could be true of them. A patient who was renamed or merged since is followed.

        Raises:
            IntegrityError: they are not, or the model was suspended meanwhile; nothing of the
                result leaves the hub.
        """
        self._still_active(request.model)
        return self.gate.verify(request, result, card)

    def _quarantine(
        self, row: RequestRow, reason: str, answer: Record | None, *, abandons: bool = False
    ) -> None:
        """Nothing of it is sent; what was answered is kept for the person who decides."""
        quarantine = Quarantine(self.database, self.documents, self.jobs, self.journal)
        kept = None if answer is None else quarantine.filed(answer)
        with self.database.write() as connection:
            is_now = self.requests.quarantine(connection, row, reason, abandons=abandons)
            if is_now and kept is not None:
                results.add_documents(connection, [kept])

    def encode(
        self,
        model: RunningModel,
        request: InferenceRequest,
        result: InferenceResult,
        row: RequestRow,
    ) -> PreparedReport:
        """Make every document that a destination of the request takes, and the record.

        A route in shadow mode makes only the record.
        """
        return self.corrections.prepare(row, request, result, model.package.card)

    def _answer(
        self,
        row: RequestRow,
        verified: Verified,
        report: PreparedReport,
    ) -> None:
        """Keep the answer and start its deliveries, all or nothing."""
        request, result = verified.request, verified.result
        result = replace(result, timings=(*result.timings, *report.timings))
        critical = CriticalAlerts(self.reports, self.routes)
        with self.database.write() as connection:
            self.deliveries.lock(connection, row.study.study_instance_uid)
            if self.requests.finish(connection, row, request, result, report.digests):
                record_followed(connection, self.journal, row, verified)
                made, priority = critical.send(
                    connection, row, request, result, report.made, version=report.row.version
                )
                report = replace(report, made=made, priority=priority)
                self.corrections.keep(connection, row, report)

    def run_report(self, argument: str) -> None:
        """The job of a further version of a report: it was changed, withdrawn, or never came."""
        self.corrections.run_report(argument)

    # --- 7. deliver ------------------------------------------------------------------------

    def run_delivery(self, argument: str) -> None:
        """The job of a delivery: one attempt, or one question whether it is kept. What fails for
        now starts the next one, later."""
        delivery_id, _, mark = argument.partition(" ")
        task = self.deliveries.task(delivery_id)
        if task is None or self.deliveries.supersede(task):
            return
        try:
            running = self.registry.destination(task.delivery.destination)
            if task.awaiting:
                self._confirm(task, running)
                return
            if mark != IN_TURN and self.deliveries.wait_for_turn(task, running.rate_per_minute):
                return
            receipt = self.deliver(task, running.destination)
        except TransientError as error:
            self.deliveries.retry(task, error, self._retry_policy(task))
        except PatientChangedError as error:
            self._follow_patient(task, str(error))
        except IntegrityError as error:
            self.deliveries.quarantine(task, str(error))
        except RejectedError as error:
            self.deliveries.give_up(task, str(error))
        else:
            self.deliveries.taken(task, receipt)

    def _follow_patient(self, task: DeliveryTask, reason: str) -> None:
        try:
            self.corrections.ask_for_current_patient(task, reason)
        except IntegrityError as error:
            self.deliveries.quarantine(task, str(error))
        else:
            self.deliveries.not_sent(task, reason)

    def deliver(self, task: DeliveryTask, destination: Destination) -> Receipt:
        """Send once, after the identity gate; only the destination's own confirmation counts."""
        document = task.document(self._content(task))
        self.gate.check_delivery(task, document)
        return destination.deliver(document, task.delivery.delivery_id)

    def _content(self, task: DeliveryTask) -> bytes:
        """The document's bytes. A person mends a file that was lost or damaged, and sends it
        again.

        Raises:
            RejectedError: it was.
        """
        try:
            return self.documents.get(task.sha256)
        except IntegrityError as error:
            raise RejectedError(str(error)) from error

    def _confirm(self, task: DeliveryTask, running: RunningDestination) -> None:
        """Ask a destination whether it keeps what it took."""
        destination = running.destination
        if not isinstance(destination, Confirming):  # it was configured so when it was sent
            self.deliveries.taken(task, Receipt("taken; nothing confirms it any more"))
            return
        document = task.document(self._content(task))
        try:
            receipt = destination.confirm(document, task.awaiting)
        except TransientError as error:
            self.deliveries.ask_later(task, str(error), running.retry)
        except RejectedError as error:  # it has to be sent again
            self.deliveries.retry(task, TransientError(str(error)), running.retry)
        else:
            self.deliveries.taken(task, receipt)

    def _retry_policy(self, task: DeliveryTask) -> RetryPolicy:
        return self.registry.destination(task.delivery.destination).retry

    # --- faults of the hub itself, reported by the supervisor --------------------------------

    def study_failed(self, argument: str, reason: str) -> None:
        """A study could not be routed: it never looks like "no route matched"."""
        key = study_key(argument)
        with self.database.write() as connection:
            self.journal.alarm(
                connection,
                "study.not-routed",
                f"study:{key}",
                key.study_instance_uid,
                reason=f"{reason}; `caidx study route` applies the rules again",
            )

    def request_failed(self, argument: str, reason: str) -> None:
        """An attempt at a request ended in a fault: the next one, or a dead letter, follows."""
        self.requests.fail(argument.partition(" ")[0], reason)

    def abandon_failed(self, argument: str, reason: str) -> None:
        """A vendor could not be told that nobody waits: it is told again, or never."""
        one = self._abandoned.begin(argument)
        if one is not None:
            self._abandoned.failed(one, reason)

    def report_failed(self, argument: str, reason: str) -> None:
        """A further version of a report could not be made: a person is told."""
        self.corrections.report_failed(argument, reason)

    def delivery_failed(self, argument: str, reason: str) -> None:
        """An attempt at a delivery ended in a fault: the next one, or a dead letter, follows."""
        task = self.deliveries.task(argument.partition(" ")[0])
        if task is None:
            return
        try:
            policy = self._retry_policy(task)
        except RejectedError as error:  # it is not configured any more
            self.deliveries.give_up(task, str(error))
        else:
            self.deliveries.retry(task, TransientError(reason), policy)
