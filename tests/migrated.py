"""Databases that have the hub's schema already: a copy of one is a fraction of a migration."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hub.store.database import Database, migrate, open_database, sqlite_url


def migrated_sqlite(path: Path) -> Database:
    """An open SQLite database with the hub's schema, in a file that is not there yet."""
    with path.open("xb") as file:
        file.write(_sqlite_file())
    return open_database(sqlite_url(path))


@cache
def _sqlite_file() -> bytes:
    """What `migrate` makes of an empty file, made once in a run."""
    with TemporaryDirectory(prefix="caidx-schema-") as folder:
        path = Path(folder) / "hub.sqlite"
        database = open_database(sqlite_url(path))
        migrate(database)
        database.close()
        assert [file.name for file in Path(folder).iterdir()] == [path.name], "all is in one file"
        return path.read_bytes()
