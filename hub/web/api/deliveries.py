"""Documents on their way to destinations."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hub.domain.delivery import DeliveryState
from hub.store.overview import DeliveryRow, list_deliveries
from hub.web.api.paging import Limit, Offset, PageOf, page_of
from hub.web.context import Context

router = APIRouter(prefix="/deliveries", tags=["deliveries"])


@router.get("")
def deliveries(
    *,
    request: Request,
    context: Context,
    state: DeliveryState | None = None,
    destination: str | None = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> PageOf[DeliveryRow]:
    """Deliveries, newest first; ``state=dead`` are the dead letters."""
    page = list_deliveries(
        context.database, state=state, destination=destination, limit=limit, offset=offset
    )
    return page_of(request, page, limit, offset)
