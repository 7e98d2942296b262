"""The DICOMweb service as an ASGI application: paths to handlers, errors to answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import structlog

from connectors.dicomweb.config import DicomWebSourceConfig
from connectors.dicomweb.dicom_file import UID
from connectors.dicomweb.http import (
    Answer,
    Problem,
    Receive,
    Request,
    Send,
    problem_answer,
    request_of,
    send_answer,
)
from connectors.dicomweb.parts import MemoryBudget
from connectors.dicomweb.qido import Level, search, search_of
from connectors.dicomweb.status import RETRY_AFTER_SECONDS
from connectors.dicomweb.stow import ClientGoneError, StoreService
from connectors.dicomweb.wado import RetrieveService, Target
from hub.errors import CaidxError, TransientError
from hub.ports import Holdings, HttpEndpoint, SourceContext

log = structlog.get_logger(__name__)

_STORING_THREADS = 8
_READING_THREADS = 4
_LEVELS = ("studies", "series", "instances")
_NOT_FOUND = "there is no such resource"
_READ, _STORE = "GET, HEAD, OPTIONS", "GET, HEAD, OPTIONS, POST"


class DicomWebApplication:
    """ASGI 3; answers every request and every error of its own."""

    def __init__(
        self, config: DicomWebSourceConfig, context: SourceContext, holdings: Holdings
    ) -> None:
        self._config = config
        self._holdings = holdings
        self._storing = StoreService(
            source=context.name,
            config=config,
            intake=context.intake,
            budget=MemoryBudget(config.memory_bytes),
            threads=ThreadPoolExecutor(_STORING_THREADS, thread_name_prefix="dicomweb-store"),
        )
        self._threads = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="dicomweb-read")
        self._retrieving = RetrieveService(holdings, self._threads)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            request = request_of(scope, receive, self._config.path)
            answer = await self._answer(request)
        except ClientGoneError:
            log.info("dicomweb.request.broke-off", source=self._storing.source)
            return
        except Problem as problem:
            answer = problem_answer(problem, scope["path"])
        except CaidxError as error:
            answer = problem_answer(_problem_of(error), scope["path"])
        await send_answer(answer, send, head_only=scope["method"] == "HEAD")

    async def _answer(self, request: Request) -> Answer:
        studies = request.segments[:1] == ("studies",)
        may_store = studies and len(request.segments) <= 2  # noqa: PLR2004 - /studies/{uid}
        allowed = _STORE if may_store else _READ
        match request.method:
            case "OPTIONS":
                return Answer(HTTPStatus.NO_CONTENT, headers={"Allow": allowed})
            case "POST" if may_store:
                (uid,) = _uids(request.segments[1:2] or ("",))
                return await self._storing.store(request, uid)
            case "GET" | "HEAD" if self._config.read:
                return await self._read(request)
            case "GET" | "HEAD":
                raise Problem(HTTPStatus.NOT_FOUND, "nothing can be read here, only stored")
            case _:
                raise Problem(
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    "the resource has no such method",
                    headers={"Allow": allowed},
                )

    async def _read(self, request: Request) -> Answer:
        """Search where the path ends with the name of a level, retrieve where it ends within."""
        names, uids, rest = _split(request.segments)
        if not names or (len(names) > len(uids) and rest):
            raise Problem(HTTPStatus.NOT_FOUND, _NOT_FOUND)
        if len(names) > len(uids):
            return await self._search(request, names, uids)
        if names != _LEVELS[: len(names)]:
            raise Problem(HTTPStatus.NOT_FOUND, _NOT_FOUND)
        target = Target(*uids)
        match rest:
            case ():
                return await self._retrieving.objects(request, target)
            case ("metadata",):
                return await self._retrieving.metadata(request, target)
            case ("frames", numbers) if target.sop_instance_uid:
                return await self._retrieving.frames(request, target, numbers)
            case ("bulkdata", *path) if target.sop_instance_uid:
                return await self._retrieving.bulk_data(request, target, path)
            case ("rendered" | "thumbnail", *_):
                raise Problem(HTTPStatus.NOT_FOUND, "rendered images are not offered")
            case _:
                raise Problem(HTTPStatus.NOT_FOUND, _NOT_FOUND)

    async def _search(self, request: Request, names: Sequence[str], uids: Sequence[str]) -> Answer:
        given = dict(zip(names, uids, strict=False))
        wanted = search_of(
            request,
            Level(_LEVELS.index(names[-1])),
            self._config.maximum_results,
            given.get("studies", ""),
            given.get("series", ""),
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, search, request, wanted, self._holdings)


def _split(segments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(names of levels, their UIDs, what follows): ``studies/1.2/series`` names two levels and
    one UID.

    Raises:
        Problem: 400, what stands where a UID does is none.
    """
    names: list[str] = []
    position = 0
    while position < len(segments) and segments[position] in _LEVELS:
        if names and _LEVELS.index(segments[position]) <= _LEVELS.index(names[-1]):
            break
        names.append(segments[position])
        position += 2
    uids = _uids(segments[1 : min(position, len(segments)) : 2])
    return tuple(names), uids, tuple(segments[position:])


def _uids(texts: Sequence[str]) -> tuple[str, ...]:
    if any(text and not UID.match(text) for text in texts):
        raise Problem(HTTPStatus.BAD_REQUEST, "the path has a UID that is none")
    return tuple(texts)


def _problem_of(error: CaidxError) -> Problem:
    if isinstance(error, TransientError):
        seconds = int(error.retry_after or RETRY_AFTER_SECONDS)
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": str(seconds)}
        )
    log.error("dicomweb.request.failed", error=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the hub; its log says more")


def build_endpoint(
    config: DicomWebSourceConfig, context: SourceContext, holdings: Holdings
) -> HttpEndpoint:
    """`hub.ports.Connector.build_endpoint`."""
    return HttpEndpoint(config.path, DicomWebApplication(config, context, holdings))
