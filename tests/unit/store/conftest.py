"""A fresh database of each kind for every test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hub.store.database import Database, open_database
from hub.store.index_batch import QuietTimes
from tests.fakes import FrozenClock
from tests.migrated import migrated_sqlite
from tests.stored import StoreBench


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The hub's schema on SQLite and on a real PostgreSQL."""
    opened = (
        migrated_sqlite(tmp_path / "hub.sqlite")
        if request.param == "sqlite"
        else open_database(request.getfixturevalue("migrated_postgres_database"))
    )
    yield opened
    opened.close()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def bench(database: Database, tmp_path: Path, clock: FrozenClock) -> Iterator[StoreBench]:
    """An intake and its indexer; a study is complete 2 s after a release, 30 s after silence."""
    quiet = QuietTimes(quiet=timedelta(seconds=2), straggler=timedelta(seconds=30))
    bench = StoreBench(database, tmp_path / "objects", clock, {"dicom": quiet})
    yield bench
    bench.close()
