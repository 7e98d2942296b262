"""``caidx model``: the models that are configured, and what they are for."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hub.bootstrap.hub import package_of
from hub.cli.preview import preview
from hub.cli.session import Json, session_of
from hub.config import BUILTIN
from hub.errors import ConfigError, RejectedError
from hub.formats.model_manifest import manifest_schema

app = typer.Typer(help="The models that are configured.", no_args_is_help=True)
app.command("preview")(preview)


@app.command("list")
def list_(context: typer.Context, *, as_json: Json = False) -> None:
    """Configured models; one that cannot run stands there with the reason."""
    session = session_of(context)
    rows = []
    for entry in session.settings.models:
        row = {"id": entry.package.removeprefix(BUILTIN), "adapter": entry.adapter}
        try:
            package = package_of(entry, session.components)
        except ConfigError as error:
            rows.append(row | {"version": "", "vendor": "", "purpose": "", "problem": str(error)})
            continue
        card = package.card
        rows.append(
            row
            | {
                "id": card.id,
                "version": card.version,
                "vendor": card.vendor.name,
                "purpose": card.intended_use.purpose,
                "problem": "",
            }
        )
    if as_json:
        session.print_json(rows)
        return
    columns = ("id", "version", "vendor", "adapter", "purpose", "problem")
    cells = [[row[name] for name in columns] for row in rows]
    session.print_table("", columns, cells, "no model is configured")


@app.command()
def show(context: typer.Context, model_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Everything about one model: its card, as JSON, with the digest of its package."""
    session = session_of(context)
    for entry in session.settings.models:
        package = package_of(entry, session.components)
        if package.card.id == model_id:
            session.print_json({"sha256": package.key.sha256, "card": package.card})
            return
    raise RejectedError(f"no model {model_id} is configured")


@app.command()
def schema() -> None:
    """Print the JSON Schema of `model.yaml`, for vendors and their editors."""
    typer.echo(json.dumps(manifest_schema(), indent=2))
