"""The FHIR service as an ASGI application: bodies to threads, errors to OperationOutcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import orjson
import structlog

from connectors.fhir.acceptance import Acceptance
from connectors.fhir.config import FhirSourceConfig
from connectors.fhir.exchange import (
    ClientGoneError,
    FhirRequest,
    Receive,
    Reply,
    Send,
    body_of,
    check_answerable,
    check_readable,
    reply_of,
    request_of,
    send_reply,
)
from connectors.fhir.reading import Reader
from connectors.fhir.service import FhirService, Services
from hub.errors import CaidxError, ConfigError, ConfigProblem, RejectedError, TransientError
from hub.formats.fhir.json_text import FHIR_JSON
from hub.formats.fhir.outcome import Issue, Refused, operation_outcome, refusal_of
from hub.ports import Holdings, HttpEndpoint, SourceContext

log = structlog.get_logger(__name__)

_THREADS = 8
_MOST_AT_ONCE = 64
"""Requests that are being read or answered; more are told to come again."""
_WITH_BODY = ("POST", "PUT", "PATCH")
_ALLOWED = "GET, HEAD, OPTIONS, PATCH, POST, PUT"


class FhirApplication:
    """ASGI 3; answers every request and every error of its own."""

    def __init__(self, config: FhirSourceConfig, service: FhirService, name: str) -> None:
        self._config = config
        self._service = service
        self._name = name
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fhir")
        self._running = 0

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self._running += 1
        try:
            reply = await self._answer(scope, receive)
        except ClientGoneError:
            log.info("fhir.request.broke-off", source=self._name)
            return
        except CaidxError as error:
            reply = self._refusal(error)
        finally:
            self._running -= 1
        await send_reply(reply, send, head_only=scope["method"] == "HEAD")

    def _refusal(self, error: CaidxError) -> Reply:
        if not isinstance(error, RejectedError | TransientError):
            log.error("fhir.request.failed", source=self._name, error=error)
        return reply_of(refusal_of(error))

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Reply:
        if self._running > _MOST_AT_ONCE:
            issue = Issue("throttled", "too many requests at once")
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, issue, headers={"Retry-After": "1"})
        request: FhirRequest = request_of(scope, self._config.path)
        if request.method == "OPTIONS":
            return Reply(HTTPStatus.NO_CONTENT, headers={"Allow": _ALLOWED})
        check_answerable(request)
        if request.method in _WITH_BODY:
            check_readable(request)
            body = await body_of(request, receive, self._config.maximum_bytes)
            request = replace(request, body=body)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._service.answer, request)


def build_endpoint(
    config: FhirSourceConfig,
    context: SourceContext,
    holdings: Holdings,  # noqa: ARG001 - the port's
) -> HttpEndpoint:
    """`hub.ports.Connector.build_endpoint`.

    Raises:
        ConfigError: the process has neither orders nor reports.
    """
    if context.orders is None or context.reports is None:
        problem = ConfigProblem("configuration", 0, context.name, "runs in the web role only")
        raise ConfigError((problem,))
    issuers = {**context.issuers, config.patient_identifier_system: ""}
    reader = Reader(context.orders, context.reports, issuers)
    acceptance = Acceptance(config, context, context.orders, reader)
    service = FhirService(Services(config, acceptance, reader), context)
    application = FhirApplication(config, service, context.name)
    return HttpEndpoint(config.path, application, refuse=refuse)


_ISSUES = {
    HTTPStatus.UNAUTHORIZED: "login",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.TOO_MANY_REQUESTS: "throttled",
    HTTPStatus.REQUEST_TIMEOUT: "timeout",
}


def refuse(status: int, text: str, path: str) -> tuple[str, bytes]:  # noqa: ARG001 - the port's
    """`hub.ports.HttpEndpoint.refuse`."""
    code = _ISSUES.get(HTTPStatus(status), "processing")
    return FHIR_JSON, orjson.dumps(operation_outcome([Issue(code, text)]))
