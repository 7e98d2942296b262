"""Deliveries: one document on its way to one destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from hub.domain.delivery import Delivery, DeliveryState, Document, DocumentKind
from hub.domain.identity import StudyIdentity
from hub.store.database import insert_new
from hub.store.results import identity_from_row
from hub.store.schema import deliveries, destination_pace, documents, studies


@dataclass(frozen=True, slots=True)
class DeliveryTask:
    """What is needed to send once more: the delivery, and its document without the bytes."""

    delivery: Delivery
    queue: str
    """The queue of its jobs; its destination is the line within."""
    priority: int
    round: int
    """How often a person asked for it again."""
    sha256: str
    identity: StudyIdentity
    related_uids: tuple[str, ...]
    awaiting: str = ""
    """The destination took it: what to ask by whether it keeps it."""
    awaiting_since: datetime | None = None

    @property
    def attempt(self) -> tuple[int, int]:
        """Which attempt this is: (round, attempts before it)."""
        return (self.round, self.delivery.attempts)

    def document(self, content: bytes) -> Document:
        """The document with its bytes."""
        return Document(
            document_id=self.delivery.document_id,
            kind=self.delivery.kind,
            request_id=self.delivery.request_id,
            identity=self.identity,
            content=content,
            related_uids=self.related_uids,
        )


def add(
    connection: sa.Connection,
    delivery: Delivery,
    *,
    queue: str,
    priority: int,
    at: datetime,
    position: int,
) -> bool:
    """Record a new delivery; False when it is known already."""
    return insert_new(
        connection,
        deliveries,
        delivery_id=delivery.delivery_id,
        document_id=delivery.document_id,
        request_id=delivery.request_id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        queue=queue,
        priority=priority,
        kind=delivery.kind.value,
        state=delivery.state.value,
        attempts=delivery.attempts,
        round=0,
        detail=delivery.detail,
        created_at=at,
        position=position,
    )


def lock_lines(connection: sa.Connection, study_instance_uid: str) -> None:
    """Have what else goes on with a study's deliveries wait for this transaction: whoever ends the
    first in a line and whoever joins it see each other. Before all other locks of a transaction."""
    if connection.dialect.name == "postgresql":
        query = sa.select(studies.c.study_instance_uid).where(
            studies.c.study_instance_uid == study_instance_uid
        )
        connection.execute(query.with_for_update())


def first_in_line(
    connection: sa.Connection, study_instance_uid: str, destination: str
) -> DeliveryTask | None:
    """What is to be sent next of a study to a destination; None: nothing is left to send."""
    query = (
        sa.select(deliveries.c.delivery_id)
        .where(
            deliveries.c.study_instance_uid == study_instance_uid,
            deliveries.c.destination == destination,
            deliveries.c.state.in_([DeliveryState.PENDING.value, DeliveryState.RETRYING.value]),
        )
        .order_by(deliveries.c.created_at, deliveries.c.position)
        .limit(1)
    )
    found = connection.execute(query).scalar()
    return None if found is None else task(connection, found)


def take_turn(
    connection: sa.Connection, destination: str, now: datetime, interval: timedelta
) -> datetime:
    """Reserve the next free moment of a destination that takes one document per interval."""
    table = destination_pace
    insert_new(connection, table, destination=destination, next_at=now)
    query = sa.select(table.c.next_at).where(table.c.destination == destination)
    if connection.dialect.name == "postgresql":
        query = query.with_for_update()
    turn: datetime = max(now, connection.execute(query).scalar_one())
    connection.execute(
        sa.update(table).where(table.c.destination == destination).values(next_at=turn + interval)
    )
    return turn


def task(connection: sa.Connection, delivery_id: str) -> DeliveryTask | None:
    """What to send; None where there is no such delivery. Locks the row on PostgreSQL."""
    query = (
        sa.select(deliveries, documents.c.sha256, documents.c.identity, documents.c.related_uids)
        .join(documents, documents.c.document_id == deliveries.c.document_id)
        .where(deliveries.c.delivery_id == delivery_id)
    )
    if connection.dialect.name == "postgresql":
        query = query.with_for_update(of=deliveries)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return DeliveryTask(
        delivery=delivery_from_row(row),
        queue=row.queue,
        priority=row.priority,
        round=row.round,
        sha256=row.sha256,
        identity=identity_from_row(row.identity),
        related_uids=tuple(row.related_uids),
        awaiting=row.awaiting or "",
        awaiting_since=row.awaiting_since,
    )


def set_state(
    connection: sa.Connection, delivery_id: str, state: DeliveryState, **values: object
) -> None:
    """Move a delivery; ``values`` are further columns to set."""
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.delivery_id == delivery_id)
        .values(state=state.value, **values)
    )


def start_next_round(connection: sa.Connection, delivery_id: str) -> int:
    """A person asks for it again: attempts start at nought; returns the number of the round."""
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.delivery_id == delivery_id)
        .values(
            state=DeliveryState.PENDING.value,
            attempts=0,
            round=deliveries.c.round + 1,
            next_attempt_at=None,
        )
    )
    return int(
        connection.execute(
            sa.select(deliveries.c.round).where(deliveries.c.delivery_id == delivery_id)
        ).scalar_one()
    )


def delivery_from_row(row: sa.Row[Any]) -> Delivery:
    """A row of ``deliveries`` as a value."""
    return Delivery(
        delivery_id=row.delivery_id,
        destination=row.destination,
        document_id=row.document_id,
        kind=DocumentKind(row.kind),
        request_id=row.request_id,
        study_instance_uid=row.study_instance_uid,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        detail=row.detail,
    )
