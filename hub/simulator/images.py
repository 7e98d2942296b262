"""The images of a request: retrieved by WADO-RS (PS3.18 10.4), and kept in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path

import httpx

from hub.domain.study import Instance, Location, Series
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.contract.request import DicomInputMessage, RetrieveMessage, SeriesMessage
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True, slots=True)
class FolderStore:
    """`hub.ports.ObjectStore` in a folder: a file for each object."""

    root: Path

    def read(self, location: Location) -> bytes:
        """As `hub.ports.ObjectStore`."""
        try:
            return (self.root / location.segment).read_bytes()
        except OSError as error:
            raise IntegrityError("an object of the simulator is gone") from error

    def keep(self, folder: str, file: bytes) -> Instance:
        """Store a Part 10 file in a folder of its own, and read its header.

        Raises:
            RejectedError: it is none.
        """
        transfer_syntax_uid, data_set = split_part10(file)
        scan = scan_header(data_set, transfer_syntax_uid)
        sha256 = hashlib.sha256(data_set).hexdigest()
        name = f"{folder}/{sha256}.dcm"
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / name).write_bytes(file)
        return instance_from_header(scan, sha256=sha256, location=Location(name, 0, len(file)))


def retrieved(
    client: httpx.Client, given: DicomInputMessage, store: FolderStore, folder: str
) -> tuple[Series, ...]:
    """The series of an input, with all of the objects that the request names and no others.

    Raises:
        RejectedError: the images are not given to us, or are others than were named.
        TransientError: they cannot be got now.
    """
    if given.retrieve is None:
        raise RejectedError("the request does not say where its images lie")
    found = []
    for series in given.series:
        path = f"/studies/{given.study_instance_uid}/series/{series.series_instance_uid}"
        files = _get(client, given.retrieve, path)
        found.append(_series(series, [store.keep(folder, file) for file in files]))
    return tuple(found)


def _series(wanted: SeriesMessage, instances: list[Instance]) -> Series:
    names = {one.sop_instance_uid: one.sha256 for one in wanted.instances}
    here = [one for one in instances if one.sop_instance_uid in names]
    if len(here) != len(names):
        raise RejectedError(f"{len(names) - len(here)} of {len(names)} objects were not given")
    if any(names[one.sop_instance_uid] not in (None, one.sha256) for one in here):
        raise RejectedError("an object is not the one that the request names")
    in_order = sorted(here, key=lambda one: (one.instance_number or 0, one.sop_instance_uid))
    return Series(wanted.series_instance_uid, wanted.modality, tuple(in_order))


def _get(client: httpx.Client, retrieve: RetrieveMessage, path: str) -> Iterator[bytes]:
    headers = {"Accept": _ACCEPT, "Authorization": retrieve.authorization}
    try:
        answer = client.get(retrieve.url.rstrip("/") + path, headers=headers)
    except httpx.RequestError as error:
        raise TransientError(f"the images cannot be got: {type(error).__name__}") from None
    if answer.status_code != HTTPStatus.OK:
        raise RejectedError(f"the images are not given: HTTP {answer.status_code}")
    return _parts(answer.content, answer.headers.get("content-type", ""))


def _parts(body: bytes, content_type: str) -> Iterator[bytes]:
    """The contents of a multipart/related body (RFC 2046 5.1.1)."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise RejectedError("the images did not come as multipart/related")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii", "replace"))
    if not pieces[-1].startswith(b"--"):
        raise RejectedError("the images broke off")
    for piece in pieces[1:-1]:
        _, _, content = piece.partition(b"\r\n\r\n")
        yield content
