"""Databases for tests that ask what the hub does with one, and not what a power cut does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from hub.store.database import migrate, open_database
from tests.peers.postgres import Postgres, cluster, database_in


@pytest.fixture(scope="session")
def scratch_postgres() -> Iterator[Postgres]:
    """One PostgreSQL cluster for the whole run that waits for no disk."""
    with cluster(durable=False) as server:
        yield server


@pytest.fixture
def postgres_database(scratch_postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    with database_in(scratch_postgres) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(scratch_postgres: Postgres) -> str:
    """The name of a database that `migrate` made, to make others of it."""
    name = f"template_{uuid.uuid4().hex}"
    scratch_postgres.execute(f'CREATE DATABASE "{name}"')
    database = open_database(scratch_postgres.database_url(name))
    migrate(database)
    database.close()
    return name


@pytest.fixture
def migrated_postgres_database(scratch_postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """The URL of a fresh database with the hub's schema."""
    with database_in(scratch_postgres, template=migrated_template) as url:
        yield url
