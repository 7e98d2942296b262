"""What archives said to storage commitments that destinations asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from hub.domain.delivery import DeliveryState
from hub.errors import TransientError
from hub.ports import Clock, CommitmentReport
from hub.store.database import Database, insert_new
from hub.store.schema import commitment_reports, deliveries

MOST_REPORTS = 50_000
"""Of those that no delivery waits for: not yet, not any more, or a stranger's."""
_CONFIRMING = deliveries.c.state == DeliveryState.CONFIRMING.value


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
    """Keep a report; of several with the same transaction UID the last one counts.

    One may come before the delivery that waits for it is on record, and so those of unknown
    transactions are kept too, for a time (``forget_reports``).

    Raises:
        TransientError: no delivery waits for it, and there are too many of those.
    """
    table = commitment_reports
    uid = report.transaction_uid
    if not _is_awaited(connection, uid) and _is_full(connection):
        raise TransientError("too many reports of storage commitment that nobody waits for")
    connection.execute(sa.delete(table).where(table.c.transaction_uid == uid))
    insert_new(
        connection,
        table,
        transaction_uid=uid,
        committed=list(report.committed),
        failed=[list(one) for one in report.failed],
        received_at=clock.now(),
    )


def forget_reports(connection: sa.Connection, before: datetime) -> None:
    """Drop those that came before, and that no delivery waits for."""
    table = commitment_reports.c
    awaited = sa.exists().where(_CONFIRMING, deliveries.c.awaiting == table.transaction_uid)
    connection.execute(sa.delete(commitment_reports).where(table.received_at < before, ~awaited))


def _is_awaited(connection: sa.Connection, transaction_uid: str) -> bool:
    awaited = sa.exists().where(_CONFIRMING, deliveries.c.awaiting == transaction_uid)
    return bool(connection.execute(sa.select(awaited)).scalar_one())


def _is_full(connection: sa.Connection) -> bool:
    beyond = sa.select(commitment_reports.c.transaction_uid).offset(MOST_REPORTS - 1).limit(1)
    return connection.execute(beyond).first() is not None
