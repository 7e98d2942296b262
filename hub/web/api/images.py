"""The images of one request, for the vendor that is asked it: WADO-RS (PS3.18 section 10.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header, HTTPException, Response
from fastapi.responses import StreamingResponse

from hub.bootstrap.vendor_requests import RequestImages, RequestOverError
from hub.domain.study import Instance
from hub.errors import RejectedError
from hub.web.api.callbacks import RequestId, vendors_of
from hub.web.context import Context

router = APIRouter(prefix="/requests/{request_id}/dicom-web", tags=["vendors"])

_DICOM = "application/dicom"
_CHUNK = 1 << 18
_ANSWERS: dict[int | str, dict[str, object]] = {
    200: {"content": {'multipart/related; type="application/dicom"': {}}},
    401: {"description": "The token is not for this request, or its time is over"},
    404: {"description": "The request has no such images"},
    406: {"description": "Neither multipart/related nor application/dicom is accepted"},
    410: {"description": "The request has ended"},
}


@router.get("/studies/{study}", response_class=Response, responses=_ANSWERS)
@router.get("/studies/{study}/series/{series}", response_class=Response, responses=_ANSWERS)
@router.get(
    "/studies/{study}/series/{series}/instances/{instance}",
    response_class=Response,
    responses=_ANSWERS,
)
def images(
    *,
    context: Context,
    request_id: RequestId,
    study: str,
    series: str = "",
    instance: str = "",
    accept: Annotated[str, Header(max_length=1000)] = "*/*",
    authorization: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """The DICOM files of the request that are below the path, as they are stored: one part each.
    One instance is given alone where `application/dicom` is accepted."""
    found = _images(context, request_id, authorization)
    wanted = found.below(study, series, instance)
    if not wanted:
        raise HTTPException(HTTPStatus.NOT_FOUND, "the request has no such images")
    accepted = [choice.strip().lower() for choice in accept.split(",")]
    first = found.objects.read(wanted[0].location)  # before the answer begins
    if instance and any(choice.startswith(_DICOM) for choice in accepted):
        return Response(first, media_type=_DICOM)
    if not any(choice.startswith(("multipart/", "*/*")) for choice in accepted):
        text = 'accepted is multipart/related; type="application/dicom"'
        raise HTTPException(HTTPStatus.NOT_ACCEPTABLE, text)
    boundary = uuid4().hex
    media_type = f'multipart/related; type="{_DICOM}"; boundary={boundary}'
    return StreamingResponse(_parts(found, wanted, first, boundary), media_type=media_type)


def _images(context: Context, request_id: str, authorization: str) -> RequestImages:
    scheme, _, token = authorization.partition(" ")
    try:
        return vendors_of(context).images(request_id, token if scheme.lower() == "bearer" else "")
    except RequestOverError as error:
        raise HTTPException(HTTPStatus.GONE, str(error)) from None
    except RejectedError as error:
        header = {"WWW-Authenticate": 'Bearer realm="caidx images"'}
        raise HTTPException(HTTPStatus.UNAUTHORIZED, str(error), header) from None


def _parts(
    images: RequestImages, wanted: Sequence[Instance], first: bytes, boundary: str
) -> Iterator[bytes]:
    """RFC 2387; one object at a time is in memory."""
    for number, instance in enumerate(wanted):
        file = first if number == 0 else images.objects.read(instance.location)
        kind = f"{_DICOM}; transfer-syntax={instance.transfer_syntax_uid}"
        head = f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Length: {len(file)}\r\n\r\n"
        yield head.encode()
        for start in range(0, len(file), _CHUNK):
            yield file[start : start + _CHUNK]
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
