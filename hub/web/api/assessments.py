"""What people decide about reports: accept, modify, reject; and the reports themselves.

A key belongs to a program; the program names the person.
"""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from hub.domain.assessment import Decision, FindingChange
from hub.domain.report import Person, ReportCause
from hub.errors import RejectedError
from hub.store.report_ledger import NoSuchRequestError, NotDecidableError, ReportLedger
from hub.store.report_overview import ReportRow, report_of_request
from hub.web.context import Context
from hub.web.door import CurrentPrincipal

router = APIRouter(prefix="/results/{request_id}", tags=["reports"])

RequestId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Of the request.")]

_CAUSES = {
    "accept": ReportCause.ACCEPTED,
    "modify": ReportCause.MODIFIED,
    "reject": ReportCause.REJECTED,
}
_NO_REQUEST = "no request with this identifier"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Assessor(_Body):
    """Who decides, and answers for it."""

    name: str = Field(min_length=1, max_length=200)
    """`Family^Given^Middle^Prefix^Suffix`, or as people write it."""
    identifier: str = Field(default="", max_length=200)
    """E.g. a physician number."""
    identifier_system: str = Field(default="", max_length=200)
    """URI of the system of `identifier`."""
    organization: str = Field(default="", max_length=200)


class Assessment(_Body):
    """One person's word on a report."""

    assessment: Literal["accept", "modify", "reject"]
    person: Assessor
    reason: str = Field(default="", max_length=1000)
    """Stands in the report; `modify` and `reject` need one."""
    changes: list[FindingChange] = Field(default_factory=list, max_length=1000)
    """For `modify`: what becomes of which finding."""


class AssessedVersion(BaseModel):
    """The version of the report that an assessment made."""

    request_id: str
    version: int
    status: str
    """final, amended or entered-in-error."""
    state: str
    """asked: it will be made and sent; made: its documents are on their way; failed."""
    made_at: datetime


def _ledger(context: Context, principal: CurrentPrincipal) -> ReportLedger:
    """In the name of whoever asks; the person who decides is named beside it."""
    return ReportLedger(context.database, context.jobs(), context.journal(principal))


@router.get("", responses={404: {"description": "No such request"}})
def report(request_id: RequestId, context: Context) -> ReportRow:
    """One report: the model's findings, and every version of it."""
    found = report_of_request(context.database, request_id)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, _NO_REQUEST)
    return found


@router.post(
    "/assessments",
    status_code=HTTPStatus.CREATED,
    responses={
        200: {"description": "It was decided so already"},
        401: {"description": "The key is missing or wrong"},
        403: {"description": "The key is none of an operator"},
        404: {"description": "No such request"},
        409: {"description": "There is no answer to decide on, or it was withdrawn or replaced"},
        422: {"description": "The assessment does not fit to the findings"},
    },
)
def assess(
    request_id: RequestId,
    assessment: Assessment,
    response: Response,
    ledger: Annotated[ReportLedger, Depends(_ledger)],
) -> AssessedVersion:
    """Accept, modify or reject a report; the same assessment again changes nothing."""
    try:
        version, is_new = ledger.decide(request_id, _decision(assessment))
    except NoSuchRequestError:
        raise HTTPException(HTTPStatus.NOT_FOUND, _NO_REQUEST) from None
    except NotDecidableError as error:
        raise HTTPException(HTTPStatus.CONFLICT, str(error)) from None
    except RejectedError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
    if not is_new:
        response.status_code = HTTPStatus.OK
    return AssessedVersion(
        request_id=request_id,
        version=version.version,
        status=version.status.value,
        state=version.state.value,
        made_at=version.made_at,
    )


def _decision(assessment: Assessment) -> Decision:
    """Raises:
    HTTPException: 422, nobody can decide so.
    """
    try:
        return Decision(
            _CAUSES[assessment.assessment],
            Person(**assessment.person.model_dump()),
            assessment.reason,
            tuple(assessment.changes),
        )
    except ValueError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
