"""``caidx config``: check, show and describe the configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import typer
from rich.markup import escape

from hub.bootstrap.hub import package_of
from hub.cli.session import Json, Session, session_of
from hub.config import Settings, read_settings, settings_schema
from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError
from hub.store import registrations
from hub.transport.tls import server_context

_ASKS_NOBODY = (
    "The hub starts, raises the alert route.model-unknown, and this route asks nobody, until the "
    "model is registered (caidx model register FOLDER) and activated (caidx model activate ID)"
)

app = typer.Typer(help="Check, show and describe the configuration.", no_args_is_help=True)


@app.command()
def check(context: typer.Context, *, as_json: Json = False) -> None:
    """Find every mistake before start: file, line and field of each. Exit status 2 if any.

    A route may name a model that nobody has registered yet: the hub starts all the same, so this
    is a warning, as whatever else doesn't keep it from starting.
    """
    session = session_of(context)
    problems: list[ConfigProblem] = []
    warnings: list[str] = []
    try:
        settings = session.settings
        for model in settings.models:
            try:
                package_of(model, session.components)
            except ConfigError as error:
                problems += error.problems
        problems += _tls_problems(settings)
        warnings += [settings.web.exposure] if settings.web.exposure else []
        warnings += _routes_without_model(session)
        file = settings.file
    except ConfigError as error:
        problems += error.problems
        file = error.problems[0].file
    if as_json:
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
    for text in warnings:
        session.err.print(f"[bold yellow]warning[/] {escape(text)}", soft_wrap=True)


def _routes_without_model(session: Session) -> list[str]:
    """What is said of each route whose model is neither configured nor registered."""
    registered: frozenset[str] = frozenset()
    if session.has_run:
        try:
            with session.hub() as hub, hub.database.read() as connection:
                known = registrations.all_of(connection)
                registered = frozenset(one.model.model_id for one in known)
        except (RejectedError, TransientError) as error:
            return [f"registered models are not known: {error}"]
    try:
        read_settings(session.config_file, session.components, registered=registered)
    except ConfigError as error:  # all else was found in order
        return [f"{problem}. {_ASKS_NOBODY}" for problem in error.problems]
    return []


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
