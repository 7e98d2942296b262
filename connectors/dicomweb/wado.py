"""Retrieve (WADO-RS, PS3.18 10.4): objects as they are stored, metadata, frames, bulk data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import orjson
from pydicom.dataset import FileDataset

from connectors.dicomweb.attributes import Model, instance_model, instance_url
from connectors.dicomweb.dicom_json import file_model, read_file
from connectors.dicomweb.dicom_xml import xml_part
from connectors.dicomweb.frames import BulkData, bulk_data, frame_numbers, frames
from connectors.dicomweb.http import Answer, Problem, Request
from connectors.dicomweb.multipart import MultipartWriter
from connectors.dicomweb.negotiation import (
    DICOM,
    DICOM_XML,
    MULTIPART,
    OCTETS,
    MediaType,
    accepted,
    choose_model,
    not_acceptable,
)
from connectors.dicomweb.transcoding import EXPLICIT, can_be_explicit, explicit_file
from hub.domain.study import Instance
from hub.errors import RejectedError
from hub.ports import Holdings

_T = TypeVar("_T")

AS_STORED = "*"
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Target:
    """What a path denotes: a study, one of its series, or one instance."""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class RetrieveService:
    """Reads what the hub holds, one instance at a time; what blocks runs on ``threads``."""

    holdings: Holdings
    threads: Executor

    async def objects(self, request: Request, target: Target) -> Answer:
        """DICOM files, as multipart/related or, for one instance, alone.

        Raises:
            Problem: 404; 406, not in a transfer syntax that is accepted.
        """
        choices = [item for item in accepted(request) if item.admits(DICOM)]
        instances = await self._instances(target)
        syntaxes = [_syntax_for(instance, choices) for instance in instances]
        first = await self._file(instances[0], syntaxes[0])
        if target.sop_instance_uid and choices[0].name == DICOM:
            return Answer(HTTPStatus.OK, DICOM, first)
        writer = MultipartWriter(DICOM)

        async def parts() -> AsyncIterator[bytes]:
            for number, (instance, syntax) in enumerate(zip(instances, syntaxes, strict=True)):
                file = first if number == 0 else await self._file(instance, syntax)
                uid = instance.transfer_syntax_uid if syntax == AS_STORED else syntax
                url = instance_url(instance, request.base_url)
                yield writer.head(f"{DICOM}; transfer-syntax={uid}", len(file), url)
                for piece in _pieces(file):
                    yield piece
                yield b"\r\n"
            yield writer.end()

        return Answer(HTTPStatus.OK, writer.media_type, parts())

    async def metadata(self, request: Request, target: Target) -> Answer:
        """The data sets without bulk data, in JSON or XML.

        Raises:
            Problem: 404, 406.
        """
        model = choose_model(request)
        instances = await self._instances(target)
        if model == DICOM_XML:
            writer = MultipartWriter(DICOM_XML)
            return Answer(HTTPStatus.OK, writer.media_type, self._xml(request, instances, writer))
        return Answer(HTTPStatus.OK, model, self._json(request, instances))

    async def frames(self, request: Request, target: Target, numbers: str) -> Answer:
        """Some frames of an instance, each as a part.

        Raises:
            Problem: 400, 404, 406.
        """
        wanted = frame_numbers(numbers)
        instance = (await self._instances(target))[0]
        data = await self._run(lambda: frames(self._dataset(instance), wanted))
        return _bulk_answer(request, data)

    async def bulk_data(self, request: Request, target: Target, path: Sequence[str]) -> Answer:
        """One value that metadata told by its BulkDataURI.

        Raises:
            Problem: 404, 406.
        """
        instance = (await self._instances(target))[0]
        data = await self._run(lambda: bulk_data(self._dataset(instance), path))
        return _bulk_answer(request, data)

    async def _instances(self, target: Target) -> Sequence[Instance]:
        found = await self._run(
            lambda: self.holdings.instances(
                target.study_instance_uid, target.series_instance_uid, target.sop_instance_uid
            )
        )
        if not found:
            raise Problem(HTTPStatus.NOT_FOUND, "the hub holds no such study, series or instance")
        return found

    async def _file(self, instance: Instance, syntax: str) -> bytes:
        file = await self._run(lambda: self.holdings.read(instance.location))
        if syntax in {AS_STORED, instance.transfer_syntax_uid}:
            return file
        return await self._run(lambda: explicit_file(file))

    def _dataset(self, instance: Instance) -> FileDataset:
        try:
            return read_file(self.holdings.read(instance.location))
        except RejectedError as error:
            raise Problem(HTTPStatus.NOT_ACCEPTABLE, str(error)) from error

    async def _json(self, request: Request, instances: Sequence[Instance]) -> AsyncIterator[bytes]:
        for number, instance in enumerate(instances):
            model = await self._run(partial(self._model, instance, request.base_url))
            yield (b"," if number else b"[") + orjson.dumps(model)
        yield b"]"

    async def _xml(
        self, request: Request, instances: Sequence[Instance], writer: MultipartWriter
    ) -> AsyncIterator[bytes]:
        for instance in instances:
            model = await self._run(partial(self._model, instance, request.base_url))
            yield xml_part(model, writer)
        yield writer.end()

    def _model(self, instance: Instance, base_url: str) -> Model:
        """What cannot be read in full is told as far as it is indexed."""
        file = self.holdings.read(instance.location)
        try:
            return file_model(file, instance_url(instance, base_url))
        except RejectedError:
            return instance_model(instance, base_url)

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)


def _syntax_for(instance: Instance, choices: Sequence[MediaType]) -> str:
    """The transfer syntax that an instance is sent in: the best that is accepted and can be
    had. Who names a media type without one wants Explicit VR Little Endian (PS3.18 8.7.3.5.2);
    who takes anything gets it as it is stored."""
    stored = instance.transfer_syntax_uid
    for choice in choices:
        wanted = choice.transfer_syntax_uid
        if not wanted and choice.part_type == "*/*":
            return AS_STORED
        if wanted in {AS_STORED, stored}:
            return AS_STORED
        if wanted in {"", EXPLICIT}:
            if stored == EXPLICIT:
                return AS_STORED
            if can_be_explicit(stored):
                return EXPLICIT
    raise not_acceptable(f'{MULTIPART}; type="{DICOM}"; transfer-syntax={stored}')


def _bulk_answer(request: Request, data: BulkData) -> Answer:
    """In the first accepted way that these values can be told."""
    syntax = data.transfer_syntax_uid
    for item in accepted(request):
        fits = item.transfer_syntax_uid in {"", AS_STORED, syntax}
        if fits and item.admits(data.media_type):
            media_type = data.media_type
        elif item.transfer_syntax_uid in {AS_STORED, syntax} and item.admits(OCTETS):
            media_type = OCTETS
        else:
            continue
        content_type = f"{media_type}; transfer-syntax={syntax}"
        if len(data.values) == 1 and not item.is_multipart and "*" not in item.name:
            return Answer(HTTPStatus.OK, content_type, _iterated(_pieces(data.values[0])))
        writer = MultipartWriter(media_type)
        return Answer(
            HTTPStatus.OK, writer.media_type, _iterated(_parts(data, content_type, writer))
        )
    raise not_acceptable(f'{MULTIPART}; type="{data.media_type}"; transfer-syntax={syntax}')


def _parts(data: BulkData, content_type: str, writer: MultipartWriter) -> Iterator[bytes]:
    for value in data.values:
        yield writer.head(content_type, len(value))
        yield from _pieces(value)
        yield b"\r\n"
    yield writer.end()


async def _iterated(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _pieces(value: bytes) -> Iterator[bytes]:
    """In chunks that a slow reader can be told apart by."""
    for start in range(0, len(value), _CHUNK):
        yield value[start : start + _CHUNK]
