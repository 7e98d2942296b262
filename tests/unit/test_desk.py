"""What the receiver writes into the database, and that it waits for whoever makes the tables."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hub.bootstrap import desk as module
from hub.bootstrap.desk import Desk
from hub.errors import TransientError
from hub.ports import Sender
from hub.store import audit, workers
from hub.store.database import Database, migrate, open_database, sqlite_url
from hub.store.reception import Rejection
from hub.store.segments.objects import SegmentStore
from hub.supervisor.processes import this_process
from tests.fakes import FrozenClock


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    url, objects = sqlite_url(tmp_path / "hub.sqlite"), SegmentStore(tmp_path / "objects")
    return Desk(url, objects, this_process("receiver"), "receiver", FrozenClock())


def test_it_waits_for_the_tables_that_another_role_makes(desk: Desk, tmp_path: Path) -> None:
    turn = threading.Thread(target=lambda: desk.turn({}))
    turn.start()
    time.sleep(0.1)
    assert turn.is_alive()
    database = open_database(sqlite_url(tmp_path / "hub.sqlite"))
    migrate(database)
    turn.join(timeout=10)
    with database.read() as connection:
        assert len(workers.present(connection, "receiver")) == 1
    database.close()
    desk.close({})


def test_tables_that_do_not_come_are_worth_a_warning(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.0)
    with pytest.raises(TransientError, match="schema none, this version needs"):
        desk.turn({})
    desk.close({})  # and neither does leaving, where nothing waits, need them


def test_a_refusal_that_cannot_be_recorded_keeps_no_others(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(sqlite_url(tmp_path / "hub.sqlite"))
    migrate(database)
    sender = Sender(source="dicom", calling_ae_title="SCANNER", address="127.0.0.1")
    for association_id in ("a1", "a\udc00", "a3"):  # no text of a database's
        desk.rejected(Rejection(association_id, sender, "broken", 9, "0" * 64))
    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", _away)
        with pytest.raises(TransientError):
            desk.turn({})
    desk.turn({})
    events = [e for e in audit.events(database) if e.action == "object.rejected"]
    assert [e.entity for e in events] == [
        "association:a1",
        "association:a3",
        "associations:many",
    ]
    assert events[-1].detail["objects"] == 1
    desk.close({})
    database.close()


def _away(_database: Database) -> None:
    raise TransientError("database: away")
