"""One database for the hub's tables and the job engine's: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from hub.errors import RejectedError, TransientError
from hub.ports import AFTER_COMMIT, at_first_call

VERSION_TABLE = "caidx_schema_version"
SCHEMA_VERSION = "0004"
"""The last of the migrations: what this program needs."""
_ENGINE_SCHEMA, _ENGINE_VERSION_TABLE = "dbos", "dbos_migrations"
_AT_ONCE = 1000
"""Values that one statement names."""
_MIGRATIONS = Path(__file__).parent / "migrations"

_alembic_config = at_first_call("alembic.config:Config")
_upgrade = at_first_call("alembic.command:upgrade")


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file; the engine and the hub open the same one."""
    return f"sqlite:///{path.absolute()}"


@dataclass(frozen=True, slots=True)
class Database:
    """Transactions over one engine.

    A write transaction on SQLite takes the write lock at its start (BEGIN IMMEDIATE), so that
    what it reads is still true when it writes; on PostgreSQL rows are locked where they must be.
    """

    engine: sa.Engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; commits at the end, rolls back on any error.

        Raises:
            TransientError: the database cannot be reached, is locked or out of space.
        """
        with _transient(), self.engine.connect() as connection:
            connection.info.pop(AFTER_COMMIT, None)  # of a transaction that was rolled back
            with connection.begin():
                yield connection
            committed = connection.info.pop(AFTER_COMMIT, ())
        for call in committed:
            call()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, and waits for no writer.

        Raises:
            TransientError: the database cannot be reached.
        """
        with _transient(), self.engine.connect() as raw:
            connection = raw.execution_options(caidx_read_only=True)
            with connection.begin():
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A read transaction in which every query sees the same moment.

        Raises:
            TransientError: the database cannot be reached.
        """
        options: dict[str, Any] = {"caidx_read_only": True}
        if not self.is_sqlite:
            options["isolation_level"] = "REPEATABLE READ"
        with _transient(), self.engine.connect() as raw:
            connection = raw.execution_options(**options)
            with connection.begin():
                yield connection

    @property
    def url(self) -> str:
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def close(self) -> None:
        self.engine.dispose()


def insert_new(connection: sa.Connection, table: sa.Table, **values: object) -> bool:
    """Insert a row unless its primary key is there already; True when it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**values).on_conflict_do_nothing()
    # Row counts of inserts are not reliable on every driver; a returned key is.
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


def insert_new_rows(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]
) -> list[tuple[Any, ...]]:
    """Insert the rows whose primary keys are not there yet, many with one statement; returns the
    keys of those that were inserted. All rows name the same columns."""
    if not rows:
        return []
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing().returning(*table.primary_key)
    return [tuple(key) for key in connection.execute(statement, rows)]


def parts(keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys for ``IN``: as many as one statement takes, in the order of their code points."""
    ordered = sorted(keys)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]


def open_database(url: str, *, pool_size: int = 10) -> Database:
    """Connect; the schema is not touched (see ``migrate``)."""
    if url.startswith("sqlite"):
        return Database(_sqlite_engine(url))
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return Database(
        sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            hide_parameters=True,  # in messages of errors: they may be patient data
        )
    )


def migrate(database: Database) -> None:
    """Bring the schema to this version, whichever one it has; safe to call from several hosts.

    Alembic is loaded only where there is something to do: it takes as long as all else here.
    """
    with database.read() as connection:
        if _version_in(connection) == SCHEMA_VERSION:
            return
    config = _alembic_config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["engine"] = database.engine
    with _transient():
        _upgrade(config, "head")


def schema_version(database: Database) -> tuple[str | None, str]:
    """(the database's version, the version this program needs)."""
    with database.read() as connection:
        return _version_in(connection), SCHEMA_VERSION


def engine_schema_version(database: Database) -> int:
    """The version of the job engine's tables; 0 where there are none. Asked here because to ask
    the engine is to load it."""
    schema = None if database.is_sqlite else _ENGINE_SCHEMA
    with database.read() as connection:
        if not sa.inspect(connection).has_table(_ENGINE_VERSION_TABLE, schema):
            return 0
        table = sa.table(_ENGINE_VERSION_TABLE, sa.column("version"), schema=schema)
        return connection.execute(sa.select(table.c.version)).scalar() or 0


def _version_in(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    name: sa.ColumnClause[str] = sa.column("version_num")
    version = sa.select(name).select_from(sa.table(VERSION_TABLE))
    return connection.execute(version).scalar()


@contextmanager
def refusing() -> Iterator[None]:
    """Around a transaction whose values come from outside. What is no fault of the values goes on
    as it is: whoever sent them must not be told that they are wrong.

    Raises:
        RejectedError: the database is there and does not take them.
    """
    try:
        yield
    except (sa.exc.StatementError, UnicodeError) as error:
        if not _is_of_the_values(error):
            raise
        # As below, without the values.
        name = type(error.__cause__ or error).__name__
        raise RejectedError(f"the database does not take it: {name}") from error


def _is_of_the_values(error: sa.exc.StatementError | UnicodeError) -> bool:
    """And not of the statement, of the database, or of what it holds already. What no driver can
    even encode has no class of its own."""
    return isinstance(error, sa.exc.DataError) or not isinstance(error, sa.exc.DBAPIError)


@contextmanager
def _transient() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        # The statement and its values stay out of the message: they may hold patient data.
        raise TransientError(f"database: {type(error.__cause__ or error).__name__}") from error


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": 30, "check_same_thread": False},
        pool_size=10,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, by us
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=30000",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        read_only = connection.get_execution_options().get("caidx_read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
