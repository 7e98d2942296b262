"""The JSON API, version 1: it reads, and takes what people decide about reports."""

from __future__ import annotations

from fastapi import APIRouter

from hub.web.api import alerts, assessments, audit, deliveries, models, requests, studies

router = APIRouter(prefix="/api/v1")
for part in (studies, requests, assessments, deliveries, alerts, audit, models):
    router.include_router(part.router)

__all__ = ["router"]
