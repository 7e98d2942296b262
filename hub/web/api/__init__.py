"""The read-only JSON API, version 1."""

from __future__ import annotations

from fastapi import APIRouter

from hub.web.api import alerts, audit, deliveries, models, requests, studies

router = APIRouter(prefix="/api/v1")
for part in (studies, requests, deliveries, alerts, audit, models):
    router.include_router(part.router)

__all__ = ["router"]
