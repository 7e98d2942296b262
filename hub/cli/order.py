"""``caidx order``: what was asked for, what became of it, and taking it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from hub.bootstrap.hub import Hub
from hub.cli.actor import actor, job_queue
from hub.cli.session import Json, Limit, Session, session_of
from hub.domain.order import OrderState
from hub.errors import RejectedError
from hub.ports import PlacedOrder
from hub.store.orders import StoredOrders, list_orders

app = typer.Typer(help="What was asked for, and what became of it.", no_args_is_help=True)

OrderId = Annotated[str, typer.Argument(metavar="ORDER")]


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[OrderState | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Orders, the newest first; those that the hub made of values that nobody asked about, too."""
    session = session_of(context)
    with session.hub() as hub:
        found = list_orders(hub.database, state=state, limit=limit)
    if as_json:
        session.print_json([_told(one) for one in found])
        return
    session.print_table(
        f"{len(found)} orders",
        ("order", "source", "about", "study", "route", "state", "reasons", "ordered"),
        [
            (
                one.order.order_id,
                one.order.source,
                one.order.subject.value,
                one.order.study_instance_uid,
                one.order.route or "every one",
                one.state.value,
                one.reasons,
                one.order.ordered_at,
            )
            for one in found
        ],
        "nobody has ordered anything yet",
    )


@app.command()
def show(context: typer.Context, order_id: OrderId, *, as_json: Json = False) -> None:
    """One order: where it stands and why, and the requests that answer it."""
    session = session_of(context)
    with session.hub() as hub:
        found = next(iter(list_orders(hub.database, order_id=order_id, limit=1)), None)
    if found is None:
        raise RejectedError(f"there is no order {order_id}")
    if as_json:
        session.print_json(_told(found))
    else:
        _show(session, found)


@app.command()
def cancel(
    context: typer.Context,
    order_id: OrderId,
    reason: Annotated[str, typer.Option(help="Whoever placed the order is told.", prompt=True)],
) -> None:
    """Take an order back: what did not begin does not begin."""
    session = session_of(context)
    with session.hub() as hub, _orders(hub) as orders:
        orders.cancel(order_id, reason)
    session.out.print(f"order {order_id} is cancelled")


@contextmanager
def _orders(hub: Hub) -> Iterator[StoredOrders]:
    with job_queue(hub) as jobs:
        journal = hub.journal(actor())
        yield StoredOrders(database=hub.database, jobs=lambda: jobs, journal=journal)


def _told(found: PlacedOrder) -> dict[str, object]:
    """An order for programs: no name, no birth date, no values."""
    order = found.order
    return {
        "order_id": order.order_id,
        "source": order.source,
        "subject": order.subject,
        "study_instance_uid": order.study_instance_uid,
        "route": order.route,
        "priority": order.priority.name.lower(),
        "state": found.state,
        "reasons": found.reasons,
        "requests": found.requests,
        "observations": len(order.observations),
        "ordered_at": order.ordered_at,
        "deadline": order.deadline,
        "changed_at": found.changed_at,
    }


def _show(session: Session, found: PlacedOrder) -> None:
    order = found.order
    session.out.print(f"[bold]order {order.order_id}[/] by {order.source}: {found.state.value}")
    for reason in found.reasons:
        session.out.print(f"  {reason}", markup=False)
    session.out.print(f"  about {order.subject.value}, study {order.study_instance_uid}")
    if order.deadline is not None:
        session.out.print(f"  wanted until {order.deadline:%Y-%m-%d %H:%M} UTC")
    session.out.print()
    session.print_table(
        "requests",
        ("request", "route", "model", "state", "outcome", "reasons"),
        [
            (one.request_id, one.route, one.model, one.state, one.outcome, one.reasons)
            for one in found.requests
        ],
        "no model was asked for it",
    )
