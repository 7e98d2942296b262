"""What sources may ask of the hub (hub.ports.Orders), on the database.

An order, its values and its first job are one transaction: what was acknowledged is worked on, and
what was refused left nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from hub.domain.identity import PatientIdentity, derived_uid, derived_uuid
from hub.domain.observation import Observation
from hub.domain.order import OPEN_ORDERS, Order, OrderState, OrderSubject
from hub.domain.routing import RouteMode
from hub.errors import RejectedError
from hub.ports import Jobs, OrderedRequest, PlacedOrder, Taken
from hub.store import observations, order_rows, results
from hub.store.database import Database, refusing
from hub.store.journal import Journal
from hub.store.order_rows import HUB, OrderRow, order_job
from hub.store.request_ledger import ORDER_CANCELLED
from hub.store.results import RequestState
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
        # Orders are locked before the audit log, and before anything is said to have come: what
        # comes while a worker makes a case is either in it, or known to be later.
        with refusing(), self.database.write() as connection:
            held = _of_values(connection, {value.patient.key for value in observations})
            new = self._keep(connection, observations)
            placed = tuple(self._place(connection, order) for order in orders)
            asked = {o.patient.key for o in orders if o.subject is OrderSubject.OBSERVATIONS}
            left = self._correct(connection, new, held)
            self._ask_for_them(
                connection, [v for v in left if v.patient.key not in asked], transaction
            )
        return Taken(placed=placed, new_observations=tuple(v.observation_id for v in new))

    def _keep(self, connection: sa.Connection, values: Iterable[Observation]) -> list[Observation]:
        """Record values; returns those that were new."""
        values, now = list(values), self.journal.clock.now()
        new = [value for value in values if observations.keep(connection, value, now)]
        if new:
            self.journal.record(
                connection,
                "observations.received",
                f"source:{new[0].source}",
                count=len(values),
                observations=[value.observation_id for value in new],
            )
        return new

    def _place(self, connection: sa.Connection, order: Order) -> PlacedOrder:
        if order.subject is OrderSubject.OBSERVATIONS:
            uid = derived_uid("case", order.order_id)
            order = replace(order, study_instance_uid=uid)
        self._check(order)
        if not order_rows.add(connection, order, self.journal.clock.now()):
            return self._known(connection, order)
        self._keep(connection, order.observations)
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
        held: Sequence[OrderRow],
    ) -> list[Observation]:
        """Have every case made again of which a value was corrected; returns the other new
        values."""
        used: set[str] = set()
        for row in held if new else ():
            corrected = self._corrected(connection, row, new)
            if not corrected:
                continue
            used.update(corrected)
            reasons = ("a value was corrected",)
            order_rows.change(
                connection, self.journal, row, OrderState.PLACED, reasons, corrected=corrected
            )
            self.jobs().enqueue(connection, order_job(row.order))
        return [value for value in new if value.observation_id not in used]

    @staticmethod
    def _corrected(
        connection: sa.Connection, row: OrderRow, new: Sequence[Observation]
    ) -> list[str]:
        key = observations.latest_case(connection, row.order.study_instance_uid)
        case = None if key is None else observations.case_of(connection, key)
        if case is None or case.purged_at is not None:
            return []
        patient = row.order.patient.key
        said_now = observations.Corrections.among([v for v in new if v.patient.key == patient])
        used = observations.values_of(case)
        found = (one.observation_id for old in used for one in said_now.of(old))
        return list(dict.fromkeys(found))

    def _ask_for_them(
        self, connection: sa.Connection, values: Sequence[Observation], transaction: str
    ) -> None:
        """An order of the hub's own for each patient: a worker knows which models read values."""
        by_patient: dict[PatientKey, list[Observation]] = {}
        for value in values:
            by_patient.setdefault(value.patient.key, []).append(value)
        now = self.journal.clock.now()
        for key, told in by_patient.items():
            parts = ("values", told[0].source, *key, transaction)
            order_id = derived_uuid(*parts, *(v.observation_id for v in told)).hex
            order = Order(
                order_id=order_id,
                source=HUB,
                subject=OrderSubject.OBSERVATIONS,
                patient=told[0].patient,
                study_instance_uid=derived_uid("case", order_id),
                observations=tuple(told),
                ordered_at=now,
            )
            if order_rows.add(connection, order, now):
                self.jobs().enqueue(connection, order_job(order))

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
            system, value = identifier
            text = f'"{_quoted(f"{system}|{value}")}"' if system else f'|{_quoted(value)}"'
            query = query.where(_names(text))
        if based_on:
            query = query.where(_names(f'"{_quoted(based_on)}"'))
        query = query.order_by(orders.c.ordered_at.desc(), orders.c.order_id)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(limit).offset(offset)).all()
            return [_placed(connection, order_rows.order_row(row)) for row in rows]

    # --- taking it back --------------------------------------------------------------------

    def cancel(self, order_id: str, reason: str) -> PlacedOrder:
        """As hub.ports.Orders. A model that is being asked answers, and its report is sent."""
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
            dropped = [one.request_id for one in asked if self._discard(connection, order_id, one)]
            reasons = (reason,) if reason else ()
            order_rows.change(
                connection, self.journal, row, OrderState.CANCELLED, reasons, discarded=dropped
            )
            found = order_rows.get(connection, order_id)
            assert found is not None  # noqa: S101 - its row is locked
            return _placed(connection, found)

    def _discard(self, connection: sa.Connection, order_id: str, asked: OrderedRequest) -> bool:
        """Whether a request that only this order led to did not begin, and now never does."""
        row = results.get_request(connection, asked.request_id)
        others = sa.select(order_requests.c.order_id).where(
            order_requests.c.request_id == asked.request_id,
            order_requests.c.order_id != order_id,
        )
        if row.state is not RequestState.QUEUED or row.order_id != order_id:
            return False
        if connection.execute(others.limit(1)).first() is not None:
            return False
        results.set_state(
            connection,
            asked.request_id,
            RequestState.DISCARDED,
            detail=ORDER_CANCELLED,
            finished_at=self.journal.clock.now(),
        )
        return True


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


def _of_values(connection: sa.Connection, patients: Collection[PatientKey]) -> list[OrderRow]:
    """The orders of these patients' values that were not taken back; locked from here on."""
    found: list[OrderRow] = []
    for patient_id, issuer in sorted(patients):
        query = (
            sa.select(orders)
            .where(
                orders.c.patient_id == patient_id,
                orders.c.issuer_of_patient_id == issuer,
                orders.c.subject == OrderSubject.OBSERVATIONS.value,
                orders.c.state != OrderState.CANCELLED.value,
            )
            .order_by(orders.c.order_id)
        )
        if connection.dialect.name == "postgresql":
            query = query.with_for_update(key_share=True)
        found += [order_rows.order_row(row) for row in connection.execute(query)]
    return found


def _quoted(text: str) -> str:
    """As it stands inside a JSON text."""
    return json.dumps(text)[1:-1]


def _names(text: str) -> sa.ColumnElement[bool]:
    return sa.cast(orders.c.identifiers, sa.Text).contains(text, autoescape=True)
