"""Transfers: associations, STOW requests, drops of files; and the studies that they carry."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from hub.ports import EndOfTransfer, Sender
from hub.store.database import insert_new
from hub.store.schema import association_studies, associations, instances


def open_association(
    connection: sa.Connection, association_id: str, receiver_id: str, sender: Sender, at: datetime
) -> None:
    """Record the start of a transfer; one that had ended goes on."""
    started = insert_new(
        connection,
        associations,
        association_id=association_id,
        receiver_id=receiver_id,
        source=sender.source,
        calling_ae_title=sender.calling_ae_title,
        called_ae_title=sender.called_ae_title,
        address=sender.address,
        opened_at=at,
    )
    if not started:
        connection.execute(
            sa.update(associations)
            .where(
                associations.c.association_id == association_id,
                associations.c.closed_at.is_not(None),
            )
            .values(closed_at=None, end=None)
        )


def join_association(
    connection: sa.Connection, association_id: str, study_instance_uid: str
) -> None:
    """Record that a transfer carries a study; once more is fine."""
    insert_new(
        connection,
        association_studies,
        association_id=association_id,
        study_instance_uid=study_instance_uid,
        duplicates=0,
    )


def count_duplicates(
    connection: sa.Connection, association_id: str, study_instance_uid: str, number: int
) -> None:
    """So many more objects of a transfer were there already."""
    connection.execute(
        sa.update(association_studies)
        .where(
            association_studies.c.association_id == association_id,
            association_studies.c.study_instance_uid == study_instance_uid,
        )
        .values(duplicates=association_studies.c.duplicates + number)
    )


def note_end(connection: sa.Connection, association_id: str, end: EndOfTransfer) -> None:
    """A part of a transfer ended so; the whole counts as aborted when any part was, or has no end
    because its writer died or a write to it failed: something may be missing, and come again. It
    counts as ended only when no part is being written any more (``Indexer``)."""
    unless = [associations.c.end.is_(None)] if end is EndOfTransfer.RELEASED else []
    connection.execute(
        sa.update(associations)
        .where(
            associations.c.association_id == association_id,
            associations.c.closed_at.is_(None),
            *unless,
        )
        .values(end=end.value)
    )


def close_association(
    connection: sa.Connection, association_id: str, at: datetime
) -> EndOfTransfer | None:
    """Record the end of a transfer, as its parts ended (``note_end``): aborted, if no part said
    how. None when it had ended already."""
    done = connection.execute(
        sa.update(associations)
        .where(associations.c.association_id == association_id, associations.c.closed_at.is_(None))
        .values(closed_at=at, end=sa.func.coalesce(associations.c.end, EndOfTransfer.ABORTED.value))
    )
    if done.rowcount != 1:
        return None
    query = sa.select(associations.c.end).where(associations.c.association_id == association_id)
    return EndOfTransfer(connection.execute(query).scalar_one())


def told_how(connection: sa.Connection, association_ids: Collection[str]) -> set[str]:
    """Those of which a part told how it ended (``note_end``)."""
    if not association_ids:
        return set()
    query = sa.select(associations.c.association_id).where(
        associations.c.association_id.in_(association_ids), associations.c.end.is_not(None)
    )
    return set(connection.execute(query).scalars())


def open_associations(connection: sa.Connection) -> set[str]:
    """Transfers whose end is not recorded."""
    query = sa.select(associations.c.association_id).where(associations.c.closed_at.is_(None))
    return set(connection.execute(query).scalars())


def sender_of(connection: sa.Connection, association_id: str) -> Sender:
    """Who sent a transfer."""
    row = connection.execute(
        sa.select(associations).where(associations.c.association_id == association_id)
    ).one()
    return Sender(
        source=row.source,
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
        address=row.address,
    )


def studies_of_association(connection: sa.Connection, association_id: str) -> dict[str, int]:
    """Study Instance UID -> objects that were there already, for one transfer."""
    rows = connection.execute(
        sa.select(association_studies.c.study_instance_uid, association_studies.c.duplicates).where(
            association_studies.c.association_id == association_id
        )
    )
    return {row.study_instance_uid: row.duplicates for row in rows}


def received_in_association(
    connection: sa.Connection, association_id: str, study_instance_uid: str
) -> list[str]:
    """SHA-256 of what one transfer added to a study, in order of SOP Instance UID."""
    return list(
        connection.execute(
            sa.select(instances.c.sha256)
            .where(
                instances.c.association_id == association_id,
                instances.c.study_instance_uid == study_instance_uid,
            )
            .order_by(instances.c.sop_instance_uid)
        ).scalars()
    )
