"""``caidx model``: the register of models, and what they are for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from hub.bootstrap.model_register import ListedModel, ModelRegister, register_of
from hub.cli.preview import preview
from hub.cli.registration import activate, register, retire, suspend
from hub.cli.session import Json, Session, session_of
from hub.formats.manifest.model_manifest import manifest_schema

app = typer.Typer(help="The models that are configured or registered.", no_args_is_help=True)
for command in (preview, register, activate, suspend, retire):
    app.command(command.__name__)(command)

_COLUMNS = ("id", "version", "state", "since", "who", "why", "vendor", "from", "sha256", "problem")
_SHORT_DIGEST = 12


@contextmanager
def _register_of(session: Session) -> Iterator[ModelRegister]:
    """That of a hub; where none has run yet, of its configuration."""
    if not session.has_run:
        yield ModelRegister(session.settings, session.components, None)
        return
    with session.hub() as hub:
        yield register_of(hub)


@app.command("list")
def list_(context: typer.Context, *, as_json: Json = False) -> None:
    """Every version of every model: its state, since when, who and why; and what is wrong."""
    session = session_of(context)
    with _register_of(session) as found:
        models = found.models()
    if as_json:
        session.print_json([_row(model) for model in models])
        return
    rows = [[_row(model)[name] for name in _COLUMNS] for model in models]
    short = _COLUMNS.index("sha256")
    for row in rows:
        row[short] = str(row[short])[:_SHORT_DIGEST]
    session.print_table("", _COLUMNS, rows, "no model is configured or registered")


def _row(model: ListedModel) -> dict[str, object]:
    return {
        "id": model.id,
        "version": model.version,
        "vendor": model.vendor,
        "state": model.state.value,
        "since": model.since,
        "who": model.who,
        "why": model.why,
        "from": model.origin,
        "sha256": model.sha256,
        "adapter": model.adapter,
        "purpose": "" if model.card is None else model.card.intended_use.purpose,
        "problem": model.problem,
    }


@app.command()
def show(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="ID")],
    version: Annotated[str, typer.Option(metavar="V", help="Else the one that is used.")] = "",
) -> None:
    """Everything about one model: its card, as JSON, with its state and digest."""
    session = session_of(context)
    with _register_of(session) as found:
        model = found.find(model_id, version)
    session.print_json(_row(model) | {"card": model.card})


@app.command()
def schema() -> None:
    """Print the JSON Schema of `model.yaml`, for vendors and their editors."""
    typer.echo(json.dumps(manifest_schema(), indent=2))
