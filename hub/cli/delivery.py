"""``caidx delivery``: documents on their way, and sending dead letters again."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.actor import delivery_ledger
from hub.cli.session import Json, Limit, session_of
from hub.domain.delivery import DeliveryState
from hub.errors import RejectedError
from hub.store.overview import list_deliveries

app = typer.Typer(help="Documents on their way to destinations.", no_args_is_help=True)

_ALL_DEAD = 100_000


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[DeliveryState | None, typer.Option(help="Only these.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only to this one.")] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Deliveries, newest first; `--state dead` lists the dead letters."""
    session = session_of(context)
    with session.hub() as hub:
        page = list_deliveries(hub.database, state=state, destination=destination, limit=limit)
    if as_json:
        session.print_json(page)
        return
    session.print_table(
        f"{len(page.items)} of {page.total} deliveries",
        ("delivery", "destination", "document", "state", "attempts", "answer", "next attempt"),
        [
            (
                row.delivery_id,
                row.destination,
                row.kind,
                row.state,
                row.attempts,
                row.detail,
                row.next_attempt_at,
            )
            for row in page.items
        ],
        "no delivery",
    )


@app.command()
def retry(
    context: typer.Context,
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="DELIVERY...", show_default=False)
    ] = None,
    destination: Annotated[
        str | None, typer.Option(help="All dead letters of this destination.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Send dead letters again, after what stopped them was mended."""
    session = session_of(context)
    if bool(delivery_ids) + (destination is not None) + every != 1:
        raise typer.BadParameter("name deliveries, or a --destination, or --all")
    with session.hub() as hub, delivery_ledger(hub) as ledger:
        chosen = delivery_ids or [
            row.delivery_id
            for row in list_deliveries(
                hub.database, state=DeliveryState.DEAD, destination=destination, limit=_ALL_DEAD
            ).items
        ]
        refused = [name for name in chosen if not ledger.resend(name)]
    session.out.print(f"{len(chosen) - len(refused)} dead letters are sent again")
    if refused:
        raise RejectedError(f"not dead letters: {', '.join(refused)}")
