"""Orders as they are kept, the requests that answer them, and the jobs that work on them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import TypeAdapter

from hub.domain.inference import Outcome
from hub.domain.order import OPEN_ORDERS, Order, OrderState
from hub.ports import Job, Jobs, OrderedRequest
from hub.store.database import insert_new, insert_new_rows
from hub.store.journal import Journal
from hub.store.results import OPEN_STATES, RequestState
from hub.store.schema import requests, results, studies
from hub.store.schema_orders import order_names, order_requests, orders

ORDER_JOB, ORDER_QUEUE = "order", "orders"
HUB = "caidx"
"""`Order.source` of the orders that the hub makes itself, of values that nobody asked about."""
DECIDES = "a person decides about a result that is held back"

_ORDER = TypeAdapter(Order)
_WAITING = (OrderState.PLACED.value, OrderState.WAITING.value)
_OPEN_REQUESTS = {state.value for state in OPEN_STATES}


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order on record."""

    order: Order
    state: OrderState
    """As it was when it changed last; see ``state_now``."""
    reasons: tuple[str, ...]
    received_at: datetime
    changed_at: datetime

    @property
    def is_open(self) -> bool:
        """Something is still to be done for it."""
        return self.state in OPEN_ORDERS


# --- rows ------------------------------------------------------------------------------------


def add(connection: sa.Connection, placed: Collection[Order], at: datetime) -> list[str]:
    """Record orders; returns the identifiers of those that were not on record."""
    rows = [_row_of(order, at) for order in placed]
    new = [order_id for (order_id,) in insert_new_rows(connection, orders, rows)]
    names = {order.order_id: _names(order) for order in placed}
    insert_new_rows(connection, order_names, [row for name in new for row in names[name]])
    return new


def _row_of(order: Order, at: datetime) -> dict[str, object]:
    return {
        "order_id": order.order_id,
        "source": order.source,
        "subject": order.subject.value,
        "patient_id": order.patient.patient_id,
        "issuer_of_patient_id": order.patient.issuer_of_patient_id,
        "study_instance_uid": order.study_instance_uid,
        "route": order.route,
        "content": _ORDER.dump_python(order, mode="json"),
        "state": OrderState.PLACED.value,
        "reasons": [],
        "ordered_at": order.ordered_at,
        "deadline_at": order.deadline,
        "received_at": at,
        "changed_at": at,
    }


def get(connection: sa.Connection, order_id: str, *, lock: bool = False) -> OrderRow | None:
    """An order; with ``lock`` its row is locked for the transaction on PostgreSQL."""
    query = sa.select(orders).where(orders.c.order_id == order_id)
    if lock and connection.dialect.name == "postgresql":
        query = query.with_for_update(key_share=True)  # a request may be linked to it meanwhile
    row = connection.execute(query).one_or_none()
    return None if row is None else order_row(row)


def order_row(row: sa.Row[Any]) -> OrderRow:
    """A row of ``orders`` as a value."""
    return OrderRow(
        order=_ORDER.validate_python(row.content),
        state=OrderState(row.state),
        reasons=tuple(row.reasons),
        received_at=row.received_at,
        changed_at=row.changed_at,
    )


def change(
    connection: sa.Connection,
    journal: Journal,
    row: OrderRow,
    state: OrderState,
    reasons: Sequence[str] = (),
    *,
    discarded: Sequence[str] = (),
    corrected: Sequence[str] = (),
) -> None:
    """Move an order, on record; nothing happens where it stands so already. Requests that end with
    it, and values because of which it is looked at again, are named in the audit log; why somebody
    took it back is not: the words are his."""
    if (row.state, row.reasons) == (state, tuple(reasons)):
        return
    set_state(connection, row.order.order_id, state, reasons, journal.clock.now())
    journal.record(
        connection,
        "order.changed",
        f"order:{row.order.order_id}",
        row.order.study_instance_uid,
        state=state.value,
        reasons=[] if state is OrderState.CANCELLED else list(reasons),
        discarded=list(discarded),
        corrected=list(corrected),
    )


def set_state(
    connection: sa.Connection,
    order_id: str,
    state: OrderState,
    reasons: Sequence[str],
    at: datetime,
) -> None:
    """Where an order stands, without a word in the audit log."""
    connection.execute(
        sa.update(orders)
        .where(orders.c.order_id == order_id)
        .values(state=state.value, reasons=list(reasons), changed_at=at)
    )


def drop(connection: sa.Connection, order_id: str) -> None:
    """Forget an order of the hub's own that no route has a use for."""
    connection.execute(sa.delete(order_names).where(order_names.c.order_id == order_id))
    connection.execute(sa.delete(orders).where(orders.c.order_id == order_id))


