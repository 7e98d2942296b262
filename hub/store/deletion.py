"""What goes with a study when it is deleted, in the caller's transaction (hub.store.retention)."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from hub.store import observations
from hub.store.schema import documents, instances, requests, segments, studies

SEALED, RELEASED = "sealed", "released"


def delete_images(connection: sa.Connection, uid: str, now: datetime) -> tuple[list[str], int]:
    """Drop the index rows; returns digests and bytes of what went."""
    of_study = instances.c.study_instance_uid == uid
    rows = connection.execute(
        sa.select(instances.c.sha256, instances.c.length)
        .where(of_study)
        .order_by(instances.c.sop_instance_uid, instances.c.sha256)
    ).all()
    connection.execute(sa.delete(instances).where(of_study))
    if rows:
        connection.execute(
            sa.update(studies).where(studies.c.study_instance_uid == uid).values(purged_at=now)
        )
    return [row.sha256 for row in rows], sum(row.length for row in rows)


def erase_values(connection: sa.Connection, uid: str, now: datetime) -> int:
    """Delete the values of a case; returns how many."""
    erased = observations.erase_case(connection, uid, now)
    if erased is None:
        return 0
    connection.execute(
        sa.update(studies).where(studies.c.study_instance_uid == uid).values(purged_at=now)
    )
    return erased


def release_segments(connection: sa.Connection, uid: str) -> int:
    """Have the indexer overwrite what nobody writes any more; returns how many."""
    released = connection.execute(
        sa.update(segments)
        .where(segments.c.study_instance_uid == uid, segments.c.state == SEALED)
        .values(state=RELEASED)
    )
    return released.rowcount


def mark_documents(connection: sa.Connection, uid: str, now: datetime) -> list[str]:
    """Mark a study's encoded results as deleted; returns their digests."""
    of_study = documents.c.request_id.in_(
        sa.select(requests.c.request_id).where(requests.c.study_instance_uid == uid)
    )
    here = (of_study, documents.c.purged_at.is_(None))
    found = list(connection.execute(sa.select(documents.c.sha256).where(*here)).scalars())
    connection.execute(sa.update(documents).where(*here).values(purged_at=now))
    return found
