"""Alembic's entry: the caller hands over its engine."""

from __future__ import annotations

from alembic import context

from hub.store import schema_orders, schema_vendors  # noqa: F401 - tables of the same metadata
from hub.store.database import VERSION_TABLE
from hub.store.schema import metadata

_LOCK_KEY = 0x0CA1D


def run() -> None:
    """One host migrates at a time: SQLite's write lock, PostgreSQL's advisory lock."""
    engine = context.config.attributes["engine"]
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=metadata, version_table=VERSION_TABLE
        )
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            context.run_migrations()


run()
