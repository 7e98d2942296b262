"""What sources may ask of the hub (hub.ports.Orders), on the database.

An order, its values and its first job are one transaction: what was acknowledged is worked on, and
what was refused left nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity, derived_uid, derived_uuid
from hub.domain.observation import Observation
from hub.domain.order import OPEN_ORDERS, Order, OrderState, OrderSubject
from hub.domain.routing import RouteMode
from hub.errors import RejectedError
from hub.ports import Jobs, OrderedRequest, PlacedOrder, Taken
from hub.store import (
    abandoning,
    deferred,
    observation_versions,
    observations,
    order_rows,
    results,
)
from hub.store.database import Database, parts, refusing
from hub.store.journal import Journal
from hub.store.observation_versions import Told
from hub.store.observations import Corrections
from hub.store.order_rows import HUB, OrderRow, order_job
from hub.store.request_ledger import ORDER_CANCELLED
from hub.store.results import RequestRow, RequestState
from hub.store.schema_orders import order_requests, orders

PatientKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrders:
    """hub.ports.Orders. Thread-safe."""

    database: Database
    jobs: Callable[[], Jobs]
    """What puts jobs into the transactions; asked for before one."""
    journal: Journal
    """In the name of the source."""
    routes: Mapping[str, RouteMode] = field(default_factory=dict)
    """Name of every configured route -> its mode."""

    # --- what a source sends ---------------------------------------------------------------

    def place(self, order: Order) -> PlacedOrder:
        """As hub.ports.Orders."""
        return self.take([order], (), "").placed[0]

    def observed(self, observations: Sequence[Observation], transaction: str) -> Sequence[str]:
        """As hub.ports.Orders."""
        return self.take((), observations, transaction).new_observations

    def take(
        self, orders: Sequence[Order], observations: Sequence[Observation], transaction: str
    ) -> Taken:
        """As hub.ports.Orders."""
        self.jobs()  # loaded before the transaction, which would wait for it
        told = Told.of(observations)
        # Orders are locked before the audit log, and before anything is said to have come: what
        # comes while a worker makes a case is either in it, or known to be later.
        with refusing(), self.database.write() as connection:
            held = _of_values(connection, {value.patient.key for value in observations})
            new = self._keep(connection, told)
            placed = tuple(self._place(connection, order) for order in orders)
            asked = {o.patient.key for o in orders if o.subject is OrderSubject.OBSERVATIONS}
            left = self._correct(connection, new, held)
            self._ask_for_them(
                connection, [v for v in left if v.patient.key not in asked], transaction
            )
        return Taken(placed=placed, new_observations=tuple(v.observation_id for v in new))

    def _keep(self, connection: sa.Connection, told: Told) -> list[Observation]:
        """Record values; returns those that were new."""
        new = observation_versions.keep(connection, told, self.journal.clock.now())
        if new:
            self.journal.record(
                connection,
                "observations.received",
                f"source:{new[0].source}",
                count=len(told.values),
                observations=[value.observation_id for value in new],
            )
        return new

    def _place(self, connection: sa.Connection, order: Order) -> PlacedOrder:
        if order.subject is OrderSubject.OBSERVATIONS:
            uid = derived_uid("case", order.order_id)
            order = replace(order, study_instance_uid=uid)
        self._check(order)
        if not order_rows.add(connection, [order], self.journal.clock.now()):
            return self._known(connection, order)
        self._keep(connection, Told.of(order.observations))
        self.jobs().enqueue(connection, order_job(order))
        self.journal.record(
            connection,
            "order.placed",
            f"order:{order.order_id}",
            order.study_instance_uid,
            source=order.source,
            subject=order.subject.value,
            route=order.route,
            priority=int(order.priority),
        )
        row = order_rows.get(connection, order.order_id)
        assert row is not None  # noqa: S101 - it was just added
        return replace(_placed(connection, row), is_new=True)

    def _known(self, connection: sa.Connection, order: Order) -> PlacedOrder:
        """The same order again."""
        row = order_rows.get(connection, order.order_id)
        if row is None or _core(row.order) != _core(order):
            raise RejectedError("another order has the same identifiers")
        return _placed(connection, row)

    def _check(self, order: Order) -> None:
        """Raises:
        RejectedError: it can never be.
        """
        if not order.patient.patient_id:
            raise RejectedError("the order names no patient")
        if not order.study_instance_uid:
            raise RejectedError("the order names no study")
        if any(value.patient.key != order.patient.key for value in order.observations):
            raise RejectedError("a value is of another patient than the order")
        if not order.route:
            return
        mode = self.routes.get(order.route)
        if mode is None:
            raise RejectedError(f"there is no route {order.route}")
        if mode is RouteMode.SHADOW:
            raise RejectedError(f"route {order.route} runs in shadow mode: it makes no reports")

    # --- values that nobody asked about ------------------------------------------------------

    def _correct(
        self,
        connection: sa.Connection,
        new: Sequence[Observation],
        held: Sequence[_Held],
    ) -> list[Observation]:
        """Have every case made again of which a value was corrected; returns the other new
        values."""
        said: dict[PatientKey, list[Observation]] = {}
        for value in new:
            said.setdefault(value.patient.key, []).append(value)
        said_now = {key: Corrections.among(values) for key, values in said.items()}
        concerned = [one for one in held if one.patient in said_now]
        cases = observations.latest_cases(connection, [one.study for one in concerned])
        used: set[str] = set()
        for one in concerned:
            now = said_now[one.patient]
            found = (later for old in cases.get(one.study, ()) for later in now.of(old))
            corrected = list(dict.fromkeys(value.observation_id for value in found))
            if corrected:
                used.update(corrected)
                self._look_again(connection, one.order_id, corrected)
        return [value for value in new if value.observation_id not in used]

    def _look_again(
        self, connection: sa.Connection, order_id: str, corrected: Sequence[str]
    ) -> None:
        row = order_rows.get(connection, order_id)
        assert row is not None  # noqa: S101 - its row is locked
        reasons = ("a value was corrected",)
        order_rows.change(
            connection, self.journal, row, OrderState.PLACED, reasons, corrected=corrected
        )
        self.jobs().enqueue(connection, order_job(row.order))

    def _ask_for_them(
        self, connection: sa.Connection, values: Sequence[Observation], transaction: str
    ) -> None:
        """An order of the hub's own for each patient: a worker knows which models read values."""
        by_patient: dict[PatientKey, list[Observation]] = {}
        for value in values:
            by_patient.setdefault(value.patient.key, []).append(value)
        now = self.journal.clock.now()
        asked: dict[str, Order] = {}
        for key, told in by_patient.items():
            parts = ("values", told[0].source, *key, transaction)
            order_id = derived_uuid(*parts, *(v.observation_id for v in told)).hex
            asked[order_id] = Order(
                order_id=order_id,
                source=HUB,
                subject=OrderSubject.OBSERVATIONS,
                patient=told[0].patient,
                study_instance_uid=derived_uid("case", order_id),
                observations=tuple(told),
                ordered_at=now,
            )
        for order_id in order_rows.add(connection, asked.values(), now):
            self.jobs().enqueue(connection, order_job(asked[order_id]))

    # --- what a source asks ----------------------------------------------------------------

    def observations(
        self,
        *,
        observation_id: str = "",
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[Observation]:
        """As hub.ports.Orders."""
        with self.database.read() as connection:
            return observations.search(
                connection,
                observation_id=observation_id,
                patient=patient,
                identifier=identifier,
                limit=limit,
                offset=offset,
            )

    def find(self, order_id: str) -> PlacedOrder | None:
        """As hub.ports.Orders."""
        with self.database.read() as connection:
            row = order_rows.get(connection, order_id)
            return None if row is None else _placed(connection, row)

    def search(
        self,
        *,
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        based_on: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[PlacedOrder]:
        """As hub.ports.Orders; not those that the hub made itself."""
        query = sa.select(orders).where(orders.c.source != HUB)
        if patient is not None:
            query = query.where(orders.c.patient_id == patient.patient_id)
            if patient.issuer_of_patient_id:
                issuer = orders.c.issuer_of_patient_id
                query = query.where(issuer == patient.issuer_of_patient_id)
        if identifier is not None:
            query = query.where(order_rows.found_by(identifier))
        if based_on:
            query = query.where(order_rows.named(based_on))
        query = query.order_by(orders.c.ordered_at.desc(), orders.c.order_id)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(limit).offset(offset)).all()
            return [_placed(connection, order_rows.order_row(row)) for row in rows]

    # --- taking it back --------------------------------------------------------------------

    def cancel(self, order_id: str, reason: str) -> PlacedOrder:
        """As hub.ports.Orders. A model that is being asked answers, and its report is sent; a
        vendor that answers later is told that nobody waits."""
        jobs = self.jobs()  # before the transaction, which would wait for it
        with self.database.write() as connection:
            asked = order_rows.requests_of(connection, order_id)
            for one in asked:  # first, as whoever ends a request does
                results.get_request(connection, one.request_id)
            row = order_rows.get(connection, order_id, lock=True)
            if row is None:
                raise RejectedError(f"there is no order {order_id}")
            asked = order_rows.requests_of(connection, order_id)
            state, _ = order_rows.state_now(row, asked)
            if state not in OPEN_ORDERS:
                raise RejectedError(f"order {order_id} is over: it is {state.value}")
            dropped = [
                one.request_id for one in asked if self._discard(connection, jobs, order_id, one)
            ]
            reasons = (reason,) if reason else ()
            order_rows.change(
                connection, self.journal, row, OrderState.CANCELLED, reasons, discarded=dropped
            )
            found = order_rows.get(connection, order_id)
            assert found is not None  # noqa: S101 - its row is locked
            return _placed(connection, found)

    def _discard(
        self, connection: sa.Connection, jobs: Jobs, order_id: str, asked: OrderedRequest
    ) -> bool:
        """Whether a request that only this order led to did not begin, and now never does; or is
        worked on by a vendor, whose answer is not taken any more."""
        row = results.get_request(connection, asked.request_id)
        others = sa.select(order_requests.c.order_id).where(
            order_requests.c.request_id == asked.request_id,
            order_requests.c.order_id != order_id,
        )
        if row.order_id != order_id or not _may_end(connection, row):
            return False
        if connection.execute(others.limit(1)).first() is not None:
            return False
        abandoning.enqueue(connection, jobs, row)
        deferred.forget(connection, row.request_id)
        results.set_state(
            connection,
            asked.request_id,
            RequestState.DISCARDED,
            detail=ORDER_CANCELLED,
            finished_at=self.journal.clock.now(),
        )
        return True


def _may_end(connection: sa.Connection, row: RequestRow) -> bool:
    """Nobody began, or somebody said that he answers later, and has not yet."""
    if row.state is RequestState.QUEUED:
        return True
    held = deferred.get(connection, row.request_id)
    is_waited_for = row.state in (RequestState.WAITING, RequestState.RUNNING)
    return is_waited_for and held is not None and held.answer is None


def list_orders(
    database: Database,
    *,
    state: OrderState | None = None,
    order_id: str = "",
    limit: int = 50,
) -> list[PlacedOrder]:
    """Orders as they stand now, the newest first; the hub's own, too. ``state``: as it was put on
    record last."""
    query = sa.select(orders).order_by(orders.c.received_at.desc(), orders.c.order_id)
    if state is not None:
        query = query.where(orders.c.state == state.value)
    if order_id:
        query = query.where(orders.c.order_id == order_id)
    with database.read() as connection:
        rows = connection.execute(query.limit(limit)).all()
        return [_placed(connection, order_rows.order_row(row)) for row in rows]


def _placed(connection: sa.Connection, row: OrderRow) -> PlacedOrder:
    asked = order_rows.requests_of(connection, row.order.order_id)
    state, reasons = order_rows.state_now(row, asked)
    return PlacedOrder(
        order=row.order,
        state=state,
        reasons=reasons,
        requests=asked,
        changed_at=row.changed_at,
    )


def _core(order: Order) -> tuple[object, ...]:
    """In what two orders with one identifier must not differ."""
    return (order.subject, order.patient.key, order.study_instance_uid, order.route)


@dataclass(frozen=True, slots=True)
class _Held:
    """An order of a patient's values, locked."""

    order_id: str
    patient: PatientKey
    study: str


def _of_values(connection: sa.Connection, patients: Collection[PatientKey]) -> list[_Held]:
    """The orders of these patients' values that were not taken back; locked from here on, by all
    in the same order."""
    table, found = orders.c, list[_Held]()
    by = [table.patient_id, table.issuer_of_patient_id, table.order_id]
    is_postgres = connection.dialect.name == "postgresql"
    query = sa.select(*by, table.study_instance_uid).where(
        table.subject == OrderSubject.OBSERVATIONS.value,
        table.state != OrderState.CANCELLED.value,
    )
    if is_postgres:  # the parts below are made in the order of code points
        query = query.order_by(*(one.collate("C") for one in by)).with_for_update(key_share=True)
    else:
        query = query.order_by(*by)
    for some in parts({patient_id for patient_id, _ in patients}):
        for row in connection.execute(query.where(table.patient_id.in_(some))):
            key = (row.patient_id, row.issuer_of_patient_id)
            if key in patients:
                found.append(_Held(row.order_id, key, row.study_instance_uid))
    return found
