"""``caidx contract``: the JSON Schemas of what vendors are sent and may answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hub.formats.contract.schemas import MESSAGES, contract_schema_text, schema_file

app = typer.Typer(help="The contract with vendors' services, as JSON Schema.", no_args_is_help=True)


@app.command()
def schema(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(MESSAGES))],
) -> None:
    """Print the JSON Schema of one message of the contract."""
    if name not in MESSAGES:
        raise typer.BadParameter(f"must be one of {', '.join(MESSAGES)}", param_hint="NAME")
    typer.echo(contract_schema_text(name), nl=False)


@app.command()
def write(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, writable=True)
    ],
) -> None:
    """Write all JSON Schemas of the contract into a folder (docs/contract)."""
    for name in MESSAGES:
        (directory / schema_file(name)).write_text(contract_schema_text(name), encoding="utf-8")
