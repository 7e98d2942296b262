"""The images of a request, as the simulated vendor gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from hub.domain.study import Instance, Location, Series
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.contract.messages import decode_request, encode_request
from hub.formats.contract.request import DicomInputMessage
from hub.formats.images.ct_phantom import chest_phantom
from hub.ports import Retrieval
from hub.simulator.images import FolderStore, retrieved
from tests.builders import chest_ct_study, request_for

RETRIEVAL = Retrieval("http://hub/images/", "Bearer one", datetime(2026, 3, 14, tzinfo=UTC))
PHANTOM = chest_phantom(slices=3, rows=64, columns=64)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def wanted(store: FolderStore) -> DicomInputMessage:
    """All three images of the phantom."""
    return _input(tuple(store.keep("known", file) for file in PHANTOM.files))


def _input(instances: tuple[Instance, ...]) -> DicomInputMessage:
    first = instances[0]
    series = (Series(first.series_instance_uid, "CT", instances),)
    study = chest_ct_study(1, study_instance_uid=first.study_instance_uid)
    request = request_for(replace(study, series=series))
    (given,) = decode_request(encode_request(request, retrieve=RETRIEVAL)).inputs
    assert isinstance(given, DicomInputMessage)
    return given


def _body(files: list[bytes], *, end: str = "--sep--\r\n") -> bytes:
    parts = [b"--sep\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files]
    return b"".join(parts) + end.encode()


def _client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answer))


def _giving(
    body: bytes, content_type: str = 'multipart/related; type="application/dicom"; boundary=sep'
) -> httpx.Client:
    headers = {"Content-Type": content_type}
    return _client(lambda _: httpx.Response(200, content=body, headers=headers))


def test_the_series_is_asked_for_with_the_credential(
    store: FolderStore, wanted: DicomInputMessage
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        headers = {"Content-Type": "multipart/related; boundary=sep"}
        return httpx.Response(200, content=_body(PHANTOM.files[::-1]), headers=headers)

    (series,) = retrieved(_client(answer), wanted, store, "job")
    (request,) = asked
    assert str(request.url) == (
        f"http://hub/images/studies/{PHANTOM.study_instance_uid}"
        f"/series/{PHANTOM.series_instance_uid}"
    )
    assert request.headers["authorization"] == "Bearer one"
    assert "transfer-syntax=*" in request.headers["accept"]
    assert tuple(i.sop_instance_uid for i in series.instances) == PHANTOM.sop_instance_uids
    assert [store.read(i.location) for i in series.instances] == PHANTOM.files


def test_what_was_not_asked_for_is_left_out(store: FolderStore) -> None:
    two = _input(tuple(store.keep("known", file) for file in PHANTOM.files[:2]))
    (series,) = retrieved(_giving(_body(PHANTOM.files)), two, store, "job")
    assert len(series.instances) == 2


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (_giving(_body(PHANTOM.files[:2])), "1 of 3 objects were not given"),
        (_giving(_body(PHANTOM.files, end="")), "broke off"),
        (_giving(_body(PHANTOM.files), "application/dicom"), "multipart/related"),
        (_giving(_body(PHANTOM.files), "multipart/related"), "multipart/related"),
        (_giving(_body([b"no DICOM"])), "not a DICOM file"),
        (_client(lambda _: httpx.Response(401)), "HTTP 401"),
        (_client(lambda _: httpx.Response(302)), "HTTP 302"),
    ],
)
def test_images_that_are_not_what_was_named_are_refused(
    store: FolderStore, wanted: DicomInputMessage, client: httpx.Client, told: str
) -> None:
    with pytest.raises(RejectedError, match=told):
        retrieved(client, wanted, store, "job")


def test_an_image_with_other_bytes_is_refused(
    store: FolderStore, wanted: DicomInputMessage
) -> None:
    changed = [PHANTOM.files[0][:-1] + b"\x01", *PHANTOM.files[1:]]
    with pytest.raises(RejectedError, match="not the one that the request names"):
        retrieved(_giving(_body(changed)), wanted, store, "job")


def test_a_hub_that_does_not_answer_may_be_asked_later(
    store: FolderStore, wanted: DicomInputMessage
) -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(TransientError, match="ConnectError"):
        retrieved(_client(silent), wanted, store, "job")


def test_a_request_that_does_not_say_where_its_images_lie_is_refused(
    store: FolderStore, wanted: DicomInputMessage
) -> None:
    without = wanted.model_copy(update={"retrieve": None})
    with pytest.raises(RejectedError, match="where its images lie"):
        retrieved(_giving(b""), without, store, "job")


def test_an_object_that_is_gone_is_told(store: FolderStore) -> None:
    with pytest.raises(IntegrityError, match="gone"):
        store.read(Location("none.dcm", 0, 1))
