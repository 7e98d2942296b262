"""Store (STOW-RS, PS3.18 10.5): a request is one transfer, each part stored before the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from connectors.dicomweb.config import DicomWebSourceConfig
from connectors.dicomweb.http import Answer, Problem, Request
from connectors.dicomweb.multipart import MultipartReader, PartBegins, PartEnds
from connectors.dicomweb.negotiation import DICOM, MediaType, choose_single_model, media_type_of
from connectors.dicomweb.parts import IncomingPart, MemoryBudget, Outcome
from connectors.dicomweb.store_answer import store_answer
from hub.errors import RejectedError
from hub.ports import EndOfTransfer, Intake, Reception, Sender

_T = TypeVar("_T")


class ClientGoneError(Exception):
    """The connection broke: nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class StoreService:
    """Takes STOW requests; handlers run on the event loop, what blocks runs on ``threads``."""

    source: str
    config: DicomWebSourceConfig
    intake: Intake
    budget: MemoryBudget
    threads: Executor

    async def store(self, request: Request, study_instance_uid: str) -> Answer:
        """Store the instances in the body.

        Raises:
            Problem: 400, 406, 413, 415: the request as a whole cannot be served.
            ClientGoneError: it broke off; what was stored stays.
        """
        model = choose_single_model(request)
        content_type = media_type_of(request.headers.get("content-type", ""))
        pieces = self._body(request)
        transfer = _Transfer(self, study_instance_uid, request)
        try:
            if content_type.is_multipart:
                await transfer.take_parts(pieces, _reader(content_type))
            elif content_type.name == DICOM:
                await transfer.take_one(pieces)
            else:
                raise _unsupported(content_type)
            outcomes = await transfer.finish()
        except RejectedError as error:
            await transfer.abort()
            raise Problem(
                HTTPStatus.BAD_REQUEST, str(error), stored=transfer.stored_count
            ) from error
        finally:
            await transfer.abort()
        return store_answer(outcomes, model, request.base_url, readable=self.config.read)

    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """Raises:
        Problem: 413, 415.
        ClientGoneError: the connection broke.
        """
        limit, seen, more = self.config.maximum_request_bytes, 0, True
        too_long = Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have at most {limit} bytes"
        )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must not be encoded")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_long
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            seen += len(chunk)
            if seen > limit:
                raise too_long
            yield chunk


def _reader(content_type: MediaType) -> MultipartReader:
    if content_type.parameters.get("type", DICOM).lower() != DICOM:
        raise _unsupported(content_type)
    try:
        return MultipartReader(content_type.parameters.get("boundary", ""))
    except RejectedError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from error


def _unsupported(content_type: MediaType) -> Problem:
    what = "metadata and bulk data" if content_type.is_multipart else "such a body"
    return Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"{what} cannot be stored; send application/dicom, or multipart/related of it",
        headers={"Accept": f'multipart/related; type="{DICOM}", {DICOM}'},
    )


class _Transfer:
    """One request's instances. While one is being stored, the next one is received."""

    def __init__(self, service: StoreService, study_instance_uid: str, request: Request) -> None:
        self._service = service
        self._study_instance_uid = study_instance_uid
        length = request.headers.get("content-length", "")
        self._sender = Sender(
            source=service.source,
            address=request.client,
            announced_bytes=int(length) if length.isdecimal() else 0,
        )
        self._reception: Reception | None = None
        self._part: IncomingPart | None = None
        self._storing: asyncio.Future[Outcome] | None = None
        self._stored_part: IncomingPart | None = None
        self._outcomes: list[Outcome] = []
        self._parts = 0
        self._closed = False

    @property
    def stored_count(self) -> int:
        return sum(outcome.failure is None for outcome in self._outcomes)

    async def take_parts(self, pieces: AsyncIterator[bytes], reader: MultipartReader) -> None:
        """Raises:
        RejectedError: the body is not multipart, or has no end.
        """
        async for chunk in pieces:
            for event in reader.feed(chunk):
                if isinstance(event, memoryview):
                    await self._add(event)
                elif isinstance(event, PartBegins):
                    self._begin(event.headers.get("content-type", DICOM))
                elif isinstance(event, PartEnds):
                    await self._end_part()
        if not reader.finished:
            raise RejectedError("the final boundary is missing")
        if not self._parts:
            raise RejectedError("there is no part in the body")

    async def take_one(self, pieces: AsyncIterator[bytes]) -> None:
        """The body is a single instance (PS3.18 10.5.1.1)."""
        self._begin(DICOM)
        async for chunk in pieces:
            await self._add(memoryview(chunk))
        await self._end_part()

    async def finish(self) -> list[Outcome]:
        """That was all; the outcomes, in the order of the parts."""
        await self._wait()
        await self._close(EndOfTransfer.RELEASED)
        return self._outcomes

    async def abort(self) -> None:
        """It broke off, unless it was finished: what was stored stays."""
        part, self._part = self._part, None
        await self._wait()
        if part is not None:
            await self._run(part.discard)
            part.close()
        await self._close(EndOfTransfer.ABORTED)

    def _begin(self, content_type: str) -> None:
        self._parts += 1
        if self._parts > self._service.config.maximum_parts:
            raise RejectedError("the request has too many parts")
        self._part = IncomingPart(self._service.budget, self._study_instance_uid)
        if content_type.partition(";")[0].strip().lower() != DICOM:
            self._part.refuse(RejectedError("the part is not of type application/dicom"))

    async def _add(self, piece: memoryview) -> None:
        part = self._part
        if part is None:
            return
        part.add(piece)
        if part.wants_writing:
            await self._wait()
            reception = self._open()
            await self._run(lambda: part.write(reception))

    async def _end_part(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        await self._wait()
        reception = self._open()
        loop = asyncio.get_running_loop()
        self._stored_part = part
        self._storing = loop.run_in_executor(self._service.threads, part.store, reception)

    async def _wait(self) -> None:
        """Until the instance that is being stored is stored: a reception takes one at a time."""
        storing, self._storing = self._storing, None
        if storing is None:
            return
        try:
            self._outcomes.append(await storing)
        finally:
            if self._stored_part is not None:
                self._stored_part.close()
                self._stored_part = None

    def _open(self) -> Reception:
        if self._reception is None:
            self._reception = self._service.intake.open(self._sender)
        return self._reception

    async def _close(self, end: EndOfTransfer) -> None:
        if not self._closed and self._reception is not None:
            reception = self._reception
            await self._run(lambda: reception.close(end))
        self._closed = True

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._service.threads, call)