def of_study(connection: sa.Connection, study_instance_uid: str) -> list[OrderRow]:
    """The orders about a study, or that made a case."""
    query = sa.select(orders).where(orders.c.study_instance_uid == study_instance_uid)
    return [order_row(row) for row in connection.execute(query)]


def last_order(connection: sa.Connection, study_instance_uid: str, route: str) -> Order | None:
    """The order that had a route applied to a study last; None: no order had, or it was taken back
    before a model was asked."""
    query = (
        sa.select(orders.c.content)
        .join(requests, requests.c.order_id == orders.c.order_id)
        .where(
            requests.c.study_instance_uid == study_instance_uid,
            requests.c.route == route,
            sa.or_(
                orders.c.state != OrderState.CANCELLED.value,
                requests.c.state != RequestState.DISCARDED.value,
            ),
        )
        .order_by(requests.c.revision.desc(), requests.c.created_at.desc())
    )
    content = connection.execute(query.limit(1)).scalar()
    return None if content is None else _ORDER.validate_python(content)


def order_of_request(connection: sa.Connection, request_id: str) -> Order | None:
    """The order that led to a request; None: a rule did."""
    query = (
        sa.select(orders.c.content)
        .join(requests, requests.c.order_id == orders.c.order_id)
        .where(requests.c.request_id == request_id)
    )
    content = connection.execute(query).scalar()
    return None if content is None else _ORDER.validate_python(content)


def found_by(identifier: tuple[str, str]) -> sa.ColumnElement[bool]:
    """The orders that have an identifier, or are based on what has it; of any system where that is
    empty."""
    system, value = identifier
    if system:
        return named(f"{system}|{value}")
    return _is_named(order_names.c.value_sha256 == _sha256(value))


def named(name: str) -> sa.ColumnElement[bool]:
    """The orders that have this identifier (``system|value``), or are based on what has it; or
    that are based on what this refers to."""
    return _is_named(order_names.c.name_sha256 == _sha256(name))


