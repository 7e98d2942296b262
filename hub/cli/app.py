"""The application ``caidx``: global options, groups, and how errors are told."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from hub.cli import alert, audit, config, delivery, demo, doctor, model, request, send, serve, study
from hub.cli.session import Session, make_console
from hub.config import CONFIG_VARIABLE, DEFAULT_FILE
from hub.errors import CaidxError, ConfigError

FAILURE, USAGE = 1, 2

app = typer.Typer(
    name="caidx",
    help="The hub between hospital systems and AI vendors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("send")(send.send)
app.add_typer(study.app, name="study")
app.add_typer(request.app, name="request")
app.add_typer(delivery.app, name="delivery")
app.add_typer(alert.app, name="alert")
app.add_typer(model.app, name="model")
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"caidx {version('caidx-hub')}")
        raise typer.Exit


@app.callback()
def prepare(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar=CONFIG_VARIABLE,
            show_envvar=True,
            dir_okay=False,
            help=f"Configuration file. Without it: {DEFAULT_FILE} if there is one, or defaults.",
        ),
    ] = None,
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """The hub between hospital systems and AI vendors: studies in, findings out, all audited."""
    context.obj = Session(config_file)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (it failed), 2 (usage or configuration) or 130.

    What the hub itself refuses is told in one line per problem, without a traceback.
    """
    err = make_console(stderr=True)
    try:
        app(args=arguments)
    except SystemExit as leaving:  # typer tells usage errors and leaves by itself
        return leaving.code if isinstance(leaving.code, int) else FAILURE
    except ConfigError as error:
        for problem in error.problems:
            err.print(f"[bold red]error[/] {_plain(str(problem))}", soft_wrap=True)
        return USAGE
    except CaidxError as error:
        err.print(f"[bold red]error[/] {_plain(str(error))}", soft_wrap=True)
        return FAILURE
    return 0


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
