"""The life of an order: each change with its audit row and its next look.

placed -> waiting -> in progress -> completed | rejected | failed, or cancelled in between. From
in progress on the requests that answer it tell (hub/store/order_rows.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from hub.domain.order import Order, OrderState
from hub.ports import Jobs
from hub.store import order_rows
from hub.store.database import Database
from hub.store.journal import Journal
from hub.store.order_rows import Look, OrderRow

WAITS = timedelta(days=7)
"""For images, where the order names no deadline."""
_FIRST_LOOK, _LONGEST_LOOK = 5.0, 300.0
"""Seconds between two looks."""
_MOST_DOUBLINGS = 10
_BEFORE = (OrderState.PLACED, OrderState.WAITING)


@dataclass(frozen=True, slots=True)
class OrderLedger:
    """What becomes of an order before its requests begin; nothing once it was taken back."""

    database: Database
    jobs: Jobs
    journal: Journal

    def open_row(self, connection: sa.Connection, order_id: str) -> OrderRow | None:
        """An order that nothing was done for yet, locked for the transaction; None where another
        look was faster, or it was taken back."""
        row = order_rows.get(connection, order_id, lock=True)
        return row if row is not None and row.state in _BEFORE else None

    def is_late(self, row: OrderRow, within: timedelta = WAITS) -> bool:
        """Whether nobody waits any more."""
        return self.journal.clock.now() >= limit(row, within)

    def wait(
        self,
        row: OrderRow,
        look: Look,
        reason: str,
        *,
        follow: bool,
        within: timedelta = WAITS,
    ) -> None:
        """As ``put_off``, in a transaction of its own."""
        with self.database.write() as connection:
            self.put_off(connection, row, look, reason, follow=follow, within=within)

    def put_off(
        self,
        connection: sa.Connection,
        row: OrderRow,
        look: Look,
        reason: str,
        *,
        follow: bool,
        within: timedelta = WAITS,
    ) -> bool:
        """The order waits: until something becomes of its study, until the next look (``follow``),
        at the longest until it is too late. False when it does not wait any more."""
        now = self.open_row(connection, row.order.order_id)
        if now is None:
            return False
        left = (limit(now, within) - self.journal.clock.now()).total_seconds()
        order_rows.change(connection, self.journal, now, OrderState.WAITING, (reason,))
        if look.goes_on:
            delay = left
            if follow:
                doublings = min(look.number, _MOST_DOUBLINGS)
                delay = min(_FIRST_LOOK * 2**doublings, _LONGEST_LOOK, left)
            following = replace(look, number=look.number + 1)
            self.jobs.enqueue(connection, following.job(row.order, max(0.1, delay)))
        return True

    def end(
        self,
        row: OrderRow,
        state: OrderState,
        reasons: Sequence[str],
        alarm: str = "",
    ) -> None:
        """Nothing is asked for it; ``alarm``: kind of the alert by which a person is told."""
        with self.database.write() as connection:
            now = self.open_row(connection, row.order.order_id)
            if now is None:
                return
            order_rows.change(connection, self.journal, now, state, reasons)
            if alarm:
                self._alarm(connection, alarm, row.order, "; ".join(reasons))

    def drop(self, order: Order) -> None:
        """Forget an order of the hub's own that no route has a use for."""
        with self.database.write() as connection:
            order_rows.drop(connection, order.order_id)

    def _alarm(self, connection: sa.Connection, action: str, order: Order, reason: str) -> None:
        self.journal.alarm(
            connection, action, f"order:{order.order_id}", order.study_instance_uid, reason=reason
        )


def limit(row: OrderRow, within: timedelta = WAITS) -> datetime:
    """Until when somebody waits: the order's own deadline, or so long after it came."""
    return row.order.deadline or row.received_at + within
