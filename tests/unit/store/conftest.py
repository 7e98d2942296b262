"""A fresh database of each kind for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.store.database import Database, migrate, open_database, sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The hub's schema on SQLite and on a real PostgreSQL."""
    url = (
        sqlite_url(tmp_path / "hub.sqlite")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    opened = open_database(url)
    migrate(opened)
    yield opened
    opened.close()
