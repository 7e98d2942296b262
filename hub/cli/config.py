"""``caidx config``: check, show and describe the configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import typer

from hub.bootstrap.hub import package_of
from hub.cli.session import Json, Session, session_of
from hub.config import Settings, read_settings, settings_schema
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.store import registrations
from hub.transport.tls import server_context

app = typer.Typer(help="Check, show and describe the configuration.", no_args_is_help=True)


@app.command()
def check(context: typer.Context, *, as_json: Json = False) -> None:
    """Find every mistake before start: file, line and field of each. Exit status 2 if any.

    Routes may name models of the file, and models that are registered with a hub that has run.
    """
    session = session_of(context)
    problems: list[ConfigProblem] = []
    exposure = ""
    try:
        registered = _registered(session)
        settings = read_settings(session.config_file, session.components, registered=registered)
        for model in settings.models:
            try:
                package_of(model, session.components)
            except ConfigError as error:
                problems += error.problems
        exposure = settings.web.exposure
        problems += _tls_problems(settings)
        file = settings.file
    except ConfigError as error:
        problems += error.problems
        file = error.problems[0].file
    if as_json:
        warnings = [exposure] if exposure else []
        session.print_json(
            {"file": file, "ok": not problems, "problems": problems, "warnings": warnings}
        )
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise ConfigError(tuple(problems))
    session.out.print(
        f"[green]ok[/] {file}: {len(settings.sources)} sources, {len(settings.models)} models, "
        f"{len(settings.routes)} routes, {len(settings.destinations)} destinations"
    )
    if exposure:
        session.err.print(f"[bold yellow]warning[/] {exposure}", soft_wrap=True)


def _registered(session: Session) -> frozenset[str]:
    """Ids of the models that the database knows; none where no hub has run, or it is away."""
    if not session.has_run:
        return frozenset()
    try:
        with session.hub() as hub, hub.database.read() as connection:
            return frozenset(one.model.model_id for one in registrations.all_of(connection))
    except (RejectedError, TransientError) as error:
        session.err.print(f"[yellow]warning[/] registered models are not known: {error}")
        return frozenset()


def _tls_problems(settings: Settings) -> Sequence[ConfigProblem]:
    """Of the HTTP server's certificate, which is read only when it starts."""
    if settings.web.tls is not None:
        try:
            server_context(settings.web.tls, "web.tls")
        except ConfigError as error:
            return [replace(problem, file=settings.file) for problem in error.problems]
    return ()


@app.command()
def show(context: typer.Context) -> None:
    """Print the configuration that is in force, with its defaults (JSON; secrets hidden)."""
    session = session_of(context)
    session.print_json(session.settings.model_dump(mode="json"))


@app.command()
def schema(context: typer.Context) -> None:
    """Print the JSON Schema of the file, for editors: it completes and explains every field."""
    typer.echo(json.dumps(settings_schema(session_of(context).components), indent=2))
