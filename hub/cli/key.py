"""``caidx key``: who may use the hub's doors."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from hub.cli.actor import actor
from hub.cli.session import Json, session_of
from hub.domain.access import Scope
from hub.store.api_keys import KeyRing

app = typer.Typer(
    help="Keys to the HTTP API, DICOMweb and FHIR: closed to whoever has none.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Option(help="Who holds it; the audit log names `key:NAME` for what is done with it.")
]
Scopes = Annotated[
    Scope,
    typer.Option(
        help="`system`: DICOMweb and FHIR. `vendor`: its own models. `operator`: the API. "
        "`auditor`: the API, reading only."
    ),
]
Vendor = Annotated[
    str,
    typer.Option(metavar="NAME", help="For scope vendor: `vendor.name` of its models' manifests."),
]
Days = Annotated[
    int | None,
    typer.Option("--expires", metavar="DAYS", min=1, max=36500, help="Left out: it never expires."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit log.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    scope: Scopes,
    vendor: Vendor = "",
    days: Days = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once: the hub keeps only its digest. Programs send it as
    `Authorization: Bearer KEY`, or as the password of HTTP Basic with any user name."""
    session = session_of(context)
    valid_for = None if days is None else timedelta(days=days)
    with session.hub() as hub:
        made, key = KeyRing(hub.database, hub.journal(actor())).create(
            name, scope, vendor, valid_for
        )
    if as_json:
        session.print_json({"key": key, "known": made})
        return
    session.err.print(f"key {made.key_id} for {made.name}, scope {made.scope}; shown this once:")
    typer.echo(key)


@app.command("list")
def list_(context: typer.Context, *, as_json: Json = False) -> None:
    """Every key that there ever was, the newest first; the keys themselves are kept nowhere."""
    session = session_of(context)
    with session.hub() as hub:
        keys = KeyRing(hub.database, hub.journal(actor())).all()
    if as_json:
        session.print_json(keys)
        return
    session.print_table(
        f"{len(keys)} keys",
        ("key", "name", "scope", "vendor", "state", "made", "expires", "last used"),
        [
            (
                key.key_id,
                key.name,
                key.scope,
                key.vendor,
                key.state,
                key.created_at,
                key.expires_at,
                key.last_used_at,
            )
            for key in keys
        ],
        "no key: `caidx key create` makes one",
    )


@app.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its identifier, as listed.")],
    reason: Reason,
) -> None:
    """Take a key back, for good: within seconds it opens nothing any more."""
    session = session_of(context)
    with session.hub() as hub:
        revoked = KeyRing(hub.database, hub.journal(actor())).revoke(key_id, reason)
    session.out.print(f"key {revoked.key_id} of {revoked.name} is revoked")
