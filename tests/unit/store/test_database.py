from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from hub.errors import RejectedError, TransientError
from hub.ports import AFTER_COMMIT
from hub.store.database import Database, insert_new, refusing
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


# --- values from outside -------------------------------------------------------------------------


def test_values_that_the_database_does_not_take_are_refused_without_being_repeated(
    database: Database,
) -> None:
    refused = pytest.raises(RejectedError, match=r"^the database does not take it: \w+$")
    with refused, refusing(), database.write() as connection:
        _insert(connection, "half a \ud83d")


def _twice(connection: sa.Connection) -> None:
    values = {"study_instance_uid": "1.2.3", "patient_id": "", "issuer_of_patient_id": ""}
    values |= {"first_received_at": FrozenClock().now(), "problems": []}
    connection.execute(sa.insert(studies).values(values))
    connection.execute(sa.insert(studies).values(values))


def _stopped(connection: sa.Connection) -> None:
    raise ValueError("a mistake of the hub's own")


def _without_its_table(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.column("a")).select_from(sa.table("no_such_table")))


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize(
    ("work", "raised"),
    [
        (_twice, sa.exc.IntegrityError),
        (_stopped, ValueError),
        (_without_its_table, (TransientError, sa.exc.ProgrammingError)),
    ],
)
def test_what_is_no_fault_of_the_values_is_not_said_of_them(
    database: Database,
    work: Callable[[sa.Connection], None],
    raised: type[Exception],
    *,
    outer: bool,
) -> None:
    if outer:
        with pytest.raises(raised), refusing(), database.write() as connection:
            work(connection)
    else:
        with pytest.raises(raised), database.write() as connection, refusing():
            work(connection)
