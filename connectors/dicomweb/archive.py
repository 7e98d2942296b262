"""An archive asked by DICOMweb: QIDO-RS (PS3.18 10.6) and WADO-RS (PS3.18 10.4)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from connectors.dicomweb.archive_answers import fields, text_of
from connectors.dicomweb.archive_config import DicomWebArchiveConfig
from connectors.dicomweb.http import Problem
from connectors.dicomweb.multipart import MultipartReader
from connectors.dicomweb.negotiation import MediaType, media_type_of
from connectors.dicomweb.retrieval import RetrievedParts, Transfer
from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.archive_answers import (
    NUMBER_OF_STUDY_RELATED_INSTANCES,
    SERIES_INSTANCE_UID,
    SERIES_KEYS,
    STUDY_KEYS,
    answers_query,
    remote_series,
    remote_study,
)
from hub.formats.http_answers import is_passing
from hub.ports import ArchiveContext, RemoteSeries, RemoteStudy, StudyQuery
from hub.transport.address_guard import AddressGuard
from hub.transport.http_peer import client, plain_body

_DICOM_JSON = "application/dicom+json"
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_MOST_ANSWER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 18
_AT_ONCE = 1000
"""Answers of one request; further ones are asked for with an offset."""
_MOST_ANSWERS = 200_000
"""Series or instances of one study; a server that goes on is not followed for ever."""
_SOP_INSTANCE_UID = 0x00080018
_Asked = Mapping[str, str | Sequence[str]]
"""Query parameters; several values are several parameters: not every server splits at commas."""


class DicomWebArchive:
    """`hub.ports.Archive` over HTTP. Thread-safe."""

    def __init__(self, config: DicomWebArchiveConfig, context: ArchiveContext) -> None:
        self._config = config
        self._context = context
        networks = context.private_networks
        guard = None if networks is None else AddressGuard(networks)
        self._client = client(config, timeout=None, guard=guard)  # each request has its own time

    # --- questions ---------------------------------------------------------------------------

    def find_studies(self, query: StudyQuery, limit: int) -> Sequence[RemoteStudy]:
        """QIDO-RS, "Search for Studies". What a server matches by wildcard or ignores is compared
        again here: an answer about another patient or study is left out."""
        asked: _Asked = {
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession_number,
            "StudyDate": query.study_date,
            "ModalitiesInStudy": ",".join(query.modalities_in_study),
            "includefield": fields(STUDY_KEYS),
            "limit": str(limit),
        }
        answers = self._search("studies", asked)
        found = (remote_study(partial(text_of, answer)) for answer in answers)
        return [study for study in found if answers_query(study, query)][:limit]

    def find_series(self, study_instance_uid: str) -> Sequence[RemoteSeries]:
        """QIDO-RS, "Search for Series" of one study."""
        path = f"studies/{_segment(study_instance_uid)}/series"
        answers = self._pages(path, {"includefield": fields(SERIES_KEYS)}, SERIES_INSTANCE_UID)
        found = (remote_series(partial(text_of, answer)) for answer in answers)
        return [series for series in found if series is not None]

    def find_instances(self, study_instance_uid: str) -> Mapping[str, str]:
        """QIDO-RS, "Search for Instances" of one study."""
        asked = {"includefield": fields((_SOP_INSTANCE_UID, SERIES_INSTANCE_UID))}
        path = f"studies/{_segment(study_instance_uid)}/instances"
        return {
            text_of(answer, _SOP_INSTANCE_UID): text_of(answer, SERIES_INSTANCE_UID)
            for answer in self._pages(path, asked, _SOP_INSTANCE_UID)
        }

    def _pages(self, path: str, asked: _Asked, key: int) -> Iterator[Mapping[str, Any]]:
        """All answers: servers may give fewer than they were asked for (PS3.18 10.6.1.2.4), so
        only a page with nothing new is the last one."""
        seen: set[str] = set()
        while True:
            page = self._search(path, {**asked, "limit": str(_AT_ONCE), "offset": str(len(seen))})
            new = [answer for answer in page if text_of(answer, key) not in {"", *seen}]
            if not new:
                return
            seen |= {text_of(answer, key) for answer in new}
            if len(seen) > _MOST_ANSWERS:
                raise RejectedError(f"{self._name}: the study has more than {_MOST_ANSWERS} parts")
            yield from new

    def _search(self, path: str, asked: _Asked) -> list[Mapping[str, Any]]:
        deadline = time.monotonic() + self._config.query_timeout
        with self._get(
            path, _DICOM_JSON, deadline, {k: v for k, v in asked.items() if v}
        ) as answer:
            if answer.status_code == HTTPStatus.NO_CONTENT:
                return []
            self._must_be_ok(answer)
            body = bytearray()
            for chunk in plain_body(answer, _CHUNK_BYTES, self._name):
                body += chunk
                if len(body) > _MOST_ANSWER_BYTES:
                    raise RejectedError(f"{self._name}: the answer is too long")
                self._in_time(deadline)
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise TransientError(f"{self._name}: the answer is no JSON") from None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise TransientError(f"{self._name}: the answer is no DICOM JSON")
        return found

    # --- studies -----------------------------------------------------------------------------

    def retrieve(
        self,
        study_instance_uid: str,
        series_instance_uid: str = "",
        sop_instance_uids: Sequence[str] = (),
        *,
        within: float,
    ) -> None:
        """WADO-RS, "Retrieve Study, Series, Instance", in the transfer syntax that each object
        has; all of it is one transfer into the intake."""
        deadline = time.monotonic() + within
        study = f"studies/{_segment(study_instance_uid)}"
        with Transfer(self._context, self._config.url, study_instance_uid) as transfer:
            for path in self._paths(
                study, study_instance_uid, series_instance_uid, sop_instance_uids
            ):
                self._fetch(path, transfer, deadline)
            transfer.finished()

    def _paths(
        self, study: str, study_uid: str, series_uid: str, sop_instance_uids: Sequence[str]
    ) -> Iterator[str]:
        if not sop_instance_uids:
            yield f"{study}/series/{_segment(series_uid)}" if series_uid else study
            return
        places = {} if series_uid else self.find_instances(study_uid)
        for uid in sop_instance_uids:
            place = series_uid or places.get(uid)
            if place is None:
                raise RejectedError(f"{self._name} does not have all of the instances")
            yield f"{study}/series/{_segment(place)}/instances/{_segment(uid)}"

    def _fetch(self, path: str, transfer: Transfer, deadline: float) -> None:
        with self._get(path, _ANY_SYNTAX, deadline, {}) as answer:
            if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
                raise TransientError(f"{self._name} could not send all of it")
            self._must_be_ok(answer)
            reader = self._reader(answer.headers.get("content-type", ""))
            with RetrievedParts(transfer) as parts:
                for chunk in plain_body(answer, _CHUNK_BYTES, self._name):
                    parts.take(reader.feed(chunk))
                    self._in_time(deadline)
        if not reader.finished:
            raise TransientError(f"{self._name}: the answer broke off")
        if parts.count == 0:
            raise RejectedError(f"{self._name} does not have it")

    def _reader(self, content_type: str) -> MultipartReader:
        try:
            found = media_type_of(content_type)
        except Problem:
            found = MediaType("")
        if not found.is_multipart:
            raise TransientError(f"{self._name}: the answer is no multipart body")
        return MultipartReader(found.parameters.get("boundary", ""))

    # --- HTTP --------------------------------------------------------------------------------

    @contextmanager
    def _get(
        self, path: str, accept: str, deadline: float, asked: _Asked
    ) -> Iterator[httpx.Response]:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TransientError(f"{self._name} did not finish in time")
        try:
            with self._client.stream(
                "GET",
                f"{self._config.url}/{path}",
                params=asked,
                headers={"Accept": accept},
                timeout=left,
            ) as answer:
                yield answer
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # the text of the error may repeat the request
            raise TransientError(f"{self._name}: {type(error).__name__}") from None

    def _must_be_ok(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == HTTPStatus.OK:
            return
        if is_passing(status):
            raise TransientError(f"{self._name}: HTTP {status}")
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            raise RejectedError(f"{self._name} does not have it (HTTP {status})")
        raise RejectedError(f"{self._name}: HTTP {status}")

    def _in_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TransientError(f"{self._name} did not finish in time")

    @property
    def _name(self) -> str:
        return f"archive {self._context.name}"

    # --- the rest ----------------------------------------------------------------------------

    def check(self) -> str:
        """Search for one study.

        Raises:
            TransientError: no server, or something that is no QIDO-RS service.
        """
        try:
            self._search(
                "studies",
                {"limit": "1", "includefield": fields([NUMBER_OF_STUDY_RELATED_INSTANCES])},
            )
        except CaidxError as error:
            raise TransientError(str(error)) from error
        return "answers QIDO-RS"

    def close(self) -> None:
        self._client.close()


def _segment(uid: str) -> str:
    """A UID as a path segment; one that is none cannot leave it."""
    return quote(uid, safe="")


def build_archive(config: DicomWebArchiveConfig, context: ArchiveContext) -> DicomWebArchive:
    """`hub.ports.Connector.build_archive`."""
    return DicomWebArchive(config, context)
