"""``caidx audit``: read the tamper-evident log, and prove that it was not tampered with."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.session import Json, Limit, session_of
from hub.store import audit

app = typer.Typer(help="The tamper-evident log.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only of this study.")] = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="From this sequence on, instead of the newest.")
    ] = None,
    limit: Limit = 50,
    *,
    as_json: Json = False,
) -> None:
    """Events in order: the newest ones, or those after a sequence, or those of one study."""
    session = session_of(context)
    with session.hub() as hub:
        if after is None and study is None:
            events = audit.latest(hub.database, limit)
        else:
            found = audit.events(
                hub.database, after_sequence=after or 0, limit=limit, study_instance_uid=study
            )
            events = list(found)
    if as_json:
        session.print_json(events)
        return
    session.print_table(
        "",
        ("#", "at", "who", "did", "to", "outcome"),
        [(e.sequence, e.at, e.actor, e.action, e.entity, e.outcome.value) for e in events],
        "nothing is recorded",
    )


@app.command()
def verify(context: typer.Context, *, as_json: Json = False) -> None:
    """Walk the whole chain; exit status 1 names the first row that was changed, removed or
    inserted."""
    session = session_of(context)
    with session.hub() as hub:
        rows, broken = audit.verify(hub.database)
    if as_json:
        session.print_json({"rows": rows, "ok": broken is None, "broken": broken})
    elif broken is None:
        session.out.print(f"[green]ok[/] {rows} rows, each proves itself")
    else:
        session.err.print(f"[bold red]broken[/] at row {broken.sequence}: {broken.problem}")
    if broken is not None:
        raise typer.Exit(1)
