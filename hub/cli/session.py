"""What every command works with: configuration, store, and where answers go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Console
from rich.table import Table

from hub.config import Settings, read_settings
from hub.errors import RejectedError
from hub.ports import at_first_call
from hub.registry import Components, discover

if TYPE_CHECKING:
    from hub.bootstrap.hub import Hub

_open_hub = at_first_call("hub.bootstrap.hub:open_hub")
_schema_version = at_first_call("hub.store.database:schema_version")

_WIDTH_WITHOUT_TERMINAL = 160

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most entries to print.")]


def make_console(*, stderr: bool = False) -> Console:
    """A console that is also readable in a log: no wrapping at 80 where there is no terminal."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console


@dataclass
class Session:
    """One run of ``caidx``."""

    config_file: Path | None = None
    out: Console = field(default_factory=make_console)
    err: Console = field(default_factory=lambda: make_console(stderr=True))

    @cached_property
    def components(self) -> Components:
        """What is installed."""
        return discover()

    @cached_property
    def settings(self) -> Settings:
        """The configuration; its routes may name models that are registered (`config check` looks
        whether they are).

        Raises:
            ConfigError: every mistake in it.
        """
        return read_settings(self.config_file, self.components, registered=None)

    @property
    def has_run(self) -> bool:
        """Whether a hub has a database: one in a file is made when it first runs."""
        settings = self.settings
        return settings.database.url is not None or (settings.data / "caidx.sqlite").is_file()

    @contextmanager
    def hub(self) -> Iterator[Hub]:
        """The store of a hub that has run before.

        Raises:
            RejectedError: none has, or its schema is that of another version.
            TransientError: the database cannot be reached.
        """
        settings = self.settings
        if not self.has_run:
            raise RejectedError(f"no hub has run in {settings.data} yet; `caidx serve` starts one")
        hub: Hub = _open_hub(settings, self.components)
        try:
            found, needed = _schema_version(hub.database)
            if found != needed:
                raise RejectedError(
                    f"the database has schema {found or 'none'}, this version needs {needed}; "
                    "`caidx serve` brings it up to date"
                )
            yield hub
        finally:
            hub.close()

    def print_json(self, value: object) -> None:
        """A value for programs, on standard output."""
        typer.echo(json.dumps(to_jsonable_python(value), indent=2, ensure_ascii=False))

    def print_table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str
    ) -> None:
        """A table, or a sentence where there is nothing."""
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        if table.row_count:
            self.out.print(table)
        else:
            self.out.print(empty)


STATE_STYLES = {
    "delivered": "green",
    "done": "green",
    "assessed": "green",
    "routed": "green",
    "match": "green",
    "ok": "green",
    "pass": "green",
    "FAIL": "bold red",
    "stored": "green",
    "retrying": "yellow",
    "waiting": "yellow",
    "not-assessable": "yellow",
    "unsuitable": "yellow",
    "warning": "yellow",
    "skipped": "yellow",
    "active": "green",
    "suspended": "bold red",
    "dead": "bold red",
    "failed": "bold red",
    "refused": "bold red",
    "quarantined": "bold red",
    "rule-error": "bold red",
}


def cell(value: Any) -> str:
    """A value as a table shows it; states in their colour."""
    if value is None or value == "":
        return "-"
    if hasattr(value, "astimezone"):
        return str(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, list | tuple):
        return "; ".join(str(part) for part in value) or "-"
    text = str(value).replace("[", r"\[")
    style = STATE_STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text


def session_of(context: typer.Context) -> Session:
    """The session that the application made before the command."""
    session = context.obj
    if not isinstance(session, Session):
        raise TypeError("the command was called without the application")
    return session
