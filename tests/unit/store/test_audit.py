from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from hub.domain.audit import AuditEvent
from hub.store import audit
from hub.store.database import Database
from hub.store.schema import audit_log


def _fill(database: Database, rows: int) -> None:
    for number in range(rows):
        with database.write() as connection:
            audit.append(
                connection,
                AuditEvent(
                    at=datetime(2026, 1, 1, tzinfo=UTC),
                    actor="source:dicom",
                    action="study.received",
                    entity=f"study:1.2.{number}",
                    detail={"instances": number, "ratio": 0.1, "text": "ü"},
                ),
            )


def _append_and_fail(database: Database, event: AuditEvent) -> None:
    with database.write() as connection:
        audit.append(connection, event)
        raise ZeroDivisionError


def _without_guards(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_delete")
    else:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_change ON audit_log")


def test_an_untouched_log_proves_itself(database: Database) -> None:
    _fill(database, 25)
    assert audit.verify(database) == (25, None)


@pytest.mark.parametrize(
    ("tampering", "row"),
    [
        ("UPDATE audit_log SET actor = 'nobody' WHERE sequence = 7", 7),
        ("UPDATE audit_log SET detail = '{\"instances\": 99}' WHERE sequence = 7", 7),
        ("UPDATE audit_log SET at = at + 1 WHERE sequence = 1", 1),
        ("DELETE FROM audit_log WHERE sequence = 7", 8),
        ("DELETE FROM audit_log WHERE sequence = 20", 20),
        (
            (
                "INSERT INTO audit_log SELECT 21, at, actor, action, entity, outcome, detail,"
                " study_instance_uid, previous_hash, hash FROM audit_log WHERE sequence = 20"
            ),
            21,
        ),
        (
            "UPDATE audit_log SET sequence = CASE sequence WHEN 8 THEN 80 ELSE sequence END",
            9,
        ),
    ],
)
def test_tampering_with_one_row_is_found_and_named(
    database: Database, tampering: str, row: int
) -> None:
    _fill(database, 20)
    with database.write() as connection:
        _without_guards(connection)
        connection.exec_driver_sql(tampering)
    _, broken = audit.verify(database)
    assert broken is not None
    assert broken.sequence == row


def test_a_rehashed_row_still_breaks_the_chain(database: Database) -> None:
    _fill(database, 5)
    forged = next(audit.events(database, after_sequence=2, limit=1))
    forged = AuditEvent(at=forged.at, actor="x", action="y", entity="z").chained(
        3, forged.previous_hash
    )
    with database.write() as connection:
        _without_guards(connection)
        connection.execute(
            sa.text(
                "UPDATE audit_log SET actor = 'x', action = 'y', entity = 'z', detail = '{}',"
                " hash = :h WHERE sequence = 3"
            ),
            {"h": forged.hash},
        )
    _, broken = audit.verify(database)
    assert broken is not None
    assert broken.sequence == 4


def test_a_well_made_row_behind_the_head_is_found(database: Database) -> None:
    _fill(database, 3)
    (last,) = audit.latest(database, 1)
    event = AuditEvent(at=last.at, actor="a", action="b", entity="c")
    first = event.chained(4, last.hash)
    with database.write() as connection:
        for forged in (first, event.chained(5, first.hash)):
            connection.execute(sa.insert(audit_log).values(**audit._row(forged)))
    _, broken = audit.verify(database)
    assert broken is not None
    assert broken.sequence == 4


def test_the_database_itself_refuses_changes(database: Database) -> None:
    _fill(database, 2)
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as connection:
            connection.exec_driver_sql(statement)
    assert audit.verify(database) == (2, None)


def test_a_rolled_back_transaction_leaves_no_row(database: Database) -> None:
    _fill(database, 1)
    event = AuditEvent(at=datetime(2026, 1, 1, tzinfo=UTC), actor="a", action="b", entity="c")
    with pytest.raises(ZeroDivisionError):
        _append_and_fail(database, event)
    assert audit.verify(database) == (1, None)


def test_writers_at_the_same_time_keep_one_chain(database: Database) -> None:
    threads = [threading.Thread(target=_fill, args=(database, 10)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify(database) == (60, None)
    assert [e.sequence for e in audit.latest(database, 2)] == [59, 60]
