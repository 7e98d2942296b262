"""STOW-RS: what is stored, what is answered, and what becomes of requests that are wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from connectors.dicomweb.parts import MOST_IN_MEMORY
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.dicom.header import split_part10
from hub.ports import EndOfTransfer
from tests.contracts.recording import ENCAPSULATED_PDF, PATIENT_ID, STUDY, dicom_file, eventually
from tests.dicomweb_server import DicomWebServer, dicomweb_server
from tests.unit.connectors.dicomweb.bodies import BOUNDARY, TYPE, multipart, stow

RELEASED, ABORTED = EndOfTransfer.RELEASED, EndOfTransfer.ABORTED


@pytest.fixture(scope="module")
def shared_server() -> Iterator[DicomWebServer]:
    with dicomweb_server(maximum_request_bytes=64 << 20, maximum_parts=20) as server:
        yield server


@pytest.fixture
def server(shared_server: DicomWebServer) -> DicomWebServer:
    """The same server, with an empty intake."""
    intake = shared_server.intake
    intake.errors.clear()
    intake.spool_errors.clear()
    intake.receptions.clear()
    intake.spools.clear()
    return shared_server


def reasons(answer: httpx.Response, sequence: str = "00081198") -> list[int]:
    data_set = answer.json()
    return [item["00081197"]["Value"][0] for item in data_set.get(sequence, {}).get("Value", [])]


def stored_uids(answer: httpx.Response) -> list[str]:
    data_set = answer.json()
    items = data_set.get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


# --- what is right --------------------------------------------------------------------------


def test_each_part_is_handed_on_byte_by_byte_and_named_in_the_answer(
    server: DicomWebServer,
) -> None:
    files = [dicom_file("1.2.1", padding=100_000), dicom_file("1.2.2")]
    answer = stow(server.url, multipart(files))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert stored_uids(answer) == ["1.2.1", "1.2.2"]
    assert [bytes(i.data_set) for i in server.intake.stored] == [split_part10(f)[1] for f in files]
    assert server.intake.ends == [RELEASED]
    (reception,) = server.intake.receptions
    assert (reception.sender.source, reception.sender.address) == ("web", "127.0.0.1")
    assert reception.sender.announced_bytes == len(multipart(files))


def test_the_answer_says_where_what_was_stored_can_be_retrieved(server: DicomWebServer) -> None:
    data_set = stow(server.url, multipart([dicom_file("1.2.1")])).json()
    study_url = f"{server.url}/studies/{STUDY}"
    assert data_set["00081190"]["Value"] == [study_url]
    (item,) = data_set["00081199"]["Value"]
    assert item["00081190"]["Value"] == [f"{study_url}/series/{STUDY}.1/instances/1.2.1"]
    assert item["00081150"]["Value"] == [ENCAPSULATED_PDF]


def test_a_single_instance_needs_no_multipart(server: DicomWebServer) -> None:
    answer = stow(server.url, dicom_file("1.2.1"), "application/dicom")
    assert (answer.status_code, stored_uids(answer)) == (200, ["1.2.1"])


@pytest.mark.parametrize(
    "accept", ["application/dicom+xml", 'multipart/related; type="application/dicom+xml"']
)
def test_the_answer_can_be_xml(server: DicomWebServer, accept: str) -> None:
    answer = stow(server.url, multipart([dicom_file("1.2.1")]), Accept=accept)
    media_type = answer.headers["content-type"]
    if accept.startswith("multipart"):
        assert media_type.startswith(f"{accept}; boundary=")
    else:  # one data set: one document
        assert media_type == accept
        assert answer.content.startswith(b"<?xml")
        assert answer.content.endswith(b"</NativeDicomModel>")
    assert b'keyword="ReferencedSOPInstanceUID"><Value number="1">1.2.1</Value>' in answer.content


def test_a_large_part_goes_to_the_disk_as_it_arrives(server: DicomWebServer) -> None:
    file = dicom_file("1.2.1", padding=MOST_IN_MEMORY * 2)
    answer = stow(server.url, multipart([dicom_file("1.2.0"), file, dicom_file("1.2.2")]))
    assert stored_uids(answer) == ["1.2.0", "1.2.1", "1.2.2"]
    (spool,) = server.intake.spools
    assert (spool.state, len(spool.chunks) > 5) == ("stored", True)
    assert bytes(server.intake.stored[1].data_set) == split_part10(file)[1]


def test_what_does_not_fit_into_the_memory_for_all_goes_to_the_disk(
    server: DicomWebServer,
) -> None:
    budget = server.application._storing.budget
    taken = budget.left
    assert budget.take(taken)
    try:
        file = dicom_file("1.2.1", padding=1 << 20)
        assert stow(server.url, multipart([file])).status_code == 200
    finally:
        budget.give_back(taken)
    assert [spool.state for spool in server.intake.spools] == ["stored"]
    assert bytes(server.intake.stored[0].data_set) == split_part10(file)[1]


def test_memory_is_given_back_whatever_happens(server: DicomWebServer) -> None:
    budget = server.application._storing.budget
    before = budget.left
    big = dicom_file("1.2.1", padding=4 << 20)
    stow(server.url, multipart([big, b"no file" * 200_000]))
    stow(server.url, multipart([big], end=False))
    server.intake.errors["1.2.1"] = TransientError("full")
    stow(server.url, multipart([big]))
    assert budget.left == before


# --- what is wrong with an instance -----------------------------------------------------------


def test_one_bad_instance_harms_no_other(server: DicomWebServer) -> None:
    server.intake.errors["1.2.2"] = RejectedError("wrong")
    answer = stow(server.url, multipart([dicom_file(f"1.2.{n}") for n in (1, 2, 3)]))
    assert (answer.status_code, stored_uids(answer)) == (202, ["1.2.1", "1.2.3"])
    assert reasons(answer) == [0xC000]
    assert server.intake.ends == [RELEASED]


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        (TransientError("the disk is full"), 0xA700, 503),
        (RejectedError("wrong"), 0xC000, 409),
        (IntegrityError("broken"), 0x0110, 409),
    ],
)
def test_the_reason_says_whether_to_try_again(
    server: DicomWebServer, error: Exception, reason: int, status: int
) -> None:
    server.intake.errors["1.2.1"] = error  # type: ignore[assignment]
    answer = stow(server.url, multipart([dicom_file("1.2.1")]))
    assert (answer.status_code, reasons(answer)) == (status, [reason])
    assert ("retry-after" in answer.headers) is (reason == 0xA700)
    assert server.intake.stored == []


def test_an_instance_of_another_study_than_the_request_says_is_refused(
    server: DicomWebServer,
) -> None:
    body = multipart([dicom_file("1.2.1")])
    assert stow(server.url, body, study=STUDY).status_code == 200
    answer = stow(server.url, body, study="1.2.3")
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])
    assert len(server.intake.stored) == 1


def test_a_large_instance_of_another_study_is_refused(server: DicomWebServer) -> None:
    body = multipart([dicom_file("1.2.1", padding=MOST_IN_MEMORY * 2)])
    answer = stow(server.url, body, study="1.2.3")
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])
    assert server.intake.stored == []


def test_a_file_that_names_another_instance_than_its_data_set_is_refused(
    server: DicomWebServer,
) -> None:
    file = dicom_file("1.2.1").replace(b"1.2.1\0", b"1.2.9\0", 1)
    answer = stow(server.url, multipart([file]))
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])


@pytest.mark.parametrize("content", [b"", b"not a DICOM file", bytes(128) + b"DICM", b"x" * 5000])
def test_what_is_no_dicom_file_is_refused_by_itself(server: DicomWebServer, content: bytes) -> None:
    answer = stow(server.url, multipart([content, dicom_file("1.2.1")]))
    assert (answer.status_code, stored_uids(answer)) == (202, ["1.2.1"])
    assert reasons(answer, "0008119A") == [0xC000]


def test_an_instance_uid_with_path_characters_is_refused(server: DicomWebServer) -> None:
    answer = stow(server.url, multipart([dicom_file("1.2.1").replace(b"1.2.1\0", b"../..\0")]))
    assert (answer.status_code, reasons(answer, "0008119A")) == (409, [0xC000])
    assert b".." not in answer.content


def test_a_nested_multipart_is_refused_as_one_part(server: DicomWebServer) -> None:
    inner = multipart([dicom_file("1.2.1")], boundary="inner")
    body = multipart([inner], part_type='multipart/related; boundary="inner"')
    answer = stow(server.url, body)
    assert (answer.status_code, reasons(answer, "0008119A")) == (409, [0xC000])


def test_a_large_instance_that_cannot_be_written_leaves_nothing(server: DicomWebServer) -> None:
    server.intake.spool_errors["1.2.1"] = TransientError("the disk is full")
    file = dicom_file("1.2.1", padding=MOST_IN_MEMORY * 2)
    answer = stow(server.url, multipart([file, dicom_file("1.2.2")]))
    assert (answer.status_code, stored_uids(answer), reasons(answer)) == (202, ["1.2.2"], [0xA700])
    assert [spool.state for spool in server.intake.spools] == ["discarded"]


# --- what is wrong with a request --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("multipart/form-data; boundary=a-boundary", 415),
        ("application/json", 415),
        ("this is none", 415),
        ('multipart/related; type="application/dicom+json"; boundary=a-boundary', 415),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary=' + "b" * 129, 400),
        ('multipart/related; type="application/dicom"; boundary="a{}b"', 400),
        ('multipart/related; type="application/dicom"; boundary=another', 400),
    ],
)
def test_a_wrong_content_type_is_told(
    server: DicomWebServer, content_type: str, status: int
) -> None:
    answer = stow(server.url, multipart([dicom_file("1.2.1")]), content_type)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert server.intake.stored == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no multipart at all",
        f"--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\n: no name\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nX: {'x' * 100_000}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\n{'X: y' + chr(13) + chr(10)}".encode() * 1
        + b"X: y\r\n" * 1000
        + f"\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
    ],
    ids=["empty", "text", "no parts", "no name", "long header", "many headers"],
)
def test_a_body_that_is_no_multipart_is_a_bad_request(server: DicomWebServer, body: bytes) -> None:
    answer = stow(server.url, body)
    assert answer.status_code == 400
    assert PATIENT_ID not in answer.text


def test_without_the_final_boundary_what_was_stored_stays_and_the_transfer_is_aborted(
    server: DicomWebServer,
) -> None:
    body = multipart([dicom_file("1.2.1"), dicom_file("1.2.2")], end=False)
    answer = stow(server.url, body)
    assert (answer.status_code, answer.json()["stored"]) == (400, 1)
    assert server.intake.ends == [ABORTED]


def test_too_many_parts_end_the_request(server: DicomWebServer) -> None:
    answer = stow(server.url, multipart([b"x"] * 3000))
    assert answer.status_code == 400
    assert server.intake.stored == []


def test_a_request_that_says_it_is_too_long_is_not_read(server: DicomWebServer) -> None:
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n"
        f"Content-Length: {1 << 40}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_request_that_is_too_long_without_saying_so_is_cut_off(server: DicomWebServer) -> None:
    part = dicom_file("1.2.1", padding=1 << 20)

    def chunks() -> Iterator[bytes]:
        for _ in range(70):
            yield multipart([part], end=False)

    try:
        answer = httpx.post(
            f"{server.url}/studies", content=chunks(), headers={"Content-Type": TYPE}, timeout=20
        )
        assert answer.status_code in {400, 413}
    except httpx.WriteError:
        pass  # the server hung up while the client was still sending
    eventually(lambda: server.intake.ends == [ABORTED])


def test_an_encoded_body_is_refused(server: DicomWebServer) -> None:
    answer = stow(server.url, b"x", Content_Encoding="gzip")
    assert answer.status_code == 415


def test_a_connection_that_breaks_aborts_the_transfer(server: DicomWebServer) -> None:
    body = multipart([dicom_file("1.2.1"), dicom_file("1.2.2", padding=2_000_000)])
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(head + body[:1_000_000])
        eventually(lambda: len(server.intake.stored) == 1)
    eventually(lambda: server.intake.ends == [ABORTED])
    assert [item.sop_instance_uid for item in server.intake.stored] == ["1.2.1"]


def test_a_broken_large_part_leaves_nothing(server: DicomWebServer) -> None:
    body = multipart([dicom_file("1.2.1", padding=20 << 20)])
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(head + body[: 12 << 20])
        eventually(lambda: bool(server.intake.spools))
    eventually(lambda: server.intake.ends == [ABORTED])
    assert [spool.state for spool in server.intake.spools] == ["discarded"]
    assert server.intake.stored == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/studies/../../etc", 405),
        ("POST", "/studies/1.2.3x", 400),
        ("POST", "/studies/" + "1." * 40 + "1", 400),
        ("POST", "/studies/1.2/series", 405),
        ("DELETE", "/studies/1.2", 405),
        ("PUT", "/studies", 405),
        ("OPTIONS", "/studies", 204),
    ],
)
def test_other_methods_and_paths(
    server: DicomWebServer, method: str, path: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(
            f"{method} /dicom-web{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = client.recv(4000).decode()
    assert answer.split()[1] == str(status)
