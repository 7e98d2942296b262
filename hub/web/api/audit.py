"""The audit log, in order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from hub.domain.audit import AuditEvent
from hub.store import audit
from hub.web.api.paging import Limit
from hub.web.context import Context

router = APIRouter(prefix="/audit", tags=["audit"])


class AuditPage(BaseModel):
    """Events in order; ask again with ``after=<last>`` for those that follow."""

    items: list[AuditEvent]
    last: int
    """Sequence of the last event here; that of the question when there is none."""


@router.get("")
def events(
    context: Context,
    after: Annotated[int, Query(ge=0, description="Sequence to begin after.")] = 0,
    limit: Limit = 100,
    study_instance_uid: Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$")] = None,
) -> AuditPage:
    """Events of the tamper-evident log; each carries the hash of the one before it."""
    found = list(
        audit.events(
            context.database,
            after_sequence=after,
            limit=limit,
            study_instance_uid=study_instance_uid,
        )
    )
    return AuditPage(items=found, last=found[-1].sequence if found else after)
