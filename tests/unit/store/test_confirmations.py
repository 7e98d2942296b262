"""What archives said to storage commitments: kept while somebody waits for it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from hub.errors import TransientError
from hub.ports import CommitmentReport
from hub.store import confirmations
from hub.store.confirmations import StoredConfirmations, forget_reports, keep_report
from hub.store.database import Database
from hub.store.schema import commitment_reports
from tests.fakes import FrozenClock
from tests.unit.store.test_delivery_ledger import TAKEN, Bench, bench

__all__ = ["bench"]

AWAITED = CommitmentReport(TAKEN.awaiting, ("1.2.3",), (("1.2.4", 0x0112),))
HOUR = timedelta(hours=1)


def keep(database: Database, report: CommitmentReport, clock: FrozenClock) -> None:
    with database.write() as connection:
        keep_report(connection, clock, report)


def kept(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(commitment_reports.c.transaction_uid)).scalars())


def test_the_last_word_on_a_transaction_counts(database: Database, clock: FrozenClock) -> None:
    told = StoredConfirmations(database)
    assert told.commitment_report(AWAITED.transaction_uid) is None
    keep(database, CommitmentReport(AWAITED.transaction_uid, ()), clock)
    keep(database, AWAITED, clock)
    assert told.commitment_report(AWAITED.transaction_uid) == AWAITED


def test_a_report_may_come_before_its_delivery_is_on_record(
    bench: Bench, database: Database
) -> None:
    keep(database, AWAITED, bench.clock)
    bench.send("1.1")
    bench.ledger.taken(bench.task(), TAKEN)
    assert StoredConfirmations(database).commitment_report(TAKEN.awaiting) == AWAITED


def test_reports_that_nobody_waits_for_do_not_fill_the_disk(
    bench: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmations, "MOST_REPORTS", 3)
    for number in range(3):
        keep(database, CommitmentReport(f"2.25.100{number}", ()), bench.clock)
    with pytest.raises(TransientError, match="too many"):
        keep(database, CommitmentReport("2.25.1003", ()), bench.clock)
    bench.send("1.1")
    bench.ledger.taken(bench.task(), TAKEN)
    keep(database, AWAITED, bench.clock)
    assert kept(database) == {"2.25.1000", "2.25.1001", "2.25.1002", TAKEN.awaiting}


def test_what_nobody_waits_for_is_forgotten(bench: Bench, database: Database) -> None:
    bench.send("1.1")
    bench.ledger.taken(bench.task(), TAKEN)
    keep(database, AWAITED, bench.clock)
    keep(database, CommitmentReport("2.25.1000", ()), bench.clock)
    bench.clock.advance(1)
    before = bench.clock.now()
    keep(database, CommitmentReport("2.25.1001", ()), bench.clock)
    with database.write() as connection:
        forget_reports(connection, before)
    assert kept(database) == {TAKEN.awaiting, "2.25.1001"}
