"""The JSON API, version 1: it reads, and takes what people decide about reports."""

from __future__ import annotations

from fastapi import APIRouter

from hub.web.api import (
    alerts,
    assessments,
    audit,
    callbacks,
    deliveries,
    images,
    models,
    registrations,
    requests,
    studies,
)

router = APIRouter(prefix="/api/v1")
for part in (
    studies,
    requests,
    callbacks,
    images,
    assessments,
    deliveries,
    alerts,
    audit,
    models,
    registrations,
):
    router.include_router(part.router)

__all__ = ["router"]