def _is_named(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return orders.c.order_id.in_(sa.select(order_names.c.order_id).where(condition))


def _names(order: Order) -> list[dict[str, object]]:
    """What it is found by, as rows."""
    found = {f"{system}|{value}": _sha256(value) for system, value in _identifiers(order)}
    for text in order.based_on:
        reference = str(_json(text).get("reference", ""))
        found |= {reference: found.get(reference, "")} if reference else {}
    return [
        {"order_id": order.order_id, "name_sha256": _sha256(name), "value_sha256": value}
        for name, value in found.items()
    ]


def _identifiers(order: Order) -> Iterator[tuple[str, str]]:
    """System and value of its own, and of those of what it is based on."""
    listed = [*_list(_json(order.resource).get("identifier"))]
    listed += [_json(text).get("identifier") for text in order.based_on]
    for one in listed:
        if isinstance(one, dict) and one.get("value"):
            yield str(one.get("system", "")), str(one["value"])
    for pair in (order.placer_order_number, order.filler_order_number):
        if pair:
            yield pair


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json(text: str) -> Mapping[str, Any]:
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


# --- the requests that answer it -------------------------------------------------------------


def link(connection: sa.Connection, order_id: str, request_id: str) -> None:
    """A request answers an order."""
    insert_new(connection, order_requests, order_id=order_id, request_id=request_id)


def requests_of(connection: sa.Connection, order_id: str) -> tuple[OrderedRequest, ...]:
    """The requests that answer an order, the first one first."""
    rows = connection.execute(
        sa.select(requests, results.c.outcome, results.c.reasons.label("because"))
        .join(order_requests, order_requests.c.request_id == requests.c.request_id)
        .outerjoin(results, results.c.request_id == requests.c.request_id)
        .where(order_requests.c.order_id == order_id)
        .order_by(requests.c.created_at, requests.c.request_id)
    )
    return tuple(
        OrderedRequest(
            request_id=row.request_id,
            route=row.route,
            model=f"{row.model_id}|{row.model_version}",
            state=row.state,
            outcome=row.outcome or "",
            reasons=_because(row),
        )
        for row in rows
    )


def _because(row: sa.Row[Any]) -> tuple[str, ...]:
    if row.because is not None:
        return tuple(row.because)
    return (row.detail,) if row.detail else ()


def state_now(row: OrderRow, asked: Sequence[OrderedRequest]) -> tuple[OrderState, tuple[str, ...]]:
    """Where an order stands, from the requests that answer it. Of several about the same route
    (late images, a corrected value) the last one counts."""
    if row.state in (*_STAYS, OrderState.CANCELLED) or not asked:
        return row.state, row.reasons
    last = tuple({one.route: one for one in asked}.values())
    reasons = tuple(f"{one.route}: {text}" for one in last for text in one.reasons)
    states = {one.state for one in last}
    if states & _OPEN_REQUESTS:
        return OrderState.IN_PROGRESS, ()
    if RequestState.QUARANTINED.value in states:
        return OrderState.IN_PROGRESS, (DECIDES,)
    if states != {RequestState.DONE.value}:
        return OrderState.FAILED, reasons or ("a person discarded the result",)
    if {one.outcome for one in last} == {Outcome.UNSUITABLE.value}:
        return OrderState.REJECTED, reasons
    return OrderState.COMPLETED, reasons


_STAYS = (OrderState.PLACED, OrderState.WAITING)


def answered_by(connection: sa.Connection, request_id: str) -> list[OrderRow]:
    """The orders that a request answers. They are locked from here on: after the request, before
    the audit log."""
    query = sa.select(orders).join(order_requests, order_requests.c.order_id == orders.c.order_id)
    query = query.where(order_requests.c.request_id == request_id).order_by(orders.c.order_id)
    if connection.dialect.name == "postgresql":  # of two requests of an order that end at once
        query = query.with_for_update(of=orders, key_share=True)
    return [order_row(found) for found in connection.execute(query).all()]


def settle(connection: sa.Connection, journal: Journal, answered: Iterable[OrderRow]) -> None:
    """A request has ended: so have, perhaps, the orders that it answers (``answered_by``)."""
    for row in answered:
        state, reasons = state_now(row, requests_of(connection, row.order.order_id))
        change(connection, journal, row, state, reasons)


# --- forgetting them -------------------------------------------------------------------------


def forget_of_study(connection: sa.Connection, study_instance_uid: str) -> int:
    """Delete the orders about a study, for which nothing is left to be done; returns how many."""
    return _forget(connection, orders.c.study_instance_uid == study_instance_uid)


def forget_before(connection: sa.Connection, before: datetime) -> int:
    """Delete orders that ended long ago and about whose study nothing is held: it never came, or
    they were refused; returns how many."""
    held = sa.exists().where(
        studies.c.study_instance_uid == orders.c.study_instance_uid, studies.c.purged_at.is_(None)
    )
    return _forget(connection, orders.c.changed_at < before, ~held)


def _forget(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    over = sa.select(orders.c.order_id).where(orders.c.state.not_in(_WAITING), *conditions)
    for table in (order_names, order_requests):
        connection.execute(sa.delete(table).where(table.c.order_id.in_(over)))
    gone = connection.execute(sa.delete(orders).where(orders.c.order_id.in_(over)))
    return gone.rowcount


# --- jobs ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """One of several looks, one after another, at what can be done for an order."""

    order_id: str
    line: str
    """Tells the looks that follow each other from those that begin later."""
    number: int = 0
    """How many went before it."""
    goes_on: bool = True
    """Whether another one follows, if there is something to wait for."""

    def job(self, order: Order, delay_seconds: float = 0.0) -> Job:
        """The job of this look; enqueued again it is the same."""
        mark = f"{self.line} {self.number}{'' if self.goes_on else ' last'}"
        return Job(
            kind=ORDER_JOB,
            queue=ORDER_QUEUE,
            job_id=f"order:{order.order_id}:{mark.replace(' ', ':')}",
            argument=f"{order.order_id} {mark}",
            priority=int(order.priority),
            delay_seconds=delay_seconds,
        )


def look_of(argument: str) -> Look:
    """The look that a job is."""
    order_id, line, number, *last = argument.split(" ")
    return Look(order_id, line, int(number), goes_on=not last)


def order_job(order: Order, *, goes_on: bool = True) -> Job:
    """The first look at what can be done for an order."""
    return Look(order.order_id, uuid.uuid4().hex, goes_on=goes_on).job(order)


def take_up(connection: sa.Connection, jobs: Jobs, study_instance_uid: str) -> int:
    """Something became of a study: have the orders looked at that wait for it; returns how
    many."""
    query = sa.select(orders).where(
        orders.c.study_instance_uid == study_instance_uid, orders.c.state.in_(_WAITING)
    )
    waiting = [order_row(row) for row in connection.execute(query)]
    for row in waiting:
        jobs.enqueue(connection, order_job(row.order, goes_on=False))
    return len(waiting)
