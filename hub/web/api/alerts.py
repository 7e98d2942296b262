"""What a person has to look at."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hub.store.overview import AlertRow, list_alerts
from hub.web.api.paging import Limit, Offset, PageOf, page_of
from hub.web.context import Context

router = APIRouter(prefix="/alerts", tags=["alerts"])


@router.get("")
def alerts(
    *, request: Request, context: Context, limit: Limit = 50, offset: Offset = 0
) -> PageOf[AlertRow]:
    """Alerts, newest first."""
    page = list_alerts(context.database, limit=limit, offset=offset)
    return page_of(request, page, limit, offset)
