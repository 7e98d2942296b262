"""What archives said to storage commitments that destinations asked for."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from hub.ports import Clock, CommitmentReport
from hub.store.database import Database
from hub.store.schema import commitment_reports


@dataclass(frozen=True, slots=True)
class StoredConfirmations:
    """hub.ports.Confirmations on the database: reports arrive in another process."""

    database: Database

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """As hub.ports.Confirmations."""
        query = sa.select(commitment_reports).where(
            commitment_reports.c.transaction_uid == transaction_uid
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        failed = tuple((uid, int(reason)) for uid, reason in row.failed)
        return CommitmentReport(transaction_uid, tuple(row.committed), failed)


def keep_report(connection: sa.Connection, clock: Clock, report: CommitmentReport) -> None:
    """Keep a report; of several with the same transaction UID the last one counts."""
    table = commitment_reports
    connection.execute(sa.delete(table).where(table.c.transaction_uid == report.transaction_uid))
    connection.execute(
        sa.insert(table).values(
            transaction_uid=report.transaction_uid,
            committed=list(report.committed),
            failed=[list(one) for one in report.failed],
            received_at=clock.now(),
        )
    )
