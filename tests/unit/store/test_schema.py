from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hub.errors import IntegrityError
from hub.store import database as database_module
from hub.store import schema_orders, schema_vendors  # noqa: F401 - tables of the same metadata
from hub.store.database import (
    SCHEMA_VERSION,
    VERSION_TABLE,
    Database,
    engine_schema_version,
    migrate,
    open_database,
    schema_version,
    sqlite_url,
)
from hub.store.schema import metadata


def test_the_migrations_make_the_schema_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_documents_of_the_version_before_are_found_by_patient_and_accession_number(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for url in (sqlite_url(tmp_path / "old.sqlite"), request.getfixturevalue("postgres_database")):
        opened = open_database(url)
        config = Config()
        folder = Path(database_module.__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder))
        config.attributes["engine"] = opened.engine
        command.upgrade(config, "0003")
        unchecked = sa.create_engine(opened.url)  # a document without all that it belongs to
        with unchecked.begin() as connection:
            if not opened.is_sqlite:
                connection.exec_driver_sql("SET session_replication_role = replica")
            old = sa.Table("documents", sa.MetaData(), autoload_with=connection)
            values = {c.name: 0 if isinstance(c.type, sa.Integer) else "1" for c in old.columns}
            told = {"patient": {"patient_id": "P-1"}, "accession_number": "A-1"}
            connection.execute(sa.insert(old).values({**values, "identity": told}))
        migrate(opened)
        with opened.read() as connection:
            found = connection.exec_driver_sql("SELECT patient_id, accession_number FROM documents")
            assert [tuple(row) for row in found] == [("P-1", "A-1")]
        unchecked.dispose()
        opened.close()


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)
    current, head = schema_version(database)
    assert current == head


def test_the_version_that_is_needed_is_the_last_migration() -> None:
    config = Config()
    folder = Path(database_module.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_VERSION


def test_a_database_without_tables_has_no_version(tmp_path: Path) -> None:
    opened = open_database(sqlite_url(tmp_path / "new.sqlite"))
    assert schema_version(opened) == (None, SCHEMA_VERSION)
    assert engine_schema_version(opened) == 0
    opened.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_images_of_the_version_before_are_not_taken_for_those_of_this_one(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    postgres = kind == "postgresql"
    url = request.getfixturevalue("postgres_database") if postgres else ""
    opened = open_database(url or sqlite_url(tmp_path / "old.sqlite"))
    config = Config()
    folder = Path(database_module.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    config.attributes["engine"] = opened.engine
    command.upgrade(config, "0001")
    with opened.write() as connection:
        old = sa.Table("instances", sa.MetaData(), autoload_with=connection)
        values = {c.name: 0 if isinstance(c.type, sa.Integer) else "1" for c in old.columns}
        connection.execute(sa.insert(old).values({**values, "header": {}}))
    with pytest.raises(IntegrityError, match="empty data folder"):
        migrate(opened)
    assert schema_version(opened)[0] == "0001"
    with opened.write() as connection:
        connection.execute(sa.delete(old))
    migrate(opened)
    assert schema_version(opened)[0] == schema_version(opened)[1]
    opened.close()
