"""``caidx demo``."""

from __future__ import annotations

import typer


def demo(context: typer.Context) -> None:
    """Show the whole path on this machine."""
