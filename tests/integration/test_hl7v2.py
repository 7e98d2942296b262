"""An ADT feed into real databases, through what the receiver gives to its sources; and results to
a listener that shares no code with the hub."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hl7
import pytest
from hl7.client import MLLPClient

from connectors.hl7v2 import CONNECTOR
from connectors.hl7v2.config import Hl7v2SourceConfig
from hub.bootstrap import desk as desk_module
from hub.bootstrap.desk import Desk
from hub.domain.identity import PatientIdentity
from hub.ports import SourceContext
from hub.store.database import Database, migrate, open_database, sqlite_url
from hub.store.patients import current_identity
from hub.store.segments.objects import SegmentStore
from hub.supervisor.processes import this_process
from tests.contracts.recording import RecordingIntake, WallClock
from tests.peers import free_port
from tests.peers.postgres import Postgres

MERGE = (
    "MSH|^~\\&|RIS|H|||20260314||ADT^A40^ADT_A39|{id}|P|2.5.1||||||UNICODE UTF-8\r"
    "PID|1||{new}^^^KH^MR||Müller^Jörg\rMRG|{old}^^^KH^MR\r"
)


@contextmanager
def feed(url: str, folder: Path) -> Iterator[int]:
    """The port of a source as the receiver builds it, over a database."""
    desk = Desk(url, SegmentStore(folder), this_process("receiver"), "receiver", WallClock())
    port = free_port()
    context = SourceContext("adt", RecordingIntake(), WallClock(), desk)
    assert CONNECTOR.build_source is not None
    source = CONNECTOR.build_source(Hl7v2SourceConfig(port=port), context)
    source.start()
    try:
        yield port
    finally:
        source.stop()
        desk.close({})


def told(port: int, old: str, new: str, control_id: str = "1") -> str:
    """MSA-1 to a merge."""
    with MLLPClient("127.0.0.1", port) as client:
        message = MERGE.format(id=control_id, old=old, new=new).encode()
        answer = hl7.parse(client.send_message(message).strip(b"\x0b\x1c\r"), "utf-8")
    return str(answer.extract_field("MSA", 1, 1))


def now(database: Database, patient_id: str) -> PatientIdentity:
    with database.read() as connection:
        return current_identity(connection, PatientIdentity(patient_id, "KH"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "hub.sqlite")
    return str(request.getfixturevalue("postgres_database"))


def test_a_merge_is_there_when_it_is_acknowledged(url: str, tmp_path: Path) -> None:
    database = open_database(url)
    migrate(database)
    with feed(url, tmp_path) as port:
        for number in range(20):
            assert told(port, str(number), str(number + 1), f"c{number}") == "AA"
            assert now(database, "0") == PatientIdentity(str(number + 1), "KH", "Müller^Jörg")
        assert told(port, "0", "1", "c0") == "AA"  # the same message: known
        assert now(database, "0").patient_id == "20"
    database.close()


def test_a_sender_tries_again_until_the_tables_are_there(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "_LONGEST_WAIT", 0.1)
    with feed(url, tmp_path) as port:
        assert told(port, "A", "B") == "AE"
        database = open_database(url)
        migrate(database)
        assert told(port, "A", "B") == "AA"
        assert now(database, "A").patient_id == "B"
        database.close()


@pytest.mark.peers
def test_a_sender_tries_again_while_the_database_is_away(
    postgres: Postgres, postgres_database: str, tmp_path: Path
) -> None:
    database = open_database(postgres_database)
    migrate(database)
    with feed(postgres_database, tmp_path) as port:
        assert told(port, "A", "B", "1") == "AA"
        postgres.stop()
        started = time.monotonic()
        assert told(port, "B", "C", "2") == "AE"
        assert time.monotonic() - started < 30
        postgres.start()
        assert told(port, "B", "C", "2") == "AA"
        assert now(database, "A").patient_id == "C"
    database.close()
