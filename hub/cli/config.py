"""``caidx config``: check, show and describe the configuration."""

from __future__ import annotations

import json

import typer

from hub.bootstrap.hub import package_of
from hub.cli.session import Json, session_of
from hub.config import settings_schema
from hub.errors import ConfigError, ConfigProblem

app = typer.Typer(help="Check, show and describe the configuration.", no_args_is_help=True)


@app.command()
def check(context: typer.Context, *, as_json: Json = False) -> None:
    """Find every mistake before start: file, line and field of each. Exit status 2 if any."""
    session = session_of(context)
    problems: list[ConfigProblem] = []
    try:
        settings = session.settings
        for model in settings.models:
            try:
                package_of(model, session.components)
            except ConfigError as error:
                problems += error.problems
        file = settings.file
    except ConfigError as error:
        problems += error.problems
        file = error.problems[0].file
    if as_json:
        session.print_json({"file": file, "ok": not problems, "problems": problems})
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise ConfigError(tuple(problems))
    session.out.print(
        f"[green]ok[/] {file}: {len(settings.sources)} sources, {len(settings.models)} models, "
        f"{len(settings.routes)} routes, {len(settings.destinations)} destinations"
    )


@app.command()
def show(context: typer.Context) -> None:
    """Print the configuration that is in force, with its defaults (JSON; secrets hidden)."""
    session = session_of(context)
    session.print_json(session.settings.model_dump(mode="json"))


@app.command()
def schema(context: typer.Context) -> None:
    """Print the JSON Schema of the file, for editors: it completes and explains every field."""
    typer.echo(json.dumps(settings_schema(session_of(context).components), indent=2))
