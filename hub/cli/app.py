"""The application ``caidx``: global options, groups, and how errors are told."""

from __future__ import annotations

import gc
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hub.cli.session import Session, make_console
from hub.config import CONFIG_VARIABLE, DEFAULT_FILE
from hub.errors import CaidxError, ConfigError

FAILURE, USAGE = 1, 2

COMMANDS = {
    "serve": "serve:serve",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "send": "send:send",
    "study": "study:app",
    "patient": "patient:app",
    "order": "order:app",
    "request": "request:app",
    "result": "result:app",
    "delivery": "delivery:app",
    "quarantine": "quarantine:app",
    "alert": "alert:app",
    "model": "model:app",
    "contract": "contract:app",
    "simulate": "simulate:app",
    "key": "key:app",
    "audit": "audit:app",
    "config": "config:app",
}
"""Name -> module of this package and function or group; in the order of the help."""


class _CommandsByName(TyperGroup):
    """Imports a command when it is called: the parent of the roles has to start fast, and stays
    free of what only its children need."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature of its base
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        module, _, name = COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        found = getattr(import_module(f"hub.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            command: Any = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
            single.command(cmd_name)(found)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="caidx",
    help="The hub between hospital systems and AI vendors.",
    cls=_CommandsByName,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    gc.enable()  # see hub.__main__; the roles, which import more, wait a little longer
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
