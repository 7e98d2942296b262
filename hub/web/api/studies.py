"""Studies, and the timeline of one: why AI was, or wasn't, run on it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel

from hub.store.overview import StudyRow, StudyTimeline, list_studies, study_timeline
from hub.web.api.paging import Limit, Offset, PageOf, page_of
from hub.web.context import Context

router = APIRouter(prefix="/studies", tags=["studies"])

StudyUid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID.")]
StudyState = Literal["receiving", "complete", "routed"]


@router.get("")
def studies(
    request: Request,
    context: Context,
    state: StudyState | None = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> PageOf[StudyRow]:
    """Revisions of studies, the most recently received first."""
    page = list_studies(context.database, state=state, limit=limit, offset=offset)
    return page_of(request, page, limit, offset)


class StudyAnswer(BaseModel):
    """A study's timeline, and what it means in plain words."""

    explanation: tuple[str, ...]
    timeline: StudyTimeline


@router.get("/{study_instance_uid}", responses={404: {"description": "Never arrived"}})
def study(study_instance_uid: StudyUid, context: Context) -> StudyAnswer:
    """Everything that happened to one study, over all its revisions."""
    timeline = study_timeline(context.database, study_instance_uid)
    if timeline is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "no study with this UID has arrived")
    return StudyAnswer(explanation=timeline.explanation, timeline=timeline)
