"""Results to python-hl7's own MLLP server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.hl7v2 import CONNECTOR
from connectors.hl7v2.config import Hl7v2DestinationConfig
from connectors.hl7v2.destination import Hl7v2Destination
from hub.domain.delivery import Document, DocumentKind
from hub.domain.identity import PatientIdentity
from hub.errors import ConfigError, RejectedError, TransientError
from hub.formats.encoding import EncodingContext
from hub.formats.hl7v2.report import encode
from hub.ports import DestinationContext
from hub.transport.tls_config import TlsClientConfig
from tests.builders import MADE_AT, assessed, chest_ct_study, model_card, request_for
from tests.contracts.recording import WallClock, eventually
from tests.fakes import NoConfirmations
from tests.peers import free_port
from tests.peers.certificates import Authority
from tests.peers.hl7_listener import Hl7Listener, field_of, listening

CONTEXT = DestinationContext("ris", WallClock(), NoConfirmations())
CANARY = PatientIdentity("CANARY-1", "UMR", "Canary^Yellow", "19580217", "F")


def oru(uid: str = "2.25.1001") -> Document:
    request = request_for(chest_ct_study(patient=CANARY, study_instance_uid=uid))
    context = EncodingContext(made_at=MADE_AT, institution_name="UMR", software_version="0.1.0")
    document = encode(request, assessed(request), model_card(), context, {})
    assert document is not None
    return document


@contextmanager
def to(listener: Hl7Listener, **fields: Any) -> Iterator[Hl7v2Destination]:
    config = Hl7v2DestinationConfig(
        host="127.0.0.1", port=listener.port, **({"response_timeout": 5.0} | fields)
    )
    with closing(Hl7v2Destination(config, CONTEXT)) as destination:
        yield destination


def test_a_delivered_document_is_at_the_receiver_unchanged() -> None:
    with listening() as listener, to(listener) as destination:
        assert destination.deliver(oru(), "key").detail == "HL7 AA"
    sent = oru().content.decode().rstrip("\r").split("\r")
    assert listener.texts[0].rstrip("\r").split("\r")[1:] == sent[1:]


def test_the_header_is_the_receivers() -> None:
    fields = {"receiving_application": "RIS^1.2^ISO", "receiving_facility": "HOSP"}
    with listening() as listener, to(listener, processing_id="T", **fields) as destination:
        destination.deliver(oru(), "key")
    header = listener.texts[0].split("\r")[0]
    assert header.split("|")[2:6] == ["CAIDX", "UMR", "RIS^1.2^ISO", "HOSP"]
    assert header.split("|")[10] == "T"


def test_one_connection_serves_many_messages_one_at_a_time() -> None:
    with listening() as listener, to(listener) as destination:
        documents = [oru(f"2.25.{number}") for number in range(1, 13)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: destination.deliver(one, "key"), documents))
        assert listener.connections == 1
        control_ids = [field_of(message, "MSH", 10) for message in listener.messages]
        assert len(set(control_ids)) == 12


def test_the_same_document_has_the_same_control_id() -> None:
    with listening() as listener, to(listener) as destination:
        for _ in range(2):
            destination.deliver(oru(), "key")
    first, second = (field_of(message, "MSH", 10) for message in listener.messages)
    assert first == second


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("AE", TransientError),
        ("CE", TransientError),
        ("AR", RejectedError),
        ("CR", RejectedError),
        ("AE/101", RejectedError),
        ("AE/204", RejectedError),
        ("AE/207", TransientError),
        ("AR/207", TransientError),
        ("AR/206", TransientError),
        ("AR/200", RejectedError),
        ("ZZ", TransientError),
        ("other", TransientError),
        ("close", TransientError),
    ],
)
def test_what_an_answer_means(answer: str, error: type[Exception]) -> None:
    with listening(answer, answer) as listener, to(listener) as destination:
        with pytest.raises(error) as raised:
            destination.deliver(oru(), "key")
        assert "CANARY" not in str(raised.value).upper()
        listener.answers.clear()
        assert destination.deliver(oru("2.25.2"), "key").detail == "HL7 AA"


@pytest.mark.parametrize("answer", ["CA", "AA"])
def test_an_accepted_message_is_delivered(answer: str) -> None:
    with listening(answer) as listener, to(listener) as destination:
        assert destination.deliver(oru(), "key").detail == f"HL7 {answer}"


@pytest.mark.parametrize("answer", ["nothing", "garbage"])
def test_no_answer_is_asked_again_later(answer: str) -> None:
    with listening(answer) as listener, to(listener, response_timeout=1.0) as destination:
        with pytest.raises(TransientError, match="no acknowledgement"):
            destination.deliver(oru(), "key")
        assert destination.deliver(oru(), "key").detail == "HL7 AA"
        assert listener.connections == 2


def test_a_late_answer_is_not_taken_for_that_to_the_next_message() -> None:
    with (
        listening("late", "AE", lateness=0.5) as listener,
        to(listener, response_timeout=0.2) as destination,
    ):
        with pytest.raises(TransientError):
            destination.deliver(oru("2.25.1"), "key")
        time.sleep(0.5)
        with pytest.raises(TransientError, match="HL7 AE"):
            destination.deliver(oru("2.25.2"), "key")


def test_an_endless_answer_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def flood() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"\x0b")
                while True:
                    connection.sendall(b"x" * 65536)

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        listener = Hl7Listener(server.getsockname()[1])
        with to(listener) as destination, pytest.raises(TransientError, match="too long"):
            destination.deliver(oru(), "key")
        thread.join(10)


def test_a_receiver_that_hangs_up_before_it_answers_is_asked_again_at_once() -> None:
    with listening("AA", "close") as listener, to(listener) as destination:
        destination.deliver(oru("2.25.1"), "key")
        assert destination.deliver(oru("2.25.2"), "key").detail == "HL7 AA"
        assert listener.connections == 2
        assert [field_of(m, "MSH", 10) for m in listener.messages[1:]] == [
            field_of(listener.messages[1], "MSH", 10)
        ] * 2


def test_a_receiver_that_was_started_again_is_connected_again() -> None:
    with listening() as first, to(first) as destination:
        destination.deliver(oru("2.25.1"), "key")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(destination, "_connect", lambda: pytest.fail("connected too early"))
            destination.deliver(oru("2.25.2"), "key")
        first.hang_up()
        assert destination.deliver(oru("2.25.3"), "key").detail == "HL7 AA"
        assert first.connections == 2
        assert len(first.messages) == 3


def test_a_connection_is_kept_only_so_long() -> None:
    with listening() as listener, to(listener, keep_open=0) as destination:
        for number in range(2):
            destination.deliver(oru(f"2.25.{number + 1}"), "key")
        assert listener.connections == 2


def test_a_connection_that_is_not_kept_ends_with_a_refusal_too() -> None:
    own = psutil.Process()
    with listening("AR") as listener, to(listener, keep_open=0) as destination:
        with pytest.raises(RejectedError):
            destination.deliver(oru(), "key")
        there = [one for one in own.net_connections() if one.raddr[1:] == (listener.port,)]
        assert [one for one in there if one.status == psutil.CONN_ESTABLISHED] == []


def test_a_receiver_that_is_away_is_transient() -> None:
    with to(Hl7Listener(free_port())) as destination:
        with pytest.raises(TransientError):
            destination.deliver(oru(), "key")
        with pytest.raises(TransientError):
            destination.check()


def test_a_slow_receiver_holds_nobody_much_longer_than_its_time() -> None:
    """Who waits for the connection gives up, too; one after another would take 4 seconds."""
    silent = ["nothing"] * 8
    with listening(*silent) as listener, to(listener, response_timeout=0.5) as destination:
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(destination.deliver, oru(f"2.25.{n}"), "key") for n in range(8)]
            assert {type(one.exception()) for one in waiting} == {TransientError}
        assert time.monotonic() - started < 3


def test_a_destination_that_is_there_says_so() -> None:
    with listening() as listener, to(listener) as destination:
        assert "took a TCP connection" in destination.check()
        eventually(lambda: listener.connections == 1)
        assert listener.messages == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": DocumentKind.SEG},
        {"content": oru().content.replace(b"|CANARY-1^", b"|OTHER^")},
        {"content": oru().content.replace(b"|2.25.1001|", b"|2.25.1002|")},
        {"content": oru().content.replace(b"ORU^R01", b"ADT^A08")},
        {"content": b"%PDF"},
    ],
)
def test_what_is_not_the_results_own_message_is_not_sent(wrong: dict[str, Any]) -> None:
    with listening() as listener, to(listener) as destination:
        with pytest.raises(RejectedError) as raised:
            destination.deliver(replace(oru(), **wrong), "key")
        assert "CANARY" not in str(raised.value)
        assert listener.messages == []


def test_a_closed_destination_may_be_closed_again() -> None:
    with listening() as listener, to(listener) as destination:
        destination.deliver(oru(), "key")
        destination.close()
        destination.close()


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def server_tls(authority: Authority, *, asks: bool = False) -> ssl.SSLContext:
    identity = authority.issue("ris")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private_key)
    if asks:
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_results_go_by_tls_with_our_certificate(authority: Authority) -> None:
    own = authority.issue("hub")
    tls = TlsClientConfig(
        trusted=authority.certificate, certificate=own.certificate, private_key=own.private_key
    )
    with (
        listening(tls=server_tls(authority, asks=True)) as listener,
        to(listener, tls=tls) as destination,
    ):
        for number in (1, 2):
            assert destination.deliver(oru(f"2.25.{number}"), "key").detail == "HL7 AA"
        assert listener.connections == 1
        assert "TLS" in destination.check()


def test_nothing_is_sent_to_whom_tls_does_not_trust(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = TlsClientConfig(trusted=stranger.certificate)
    with (
        listening(tls=server_tls(authority)) as listener,
        to(listener, tls=tls) as destination,
    ):
        with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
            destination.deliver(oru(), "key")
        assert listener.messages == []


def test_a_receiver_that_wants_a_certificate_gets_none(authority: Authority) -> None:
    tls = TlsClientConfig(trusted=authority.certificate)
    with (
        listening(tls=server_tls(authority, asks=True)) as listener,
        to(listener, tls=tls) as destination,
    ):
        with pytest.raises(TransientError):
            destination.deliver(oru(), "key")
        assert listener.messages == []


def test_files_of_tls_that_cannot_be_used_are_a_mistake_of_configuration(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    for fields in ({"trusted": nonsense}, {"certificate": nonsense}):
        config = Hl7v2DestinationConfig(host="localhost", tls=TlsClientConfig(**fields))
        assert CONNECTOR.build_destination is not None
        with pytest.raises(ConfigError):
            CONNECTOR.build_destination(config, CONTEXT)
