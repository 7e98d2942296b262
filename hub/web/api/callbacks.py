"""Vendors post answers that come later: signed, each taken once (docs/contract)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hub.bootstrap.vendor_requests import VendorRequests
from hub.errors import RejectedError
from hub.store.callbacks import Taken
from hub.web.context import WebContext, web_context
from hub.web.refusals import Refusal

router = APIRouter(tags=["vendors"])

MOST_BYTES = 16 << 20
"""As of an answer in a response."""
RequestId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="Of the request.")]

_REFUSED = {
    Taken.REPLAYED: (
        Refusal.REPLAYED_ANSWER,
        HTTPStatus.CONFLICT,
        "webhook-id was used before, for another message",
    ),
    Taken.SECOND: (
        Refusal.SECOND_ANSWER,
        HTTPStatus.CONFLICT,
        "another answer to this request was taken before",
    ),
    Taken.NOT_ASKED: (Refusal.UNASKED_ANSWER, HTTPStatus.CONFLICT, "the request was not sent yet"),
    Taken.LATE: (Refusal.LATE_ANSWER, HTTPStatus.GONE, "nobody waits for this answer any more"),
}


class CallbackTaken(BaseModel):
    """The hub has the answer."""

    request_id: str
    taken: Literal["new", "again"]
    """`again`: the same message was taken before; nothing changed."""


@router.post(
    "/callbacks/{request_id}",
    responses={
        401: {"description": "No such request, or it is not signed by the vendor that was asked"},
        409: {"description": "The message was used before, or another answer was taken"},
        410: {"description": "Nobody waits for the answer any more"},
        413: {"description": "The answer is too long"},
    },
)
async def answer(request_id: RequestId, request: Request) -> CallbackTaken:
    """Take an answer: the message is an answer of the contract, signed as Standard Webhooks are.
    The same message again changes nothing."""
    vendors = vendors_of(web_context(request))
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        row = await run_in_threadpool(vendors.request, request_id)
        body = await _body(request)
        taken = await run_in_threadpool(vendors.take, row, headers, body)
    except RejectedError as error:
        raise _refused(
            request, Refusal.WRONG_SIGNATURE, HTTPStatus.UNAUTHORIZED, str(error)
        ) from None
    if taken in _REFUSED:
        raise _refused(request, *_REFUSED[taken])
    return CallbackTaken(request_id=request_id, taken="new" if taken is Taken.NEW else "again")


def _refused(request: Request, reason: Refusal, status: HTTPStatus, detail: str) -> HTTPException:
    """Each one is answered and counted, and told in the log without a flood."""
    address = "" if request.client is None else request.client.host
    if web_context(request).refusals.count(reason, address):
        structlog.get_logger().warning("callback.refused", reason=detail)
    return HTTPException(status, detail)


def vendors_of(context: WebContext) -> VendorRequests:
    """Raises:
    HTTPException: 503, this process does not serve vendors.
    """
    if context.vendors is None:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "vendors are not served here")
    return context.vendors


async def _body(request: Request) -> bytes:
    pieces = bytearray()
    try:
        async for piece in request.stream():
            pieces += piece
            if len(pieces) > MOST_BYTES:
                text = f"an answer has at most {MOST_BYTES} bytes"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the message broke off") from None
    return bytes(pieces)
