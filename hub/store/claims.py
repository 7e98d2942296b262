"""Work that only one process does at a time, over all hosts: whoever holds the claim."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from hub.store.database import insert_new
from hub.store.schema import claims


def take(
    connection: sa.Connection, name: str, holder: str, *, now: datetime, lasting: timedelta
) -> bool:
    """Take a claim that nobody holds, or go on holding it; False when another process does.

    One that is not taken again in time is free: its holder may have died.
    """
    until = now + lasting
    if insert_new(connection, claims, name=name, holder=holder, until=until):
        return True
    taken = connection.execute(
        sa.update(claims)
        .where(claims.c.name == name, sa.or_(claims.c.holder == holder, claims.c.until <= now))
        .values(holder=holder, until=until)
    )
    return taken.rowcount == 1
