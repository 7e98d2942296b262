"""Slow clients: their connections end in time, with a clear status, and harm no other."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from hub.formats.dicom.header import split_part10
from hub.ports import EndOfTransfer
from hub.web.protocol import PatientProtocol
from tests.contracts.recording import STUDY, dicom_file, eventually
from tests.dicomweb_server import DicomWebServer, dicomweb_server
from tests.unit.connectors.dicomweb.bodies import TYPE, multipart, stow

_DEADLINE = 0.4
_GET = b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n"


class HastyProtocol(PatientProtocol):
    header_seconds = _DEADLINE
    write_seconds = _DEADLINE
    drain_seconds = _DEADLINE


@pytest.fixture(scope="module")
def server() -> Iterator[DicomWebServer]:
    deadlines = {"idle_seconds": _DEADLINE, "grace_seconds": _DEADLINE, "bytes_per_second": 1000.0}
    with dicomweb_server(deadlines=deadlines, protocol=HastyProtocol) as running:
        yield running


def head(length: int, path: str = "/dicom-web/studies", content_type: str = TYPE) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def connected(server: DicomWebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 5)


def rest(client: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    found = b""
    try:
        while piece := client.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def _seconds_of_dripping(client: socket.socket, piece: bytes) -> float:
    """Until the server hangs up, or for a long time."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < 20 * _DEADLINE:
            client.sendall(piece)
            time.sleep(_DEADLINE / 8)
    except OSError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\nA: "])
def test_headers_that_do_not_come_end_the_connection(server: DicomWebServer, sent: bytes) -> None:
    with connected(server) as client:
        client.sendall(sent)
        assert rest(client).startswith(b"HTTP/1.1 408")


def test_headers_that_drip_end_the_connection(server: DicomWebServer) -> None:
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert _seconds_of_dripping(client, b"X: y\r\n") < 10 * _DEADLINE


def test_the_second_request_of_a_connection_has_a_deadline_too(server: DicomWebServer) -> None:
    with connected(server) as client:
        client.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 2")
        client.sendall(b"GET /dicom")
        assert rest(client).startswith(b"HTTP/1.1 408")


def test_empty_lines_between_requests_do_not_keep_a_connection(server: DicomWebServer) -> None:
    with connected(server) as client:
        client.sendall(_GET)
        assert client.recv(65536).startswith(b"HTTP/1.1 2")
        assert _seconds_of_dripping(client, b"\r\n") < 10 * _DEADLINE


def test_a_connection_whose_body_came_after_its_answer_ends(server: DicomWebServer) -> None:
    with connected(server) as client:
        client.sendall(head(10, content_type="image/png"))
        assert client.recv(65536).startswith(b"HTTP/1.1 415")
        client.sendall(bytes(10))
        began = time.monotonic()
        rest(client)
        assert time.monotonic() - began < 10 * _DEADLINE


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /dicom-web/studies HTTP/1.1\r\n\r\n", 400),
        (b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"no HTTP at all\r\n\r\n", 400),
    ],
    ids=["long header", "long path", "many headers", "no host", "two hosts", "no HTTP"],
)
def test_headers_that_cannot_be_served_are_told_so(
    server: DicomWebServer, sent: bytes, status: int
) -> None:
    with connected(server) as client:
        client.sendall(sent)
        answer = rest(client)
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "before",
    [
        b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\nA: ",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: " + TYPE.encode() + b"\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: ",
    ],
    ids=["header", "trailer"],
)
def test_a_header_without_an_end_is_not_kept(server: DicomWebServer, before: bytes) -> None:
    with connected(server) as client:
        client.sendall(before + b"b" * 70_000)
        assert rest(client).startswith(b"HTTP/1.1 400")


def test_requests_may_be_sent_before_the_first_is_answered_but_not_many(
    server: DicomWebServer,
) -> None:
    with connected(server) as client:
        client.sendall(_GET * 9 + _GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert rest(client).count(b"HTTP/1.1 2") == 10
    with connected(server) as client:
        client.sendall(_GET * 1000)
        assert rest(client).count(b"HTTP/1.1 2") < 50


def test_a_body_in_many_small_chunks_is_taken_whole(server: DicomWebServer) -> None:
    server.intake.receptions.clear()
    file = dicom_file("1.2.88", padding=30_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in multipart([file]))
    request = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n"
        "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    with connected(server) as client:
        client.sendall(request + chunks + b"0\r\n\r\n")
        assert rest(client).startswith(b"HTTP/1.1 200")
    assert bytes(server.intake.stored[0].data_set) == split_part10(file)[1]
    server.intake.receptions.clear()


def test_a_request_in_time_is_not_disturbed(server: DicomWebServer) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            answer = client.get(f"{server.url}/studies", headers={"A": "b" * 30_000})
            assert answer.status_code in {200, 204}
            time.sleep(_DEADLINE * 1.5)


def test_a_body_that_stops_is_told_so(server: DicomWebServer) -> None:
    before = len(server.intake.receptions)
    body = multipart([dicom_file("1.2.1"), dicom_file("1.2.2", padding=5000)])
    with connected(server) as client:
        client.sendall(head(len(body)) + body[:-2000])
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer
    eventually(lambda: len(server.intake.receptions) > before)
    eventually(lambda: server.intake.receptions[before].ends == [EndOfTransfer.ABORTED])


def test_a_body_that_drips_is_told_so(server: DicomWebServer) -> None:
    beginning = multipart([b"x"], end=False)[:-2]
    with connected(server) as client:
        client.sendall(head(1_000_000) + beginning)
        client.settimeout(_DEADLINE / 8)
        for _ in range(160):
            client.sendall(b"x")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
            break
        else:
            pytest.fail("it may drip for ever")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_goes_on_after_its_answer_is_not_read_for_ever(
    server: DicomWebServer,
) -> None:
    with connected(server) as client:
        client.sendall(head(1 << 30, content_type="image/png"))
        assert _seconds_of_dripping(client, bytes(100)) < 10 * _DEADLINE


def test_who_does_not_take_the_answer_is_hung_up_on(server: DicomWebServer) -> None:
    stow(server.url, multipart([dicom_file("1.2.77", padding=30 << 20)]))
    with connected(server) as client:
        client.sendall(f"GET /dicom-web/studies/{STUDY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(3 * _DEADLINE)
        assert len(rest(client)) < 30 << 20
    server.intake.receptions.clear()


def test_fifty_slow_clients_harm_nobody(server: DicomWebServer) -> None:
    server.intake.receptions.clear()
    body = multipart([dicom_file("1.2.1", padding=100_000)])
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(50)]
        for number, client in enumerate(slow):
            client.sendall(b"POST /" if number % 2 else head(len(body)) + body[:60_000])
        began = time.monotonic()
        answers = [stow(server.url, multipart([dicom_file(f"1.3.{n}")])) for n in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert time.monotonic() - began < 5
        assert all(rest(client).startswith(b"HTTP/1.1 408") for client in slow)
    assert {item.sop_instance_uid for item in server.intake.stored} == {
        f"1.3.{n}" for n in range(10)
    }
