"""Steps 2 and 3 of the path of a study (hub.pipeline): when it is complete, and who is asked.

Usually both happen once, when the evidence says that the whole study is there. A route that starts
with a series is asked as soon as one is complete; whatever comes late makes a new revision, about
which a route asks only where its model would be given something else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from hub.domain.identity import request_id_for
from hub.domain.inference import Outcome, input_digest
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.domain.model_runtime import OnnxRuntime, Runtime
from hub.domain.order import Order, OrderState
from hub.domain.routing import (
    Decision,
    Incomplete,
    LateImages,
    Match,
    NoMatch,
    Route,
    RouteMode,
    RouteStart,
    RouteTrigger,
    RuleError,
    Suspended,
    match,
)
from hub.domain.study import Study, StudyKey
from hub.errors import RejectedError
from hub.fetching import Fetching
from hub.ports import Job, Jobs
from hub.prior_steps import PriorSteps
from hub.registry import Registry
from hub.store import fetches, instances, order_rows, results, series_progress, studies
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.request_ledger import RequestLedger
from hub.store.results import RequestRow, RequestState
from hub.store.series_progress import OpenStudy, SeriesTimes, SeriesWatch

STUDY_JOB, STUDY_QUEUE = "study", "studies"
ORDERS_ONLY = "it is applied where an order asks for it"
NO_IMAGES = "its model reads images, and there are none"
NO_VALUES = "its model reads measured values, not images"
_DUE_AT_ONCE = 100


def inference_queue(runtime: Runtime) -> str:
    """Models with the same limit share a queue; each is a line of its own in it. Those that run
    elsewhere have queues of their own: one whose server hangs keeps nobody from this processor."""
    where = "inference" if isinstance(runtime, OnnxRuntime) else "remote"
    return f"{where}-{runtime.concurrency}"


@dataclass(frozen=True, slots=True)
class Standing:
    """An earlier request whose answer stands for the same question."""

    request_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySteps:
    """Completes studies and applies the routes to them."""

    database: Database
    jobs: Jobs
    journal: Journal
    requests: RequestLedger
    registry: Registry
    routes: tuple[Route, ...]
    series_times: SeriesTimes = field(default_factory=SeriesTimes)
    series_watch: SeriesWatch = field(default_factory=SeriesWatch)
    indexed_until: Callable[[], datetime] | None = None
    """`hub.store.index_mark.IndexMark.get`: silence counts only as far as the index goes."""
    fetching: Fetching | None = None
    priors: PriorSteps | None = None

    def _moment(self) -> datetime:
        """Everything that was received before it is in the index."""
        now = self.journal.clock.now()
        return now if self.indexed_until is None else min(now, self.indexed_until())

    # --- 2. complete ---------------------------------------------------------------------

    def complete_due_studies(self) -> int:
        """Close every study whose evidence says that it is complete; returns how many."""
        with self.database.read() as connection:
            due = studies.due(connection, self._moment(), _DUE_AT_ONCE)
        return sum(self.complete(key) for key in due)

    def complete(self, key: StudyKey) -> bool:
        """Close one revision and start its job; False when it is not due any more."""
        with self.database.write() as connection:
            # What was said in the moment when the first image was indexed, neither side saw.
            studies.apply_expectations(connection, key.study_instance_uid, self._moment())
            if self.fetching is not None and self.fetching.fetch_missing(connection, key):
                return False
            if not studies.complete(connection, key, self._moment()):
                return False
            self.jobs.enqueue(connection, study_job(key))
            self._record_completed(connection, key)
        return True

    def _record_completed(self, connection: sa.Connection, key: StudyKey) -> None:
        self.journal.record(
            connection,
            "study.completed",
            f"study:{key}",
            key.study_instance_uid,
            because=studies.evidence_of(connection, key)
            | {"series": series_progress.complete_series_of(connection, key)},
        )

    @property
    def starts_with_series(self) -> bool:
        """Whether a route does, so that ``start_complete_series`` has anything to do."""
        return bool(self._routes_that_start(RouteStart.SERIES))

    def start_complete_series(self) -> int:
        """Begin with studies that are still arriving, where a series is complete that a route
        starts with; returns how many. Costs nothing where no route does."""
        if not self.starts_with_series:
            return 0
        now, watch = self._moment(), self.series_watch
        with self.database.read() as connection:
            receiving = series_progress.open_studies(connection, now)
        watch.keep({study.key for study in receiving})
        return sum(self._start_series(study) for study in receiving)

    def _start_series(self, found: OpenStudy) -> bool:
        """Close the running revision early if a route would ask something new about it."""
        key, now = found.key, self._moment()
        with self.database.read() as connection:
            complete = series_progress.complete_series(
                connection, key.study_instance_uid, now, self.series_times
            )
            if not self.series_watch.is_news(key, complete):
                return False
            study = instances.load_study(connection, key)
            wanted = any(
                self._asks_early(connection, route, study, complete)
                for route in self._routes_that_start(RouteStart.SERIES)
            )
        if not wanted:
            self.series_watch.judged(key, complete)
            return False
        with self.database.write() as connection:
            if not series_progress.close_early(connection, found, complete, now):
                return False  # an image came in between: at the next turn
            self.jobs.enqueue(connection, study_job(key))
            self._record_completed(connection, key)
        return True

    def _asks_early(
        self, connection: sa.Connection, route: Route, study: Study, complete: Mapping[str, str]
    ) -> bool:
        """Once for the same series: what comes late of them is for the whole study's revision."""
        decision = match(route, study, complete)
        if not isinstance(decision, Match):
            return False
        chosen = set(decision.series_instance_uids)
        earlier = results.earlier_requests(connection, study.study_instance_uid, route.name)
        return not any(e.stands and chosen <= set(e.series_instance_uids) for e in earlier)

    def _routes_that_start(self, start: RouteStart) -> tuple[Route, ...]:
        return tuple(
            route
            for route in self.routes
            if route.start is start and route.trigger is RouteTrigger.ARRIVAL
        )

    def route_priors_sent_for_themselves(self) -> int:
        """Have the routes applied to studies that came as priors first, and that were then sent
        by whoever sends studies to be analysed: all of it is there, so no revision opens.
        Returns to how many."""
        if self.fetching is None or not self.fetching.archives:
            return 0
        senders = self.fetching.senders
        with self.database.read() as connection:
            sent = fetches.priors_sent_for_themselves(connection, senders, _DUE_AT_ONCE)
        rerouting = Rerouting(self.database, self.jobs, self.journal)
        return sum(rerouting.of_a_prior(uid) for uid in sent)

    # --- 3. route ------------------------------------------------------------------------

    def route(self, key: StudyKey) -> None:
        """Turn a complete study into inference requests.

        Raises:
            RejectedError: its images were deleted.
        """
        with self.database.read() as connection:
            study = instances.load_study(connection, key)
            series = series_progress.complete_series_of(connection, key)
            is_prior = fetches.was_fetched_as_prior(connection, key)
            ordered = self._ordered_before(connection, key)
        if study.is_case:
            self._ask_order_again(key)
            return
        routes = self.routes if series is None else self._routes_that_start(RouteStart.SERIES)
        decisions: list[Decision] = [
            NoMatch(route.name, (fetches.PRIOR_REASON,))
            if is_prior
            else NoMatch(route.name, (ORDERS_ONLY,))
            if route.trigger is RouteTrigger.ORDER and route.name not in ordered
            else self.decide(route, study, series)
            for route in routes
        ]
        with self.database.write() as connection:
            if studies.state_of(connection, key) != studies.COMPLETE:
                return  # routed before a crash
            requests = []
            for position, (route, decision) in enumerate(zip(routes, decisions, strict=True)):
                if isinstance(decision, Match):
                    order = ordered.get(route.name)
                    request = self.request(study, route, decision, order, again=True)
                    stands = self.what_stands(connection, route, request)
                    if stands is not None:
                        reasons = (*decision.reasons, stands.reason)
                        decisions[position] = replace(decision, reasons=reasons)
                    else:
                        requests.append(request)
            studies.mark_routed(connection, key, decisions, self.journal.clock.now())
            for request in requests:
                self.create(connection, request)
            for decision in decisions:
                self.alarm_if_broken(connection, key, decision)
            order_rows.take_up(connection, self.jobs, key.study_instance_uid)
            self.journal.record(
                connection,
                "study.routed",
                f"study:{key}",
                key.study_instance_uid,
                decisions={d.route: type(d).__name__ for d in decisions},
                requests=[request.request_id for request in requests],
                problems=list(study.problems),
            )

    def _ordered_before(self, connection: sa.Connection, key: StudyKey) -> dict[str, Order]:
        """Routes that are for orders only, and that one has had applied to this study: late images
        are for them, too."""
        found = {
            route.name: order_rows.last_order(connection, key.study_instance_uid, route.name)
            for route in self.routes
            if route.trigger is RouteTrigger.ORDER
        }
        return {name: order for name, order in found.items() if order is not None}

    def _ask_order_again(self, key: StudyKey) -> None:
        """A case is asked about by its order, so it is for the order to apply its routes again."""
        with self.database.write() as connection:
            for row in order_rows.of_study(connection, key.study_instance_uid):
                order_rows.change(connection, self.journal, row, OrderState.PLACED)
                self.jobs.enqueue(connection, order_rows.order_job(row.order))

    def create(self, connection: sa.Connection, request: RequestRow) -> None:
        """Record a request, once, and enqueue its first job."""
        first = None if self.priors is None else self.priors.first_job(request)
        self.requests.create(connection, request, first)
        if request.order_id:
            order_rows.link(connection, request.order_id, request.request_id)

    def reads_values(self, route: Route) -> bool | None:
        """Whether the route's model reads measured values rather than images; None where nobody
        knows: its package cannot be read."""
        card = self.card(route)
        return None if card is None else isinstance(card.input, ObservationsInput)

    def card(self, route: Route) -> ModelCard | None:
        """Of the route's model; None where nobody knows it."""
        running = self.registry.models.get(route.model)
        if running is not None:
            return running.package.card
        cards = (card for key, card in self.registry.cards.items() if key.model_id == route.model)
        return next(cards, None)

    def decide(self, route: Route, study: Study, among: Collection[str] | None = None) -> Decision:
        """The route's answer; a match whose model cannot run is an error, not a silence. A model
        that reads images is never asked about values, nor the other way round."""
        if self.reads_values(route) not in (None, study.is_case):
            return NoMatch(route.name, (NO_IMAGES if study.is_case else NO_VALUES,))
        decision = match(route, study, among)
        reason = self.registry.why_not(route.model)
        if isinstance(decision, Match) and route.model in self.registry.suspended:
            return Suspended(route.name, (f"model {route.model}: {reason}",))
        if isinstance(decision, Match) and reason is not None:
            return self.unable(route)
        return decision

    def unable(self, route: Route) -> RuleError:
        """That the route's model cannot run, and why."""
        reason = self.registry.why_not(route.model)
        return RuleError(route.name, (f"model {route.model} cannot run: {reason}",))

    @staticmethod
    def what_stands(
        connection: sa.Connection, route: Route, request: RequestRow
    ) -> Standing | None:
        """The earlier request because of which this one need not be made; None: there is none."""
        uid = request.study.study_instance_uid
        earlier = [
            e
            for e in results.earlier_requests(connection, uid, route.name)
            if e.stands and e.shadow == request.shadow and e.request_id != request.request_id
        ]
        for one in earlier:
            if one.input_sha256 == request.input_sha256:
                same = "same images" if request.series_instance_uids else "same values"
                reason = f"{same} as revision {one.revision}: its result stands"
                return Standing(one.request_id, reason)
        if route.late_images is LateImages.KEEP:
            for one in earlier:
                if one.outcome is not Outcome.UNSUITABLE:
                    reason = f"late images: the result of revision {one.revision} is kept"
                    return Standing(one.request_id, reason)
        return None

    def request(
        self,
        study: Study,
        route: Route,
        decision: Match,
        order: Order | None = None,
        *,
        again: bool = False,
    ) -> RequestRow:
        """The request, pinned to the model as it is now; of an order the more urgent priority of
        both, and its deadline. ``again``: of late images or a corrected value. What was reported
        has to be amended, however late that is."""
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
            queue=inference_queue(model.card.runtime),
            priority=route.priority if order is None else min(route.priority, order.priority),
            series_instance_uids=decision.series_instance_uids,
            deliver_to=route.deliver_to,
            reasons=decision.reasons,
            state=RequestState.QUEUED,
            attempts=0,
            detail="",
            created_at=self.journal.clock.now(),
            input_sha256=input_digest(
                model.key,
                study.with_series(decision.series_instance_uids),
                study.observations,
            ),
            deadline_at=None if order is None or again else order.deadline,
            order_id="" if order is None else order.order_id,
        )

    def alarm_if_broken(self, connection: sa.Connection, key: StudyKey, decision: Decision) -> None:
        """A rule that cannot be evaluated is never "no match": a person has to mend it. One that
        refuses an incomplete study tells a person that images are missing."""
        if isinstance(decision, RuleError):
            self.journal.alarm(
                connection,
                "route.error",
                f"route:{decision.route}",
                key.study_instance_uid,
                reason="; ".join(decision.reasons),
            )
        if isinstance(decision, Incomplete):
            self.journal.alarm(
                connection,
                "route.incomplete",
                f"study:{key}",
                key.study_instance_uid,
                reason=f"route {decision.route}: {'; '.join(decision.reasons)}",
            )


