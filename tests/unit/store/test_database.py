from __future__ import annotations

import pytest
import sqlalchemy as sa

from hub.ports import AFTER_COMMIT
from hub.store.database import Database, insert_new
from hub.store.schema import studies
from tests.fakes import FrozenClock


def _insert(connection: sa.Connection, patient_id: str) -> bool:
    return insert_new(
        connection,
        studies,
        study_instance_uid="1.2.3",
        patient_id=patient_id,
        issuer_of_patient_id="",
        first_received_at=FrozenClock().now(),
        problems=[],
    )


def test_a_row_is_inserted_once_and_says_so(database: Database) -> None:
    with database.write() as connection:
        assert _insert(connection, "A")
        assert not _insert(connection, "B")
    with database.read() as connection:
        assert connection.execute(sa.select(studies.c.patient_id)).scalars().all() == ["A"]


def _call_after_commit(connection: sa.Connection, calls: list[str]) -> None:
    connection.info.setdefault(AFTER_COMMIT, []).append(lambda: calls.append("committed"))


def test_what_waits_for_a_commit_is_called_once_after_it(database: Database) -> None:
    calls: list[str] = []

    with database.write() as connection:
        _call_after_commit(connection, calls)
        assert calls == []
    with database.write():
        pass

    assert calls == ["committed"]


def test_what_waits_for_a_commit_is_not_called_after_a_rollback(database: Database) -> None:
    calls: list[str] = []

    def fail() -> None:
        with database.write() as connection:
            _call_after_commit(connection, calls)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.write():
        pass

    assert calls == []
