"""Inference requests and their results."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hub.domain.inference import Outcome
from hub.store.overview import RequestSummary, ResultRow, list_requests, list_results
from hub.store.results import RequestState
from hub.web.api.paging import Limit, Offset, PageOf, page_of
from hub.web.context import Context
from hub.web.door import CurrentPrincipal
from hub.web.visibility import visible_models

router = APIRouter(tags=["inference"])


@router.get("/requests")
def requests(
    *,
    request: Request,
    context: Context,
    principal: CurrentPrincipal,
    state: RequestState | None = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> PageOf[RequestSummary]:
    """Inference requests, newest first; to a vendor those to its own models."""
    models = visible_models(context, principal)
    page = list_requests(context.database, state=state, models=models, limit=limit, offset=offset)
    return page_of(request, page, limit, offset)


@router.get("/results")
def results(
    *,
    request: Request,
    context: Context,
    principal: CurrentPrincipal,
    outcome: Outcome | None = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> PageOf[ResultRow]:
    """Answers of models, newest first; to a vendor those of its own models."""
    models = visible_models(context, principal)
    page = list_results(
        context.database, outcome=outcome, models=models, limit=limit, offset=offset
    )
    return page_of(request, page, limit, offset)