@dataclass(frozen=True, slots=True)
class Rerouting:
    """A person has the routes applied to a study again, after a rule was mended or added."""

    database: Database
    jobs: Jobs
    journal: Journal

    def again(self, study_instance_uid: str) -> StudyKey:
        """Start it, for the latest revision of the whole study.

        Raises:
            RejectedError: it never arrived, is still being received, or its images were deleted.
        """
        with self.database.write() as connection:
            return self._start(connection, study_instance_uid)

    def of_a_prior(self, study_instance_uid: str) -> bool:
        """As ``again``, once; False where it cannot be, or was begun before."""
        try:
            with self.database.write() as connection:
                if not fetches.ask_for_itself(connection, study_instance_uid):
                    return False
                self._start(connection, study_instance_uid)
        except RejectedError:
            return False  # it arrives again, or was deleted, in this moment
        return True

    def _start(self, connection: sa.Connection, uid: str) -> StudyKey:
        key = studies.latest_whole_revision(connection, uid)
        if key is None:
            raise RejectedError(f"no study {uid} has arrived, or it is still being received")
        instances.load_study(connection, key)  # there are images to look at
        studies.reopen(connection, key)
        fetches.ask_for_itself(connection, uid)
        job = replace(study_job(key), job_id=f"study:{key}:{uuid.uuid4().hex}")
        self.jobs.enqueue(connection, job)
        self.journal.record(connection, "study.routed-again", f"study:{key}", uid)
        return key


def study_job(key: StudyKey) -> Job:
    """The job that applies the routes to a revision."""
    return Job(kind=STUDY_JOB, queue=STUDY_QUEUE, job_id=f"study:{key}", argument=str(key))


def study_key(argument: str) -> StudyKey:
    """The revision that a job is about."""
    uid, _, revision = argument.rpartition("#")
    return StudyKey(uid, int(revision))
