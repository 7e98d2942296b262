"""Segments in which nothing is needed any more are overwritten, and their extents used again."""

from __future__ import annotations

import sqlalchemy as sa

from hub.errors import CaidxError, TransientError
from hub.store.database import Database
from hub.store.extents import ExtentPool
from hub.store.index_batch import SegmentState
from hub.store.schema import segments


def erase_released(database: Database, pool: ExtentPool, limit: int = 16) -> int:
    """Overwrite released segments with zeros, durably; returns how many.

    One that cannot be overwritten now stays released, and does not keep the others.

    Raises:
        TransientError: the database is away, or a segment could not be overwritten.
    """
    with database.read() as connection:
        query = sa.select(segments.c.segment).where(segments.c.state == SegmentState.RELEASED.value)
        released = list(connection.execute(query.limit(limit)).scalars())
    failed: CaidxError | None = None
    erased = []
    for segment in released:
        try:
            pool.release(segment)
            erased.append(segment)
        except CaidxError as error:
            failed = error
    if erased:
        with database.write() as connection:
            connection.execute(sa.delete(segments).where(segments.c.segment.in_(erased)))
    if failed is not None:
        raise TransientError(str(failed))
    return len(erased)
