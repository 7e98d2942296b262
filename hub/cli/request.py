"""``caidx request``: what was asked of which model, and asking again."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.actor import request_ledger
from hub.cli.session import Json, Limit, session_of
from hub.errors import RejectedError
from hub.store.overview import list_requests, request_exists
from hub.store.results import RequestState

app = typer.Typer(help="What was asked of which model.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[RequestState | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Inference requests, newest first."""
    session = session_of(context)
    with session.hub() as hub:
        page = list_requests(hub.database, state=state, limit=limit)
    if as_json:
        session.print_json(page)
        return
    session.print_table(
        f"{len(page.items)} of {page.total} requests",
        ("request", "study", "model", "state", "outcome", "attempts", "reason", "created"),
        [
            (
                row.request_id,
                f"{row.study_instance_uid}#{row.revision}",
                f"{row.model_id} {row.model_version}",
                row.state,
                row.outcome,
                row.attempts,
                row.detail,
                row.created_at,
            )
            for row in page.items
        ],
        "no model was asked anything yet",
    )


@app.command()
def retry(
    context: typer.Context, request_id: Annotated[str, typer.Argument(metavar="REQUEST")]
) -> None:
    """Ask a model again whose request has failed for good."""
    session = session_of(context)
    with session.hub() as hub, request_ledger(hub) as ledger:
        if not request_exists(hub.database, request_id):
            raise RejectedError(f"there is no request {request_id}")
        if not ledger.ask_again(request_id):
            raise RejectedError(f"request {request_id} has not failed")
    session.out.print(f"request {request_id} is asked again")
