"""Every error as ``application/problem+json`` (RFC 9457), without the data it was about."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hub.errors import CaidxError, TransientError

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = 5


def problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem document: ``type`` is ``about:blank``, so ``title`` is the status phrase
    (RFC 9457 section 4.2.1); ``instance`` is the path without its query."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        **more,
    }
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(CaidxError, _hub_error)
    app.add_exception_handler(Exception, _fault)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return await _fault(request, error)
    headers = dict(error.headers) if error.headers else None
    return problem(request, error.status_code, str(error.detail), headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        return await _fault(request, error)
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    if any(error["field"].startswith("body") for error in errors):
        detail = "the body of the request cannot be used"
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)
    detail = "the request has parameters that cannot be used"
    return problem(request, HTTPStatus.BAD_REQUEST, detail, errors=errors)


async def _hub_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, TransientError):
        return await _fault(request, error)
    seconds = error.retry_after or _RETRY_AFTER_SECONDS
    headers = {"Retry-After": str(int(seconds))}
    return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    structlog.get_logger().error("request to the web role failed", error=error)
    detail = "a fault of the hub; its log says more"
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)
