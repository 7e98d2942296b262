"""``caidx quarantine``: what does not belong to whom it should, and a person's word on it."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.actor import quarantine
from hub.cli.session import Json, session_of
from hub.domain.report import Person

app = typer.Typer(
    help="Results and documents that a person has to release or discard.", no_args_is_help=True
)

Identifier = Annotated[str, typer.Argument(metavar="REQUEST|DELIVERY")]
By = Annotated[str, typer.Option("--by", help="Who decides: `Family^Given`, or as people write.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit log.")]


@app.command("list")
def list_(context: typer.Context, *, as_json: Json = False) -> None:
    """What waits for a decision, the oldest first."""
    session = session_of(context)
    with session.hub() as hub, quarantine(hub) as kept:
        waiting = kept.waiting()
    if as_json:
        session.print_json(waiting)
        return
    session.print_table(
        f"{len(waiting)} in quarantine",
        ("what", "identifier", "study", "destination", "reason", "since"),
        [
            (w.kind, w.identifier, w.study_instance_uid, w.destination, w.reason, w.since)
            for w in waiting
        ],
        "nothing is in quarantine",
    )


@app.command()
def release(context: typer.Context, identifier: Identifier, by: By, reason: Reason) -> None:
    """Answer for it: it is reported under the request's own identity, and the report says who
    released it and why. A delivery is released with all others of its report."""
    session = session_of(context)
    with session.hub() as hub, quarantine(hub) as kept:
        session.out.print(kept.release(identifier, Person(by), reason))


@app.command()
def discard(context: typer.Context, identifier: Identifier, by: By, reason: Reason) -> None:
    """Decide that it is never sent."""
    session = session_of(context)
    with session.hub() as hub, quarantine(hub) as kept:
        session.out.print(kept.discard(identifier, Person(by), reason))
