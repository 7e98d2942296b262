"""``caidx alert``: what a person has to look at."""

from __future__ import annotations

import typer

from hub.cli.session import Json, Limit, session_of
from hub.store.overview import list_alerts

app = typer.Typer(help="What a person has to look at.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context, limit: Limit = 50, *, as_json: Json = False) -> None:
    """Alerts, newest first; `caidx study show` has those of one study."""
    session = session_of(context)
    with session.hub() as hub:
        page = list_alerts(hub.database, limit=limit)
    if as_json:
        session.print_json(page)
        return
    session.print_table(
        f"{len(page.items)} of {page.total} alerts",
        ("at", "alert", "about", "reason", "study"),
        [
            (row.raised_at, row.kind, row.entity, row.message, row.study_instance_uid)
            for row in page.items
        ],
        "no alert",
    )
