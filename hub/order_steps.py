"""Orders (FHIR Task and ServiceRequest): from what somebody asks for to inference requests.

A durable job looks at what can be done for an order. The study is here: the routes are applied to
it, for the order. It is not: it is fetched, and the order waits; when the study is routed later it
is looked at again. Of measured values the values are gathered and become a case
(docs/adr/0009-values-are-a-case-and-a-case-is-like-a-study.md). From there on everything is as it
is for a rule that matched; the order's state follows its requests (hub/store/order_rows.py).

A job may run again after a crash: each look asks first what is already done, and ends in one
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import sqlalchemy as sa

from hub.domain.coding import Code
from hub.domain.identity import derived_uuid
from hub.domain.model_input import ObservationsInput
from hub.domain.order import Order, OrderState, OrderSubject
from hub.domain.routing import Decision, Incomplete, Match, NoMatch, Route, RouteMode, RouteTrigger
from hub.domain.study import Study, StudyKey
from hub.errors import CaidxError, RejectedError, TransientError
from hub.fetching import ENDPOINT_OF, STUDY_FETCH_SECONDS, Fetching
from hub.identity_gate import order_mismatches
from hub.order_values import OrderValues, RecordRefusedError, current
from hub.ports import Expectation, ExpectationSource, StudyQuery
from hub.store import fetches, instances, observations, order_rows, results, studies
from hub.store.fetches import Fetch, FetchKind, FetchState
from hub.store.knowledge import record_expectation
from hub.store.order_ledger import OrderLedger, limit
from hub.store.order_rows import HUB, Look, OrderRow, look_of, order_job
from hub.store.results import RequestRow
from hub.study_steps import StudySteps

RECORD_WAITS = timedelta(hours=1)
"""For a health record that cannot be asked, where the order names no deadline."""
FAILED_ALARM, MISMATCH_ALARM = "order.failed", "order.mismatched"
NOT_HERE = "the study is not here; it waits until the study arrives"
ARRIVING = "the study is still arriving"
FETCHED = "the study is being fetched"
TOO_LATE = "the study did not arrive in time"
NO_ROUTE = "there is no route that an order may start"
READS_NONE = "no route's model reads measured values"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSteps:
    """Turns orders into requests; every field is shared by the jobs of one process."""

    steps: StudySteps
    """The same parts, for the steps before a model is asked."""
    values: OrderValues

    @property
    def ledger(self) -> OrderLedger:
        """The same parts, for what becomes of orders."""
        return OrderLedger(self.steps.database, self.steps.jobs, self.steps.journal)

    # --- the job ---------------------------------------------------------------------------------

    def run_order(self, argument: str) -> None:
        """The job: one look at what can be done for an order."""
        look = look_of(argument)
        with self.steps.database.read() as connection:
            row = order_rows.get(connection, look.order_id)
        if row is None or row.state not in (OrderState.PLACED, OrderState.WAITING):
            return
        try:
            if row.order.subject is OrderSubject.STUDY:
                self._study(row, look)
            else:
                self._values(row, look)
        except RejectedError as error:
            self.ledger.end(row, OrderState.REJECTED, (str(error),))

    def order_failed(self, argument: str, reason: str) -> None:
        """A look ended in a fault of the hub itself: whoever asked is told, and a person."""
        with self.steps.database.read() as connection:
            row = order_rows.get(connection, look_of(argument).order_id)
        if row is not None:
            self.ledger.end(row, OrderState.FAILED, (reason,), FAILED_ALARM)

    # --- images ----------------------------------------------------------------------------------

    def _study(self, row: OrderRow, look: Look) -> None:
        uid = row.order.study_instance_uid
        with self.steps.database.read() as connection:
            study = _routed_study(connection, uid)
            is_arriving = fetches.is_arriving(connection, uid)
        if study is None and row.state is OrderState.PLACED:
            self._expect(row.order)
        if study is not None and not is_arriving:
            self._ask_about(row, study, look)
        elif self.ledger.is_late(row):
            self.ledger.end(row, OrderState.FAILED, (TOO_LATE, *row.reasons), FAILED_ALARM)
        elif is_arriving:
            self.ledger.wait(row, look, ARRIVING, follow=False)
        else:
            self._fetch(row, look)

    def _expect(self, order: Order) -> None:
        """How many images there will be, where the order says so."""
        number = order.number_of_instances
        if number is None:
            return
        uid, source = order.study_instance_uid, ExpectationSource.ORDER
        expected = Expectation(uid, source, number_of_instances=number)
        with self.steps.database.write() as connection:
            record_expectation(connection, self.steps.journal, expected)

    def _ask_about(self, row: OrderRow, study: Study, look: Look) -> None:
        with self.steps.database.read() as connection:
            patient = current(connection, study.patient)
            identity = replace(study.identity, patient=patient)
            problems = order_mismatches(connection, row.order, identity)
        if problems:
            reason = f"the study is not what the order names: {', '.join(problems)}"
            self.ledger.end(row, OrderState.REJECTED, (reason,), MISMATCH_ALARM)
            return
        chosen = self._routes(row.order)
        decided = [(route, self.steps.decide(route, study)) for route in chosen]
        with self.steps.database.write() as connection:
            if studies.state_of(connection, study.key) != studies.ROUTED:  # asked again just now
                self.ledger.put_off(connection, row, look, ARRIVING, follow=False)
                return
            results.lock_requests(connection, study.study_instance_uid)
            self._settle(connection, row, study, decided, look)

    def _routes(self, order: Order) -> tuple[Route, ...]:
        """The one that it names, or every one that makes reports.

        Raises:
            RejectedError: there is none of this name.
        """
        if not order.route:
            return tuple(r for r in self.steps.routes if r.mode is RouteMode.ACTIVE)
        found = tuple(r for r in self.steps.routes if r.name == order.route)
        if not found:
            raise RejectedError(f"there is no route {order.route}")
        return found

    def _settle(
        self,
        connection: sa.Connection,
        row: OrderRow,
        study: Study,
        decided: Sequence[tuple[Route, Decision]],
        look: Look,
    ) -> None:
        """Keep every route's answer and make the requests, in the caller's transaction."""
        order, journal = row.order, self.steps.journal
        now = self.ledger.open_row(connection, order.order_id)
        if now is None:
            return
        for route, answer in decided:
            decision = answer
            if isinstance(answer, Match):
                decision = self._request(connection, order, study, route, answer)
            studies.decide_again(connection, study.key, decision, journal.clock.now())
            self.steps.alarm_if_broken(connection, study.key, decision)
        answers = [answer for _, answer in decided]
        if any(isinstance(answer, Match) for answer in answers):
            order_rows.change(connection, journal, now, OrderState.IN_PROGRESS)
            asked = order_rows.requests_of(connection, order.order_id)
            now = replace(now, state=OrderState.IN_PROGRESS, reasons=())
            order_rows.change(connection, journal, now, *order_rows.state_now(now, asked))
            return
        reasons = tuple(f"{a.route}: {text}" for a in answers for text in a.reasons)
        if any(isinstance(answer, Incomplete) for answer in answers):
            self.ledger.put_off(connection, now, look, "; ".join(reasons), follow=False)
        elif all(isinstance(answer, NoMatch) for answer in answers):
            told = reasons or (NO_ROUTE,)
            order_rows.change(connection, journal, now, OrderState.REJECTED, told)
        else:  # a rule is broken, or a model does not run: a person was told
            order_rows.change(connection, journal, now, OrderState.FAILED, reasons)

    def _request(
        self, connection: sa.Connection, order: Order, study: Study, route: Route, match: Match
    ) -> Decision:
        """Ask, or take the request that stands for the same question."""
        again = study.is_case and study.key.revision > 1
        request = self.steps.request(study, route, match, order, again=again)
        stands = self.steps.what_stands(connection, route, request)
        if stands is not None:
            order_rows.link(connection, order.order_id, stands.request_id)
            return replace(match, reasons=(*match.reasons, stands.reason))
        self._create(connection, request)
        return match

    def _create(self, connection: sa.Connection, request: RequestRow) -> None:
        self.steps.create(connection, request)
        self.steps.requests.reopen(connection, request.request_id)  # if it had failed

    # --- having images sent ----------------------------------------------------------------------

    def _fetch(self, row: OrderRow, look: Look) -> None:
        order, fetching = row.order, self.steps.fetching
        fetch_id = str(derived_uuid("fetch", "order", order.order_id))
        with self.steps.database.read() as connection:
            begun = next(
                (
                    one
                    for one in fetches.of_study(connection, order.study_instance_uid)
                    if one.fetch_id == fetch_id
                ),
                None,
            )
        if begun is None:
            silent: list[str] = []
            name = None if fetching is None else self._place_of(order, fetching, silent)
            if fetching is None or name is None:
                follow = fetching is not None and bool(fetching.archives)
                self.ledger.wait(row, look, "; ".join((NOT_HERE, *silent)), follow=follow)
            else:
                self._start_fetch(row, look, fetching, fetch_id, name)
        elif begun.state in (FetchState.RUNNING, FetchState.DONE):
            self.ledger.wait(row, look, FETCHED, follow=False)
        else:  # a person was told
            reason = f"the study could not be fetched: {begun.detail}"
            self.ledger.end(row, OrderState.FAILED, (reason,))

    @staticmethod
    def _place_of(order: Order, fetching: Fetching, silent: list[str]) -> str | None:
        """Who is asked to send the study; None: nobody says that he has it. Those who could not be
        asked are added to ``silent``; they are asked again at the next look."""
        if order.endpoint:
            base = order.endpoint.rstrip("/")
            for name, url in fetching.urls.items():
                if base == url or base.startswith(f"{url}/"):
                    return name
            return f"{ENDPOINT_OF}{order.order_id}"
        for name, archive in fetching.archives.items():
            query = StudyQuery(study_instance_uid=order.study_instance_uid)
            try:
                if archive.find_studies(query, 1):
                    return name
            except CaidxError as error:
                silent.append(f"archive {name} could not be asked: {error}")
        return None

    def _start_fetch(
        self, row: OrderRow, look: Look, fetching: Fetching, fetch_id: str, archive: str
    ) -> None:
        now = self.steps.journal.clock.now()
        fetch = Fetch(
            fetch_id=fetch_id,
            study_instance_uid=row.order.study_instance_uid,
            kind=FetchKind.STUDY,
            archive=archive,
            asked_at=now,
            deadline_at=min(limit(row), now + timedelta(seconds=STUDY_FETCH_SECONDS)),
        )
        with self.steps.database.write() as connection:
            if self.ledger.put_off(connection, row, look, FETCHED, follow=False):
                fetching.start(connection, fetch)

    # --- measured values -------------------------------------------------------------------------

    def _values(self, row: OrderRow, look: Look) -> None:
        order, begun = row.order, self.steps.journal.clock.now()
        with self.steps.database.read() as connection:
            study = self._case_now(connection, order)
        routes = self._routes_of_values(order)
        if study is None:
            study = self._case(row, look, routes)
        if study is None:
            return
        decided = [(route, self.steps.decide(route, study)) for route in routes]
        with self.steps.database.write() as connection:
            results.lock_requests(connection, order.study_instance_uid)
            if self.ledger.open_row(connection, order.order_id) is None:
                return  # another look was faster, or it was taken back
            # Whoever corrects a value that no case holds yet leaves it to us.
            if self.values.corrected(connection, study.observations, begun) != study.observations:
                self.steps.jobs.enqueue(connection, order_job(order))
                return
            self._keep_case(connection, row, study)
            self._settle(connection, row, study, decided, look)

    def _case_now(self, connection: sa.Connection, order: Order) -> Study | None:
        """The case of an order, with the values as they are now: a further revision where one was
        corrected; None where there is none."""
        key = observations.latest_case(connection, order.study_instance_uid)
        if key is None:
            return None
        study = instances.load_study(connection, key)
        made_at = observations.made_at(connection, key)
        found = self.values.corrected(connection, study.observations, made_at)
        if found == study.observations:
            return study
        later = StudyKey(study.study_instance_uid, key.revision + 1)
        return replace(study, key=later, observations=found)

    def _case(self, row: OrderRow, look: Look, routes: Sequence[Route]) -> Study | None:
        """Gather the values; None where they have to be waited for, or nobody wants them."""
        order = row.order
        codes = self._codes(routes)
        if order.source == HUB and not routes:
            self.ledger.drop(order)
            return None
        unknown = [route for route in routes if self.steps.card(route) is None]
        if not codes and unknown:
            self._tell_unreadable(row, unknown)
            return None
        if not codes:
            self.ledger.end(row, OrderState.REJECTED, (READS_NONE,))
            return None
        try:
            gathered = self.values.gather(order, codes)
        except RecordRefusedError as error:
            self.ledger.end(row, OrderState.FAILED, (str(error),), FAILED_ALARM)
            return None
        except TransientError as error:
            if self.ledger.is_late(row, RECORD_WAITS):
                self.ledger.end(row, OrderState.FAILED, (str(error),), FAILED_ALARM)
            else:
                self.ledger.wait(row, look, str(error), follow=True, within=RECORD_WAITS)
            return None
        return instances.case_study(
            StudyKey(order.study_instance_uid, 1),
            gathered.patient,
            gathered.values,
            accession_number=(order.accession_number, order.issuer_of_accession_number),
            source=order.observations[0].source if order.source == HUB else order.source,
            at=order.ordered_at,
        )

    def _tell_unreadable(self, row: OrderRow, routes: Sequence[Route]) -> None:
        """Nobody knows what their models read: that is no reason to say that they read nothing."""
        broken = [self.steps.unable(route) for route in routes]
        reasons = tuple(f"{one.route}: {text}" for one in broken for text in one.reasons)
        self.ledger.end(row, OrderState.FAILED, reasons)
        key = StudyKey(row.order.study_instance_uid, 1)
        with self.steps.database.write() as connection:
            for one in broken:
                self.steps.alarm_if_broken(connection, key, one)

    def _routes_of_values(self, order: Order) -> tuple[Route, ...]:
        """Those whose model reads values; nobody knows it of one whose package cannot be read."""
        return tuple(
            route
            for route in self._routes(order)
            if order.route
            or (
                self.steps.reads_values(route) is not False
                and (order.source != HUB or self._is_wanted(route, order))
            )
        )

    def _is_wanted(self, route: Route, order: Order) -> bool:
        """Of values that nobody asked about: the route waits for such ones."""
        codes = self._codes((route,))
        is_there = not codes or any(value.has(codes) for value in order.observations)
        return route.trigger is RouteTrigger.ARRIVAL and is_there

    def _codes(self, routes: Sequence[Route]) -> tuple[Code, ...]:
        cards = (self.steps.card(route) for route in routes)
        inputs = (card.input for card in cards if card is not None)
        specs = (s for i in inputs if isinstance(i, ObservationsInput) for s in i.observations)
        return tuple(dict.fromkeys(code for spec in specs for code in spec.codes))

    def _keep_case(self, connection: sa.Connection, row: OrderRow, study: Study) -> None:
        """Record the case, unless this revision of it is on record."""
        if observations.case_of(connection, study.key) is None:
            now = self.steps.journal.clock.now()
            observations.add_case(connection, study, now, studies.ROUTED)
            self.steps.journal.record(
                connection,
                "case.made",
                f"study:{study.key}",
                study.study_instance_uid,
                order=row.order.order_id,
                observations=[value.observation_id for value in study.observations],
            )
        studies.set_routed(connection, study.key)


def _routed_study(connection: sa.Connection, uid: str) -> Study | None:
    """The last whole revision that the rules were applied to and whose images are here."""
    key = studies.latest_whole_revision(connection, uid)
    if key is None or studies.state_of(connection, key) != studies.ROUTED:
        return None
    try:
        return instances.load_study(connection, key)
    except RejectedError:  # they were deleted
        return None
