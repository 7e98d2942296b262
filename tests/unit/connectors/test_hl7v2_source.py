"""An ADT feed into the source: what is recorded, what is answered, and what it survives."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hl7
import psutil
import pytest
from hl7.client import MLLPClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.hl7v2.config import Hl7v2SourceConfig
from connectors.hl7v2.mllp import BlockReader, BlockTooLongError, block
from connectors.hl7v2.source import Hl7v2Source
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.errors import ConfigError, RejectedError, TransientError
from hub.ports import HealthState, SourceContext
from hub.transport.tls_config import TlsServerConfig
from tests.contracts.recording import NoKnowledge, RecordingIntake, WallClock, eventually
from tests.peers import free_port
from tests.peers.certificates import Authority

HL7_DATA = Path(__file__).resolve().parents[4] / "shared/data/hl7v2"

HEADER = r"MSH|^~\&|RIS|HOSP|CAIDX|UMR|20260314083000||{type}|{id}|P|2.5.1||||||UNICODE UTF-8"
PID = "PID|1||NEW^^^ADT1^MR||Canary^Yellow||19580217|F"


def adt(event: str = "A08", control_id: str = "42", *segments: str, kind: str = "ADT") -> bytes:
    header = HEADER.format(type=f"{kind}^{event}", id=control_id)
    return "\r".join([header, *(segments or (PID,)), ""]).encode()


MERGE = adt("A40", "43", PID, "MRG|OLD^^^ADT1^MR")


@dataclass
class RecordingKnowledge(NoKnowledge):
    """Keeps changes, or fails as told (hub.ports.Knowledge)."""

    changes: list[PatientChange] = field(default_factory=list)
    error: Exception | None = None
    before: Callable[[], None] = lambda: None

    def patient_changed(self, change: PatientChange) -> None:
        self.before()
        if self.error is not None:
            raise self.error
        self.changes.append(change)


@dataclass
class Feed:
    """A source that listens, and what it told the hub."""

    source: Hl7v2Source
    knowledge: RecordingKnowledge
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def ask(self, *messages: bytes) -> list[str]:
        """The answer to each message, on one connection."""
        with self.connect() as connection:
            return [ask(connection, message) for message in messages]


@contextmanager
def feed(**fields: Any) -> Iterator[Feed]:
    knowledge, port = RecordingKnowledge(), free_port()
    config = Hl7v2SourceConfig(port=port, **({"stop_grace": 1.0} | fields))
    context = SourceContext("adt", RecordingIntake(), WallClock(), knowledge)
    source = Hl7v2Source(config, context)
    source.start()
    try:
        yield Feed(source, knowledge, port)
    finally:
        source.stop()


def ask(connection: socket.socket, message: bytes) -> str:
    connection.sendall(block(message))
    return answer_from(connection)


def answer_from(connection: socket.socket) -> str:
    reader = BlockReader(1 << 20)
    while True:
        received = connection.recv(4096)
        if not received:
            return ""
        blocks = reader.feed(received)
        if blocks:
            return blocks[0].decode("utf-8")


def code_in(answer: str) -> tuple[str, str]:
    """MSA-1 and MSA-2."""
    message = hl7.parse(answer)
    return message.extract_field("MSA", 1, 1), message.extract_field("MSA", 1, 2)


# --- what is recorded, and answered ------------------------------------------------------------


def test_an_update_is_recorded_and_acknowledged() -> None:
    with feed() as adt_feed:
        (answer,) = adt_feed.ask(adt())
        assert code_in(answer) == ("AA", "42")
        (change,) = adt_feed.knowledge.changes
        assert change.kind is PatientChangeKind.UPDATED
        assert change.current.patient_name == "Canary^Yellow"
        assert change.source == "adt"
        header = answer.split("\r")[0].split("|")
        assert header[2:6] == ["CAIDX", "UMR", "RIS", "HOSP"]
        assert header[8] == "ACK^A08^ACK"
        assert header[9] not in ("", "42")


def test_another_ones_sender_understands_the_answer() -> None:
    with feed() as adt_feed, MLLPClient("127.0.0.1", adt_feed.port) as client:
        for message in (adt(), MERGE):
            answer = hl7.parse(client.send_message(message).strip(b"\x0b\x1c\r"), "utf-8")
            assert answer.extract_field("MSA", 1, 1) == "AA"
        assert [c.patient_id for c in adt_feed.knowledge.changes] == ["NEW", "OLD"]


def test_the_answer_comes_only_when_it_is_recorded() -> None:
    with feed() as adt_feed, adt_feed.connect() as connection:
        gate = threading.Event()
        adt_feed.knowledge.before = lambda: gate.wait(10) or None
        connection.sendall(block(adt()))
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert adt_feed.knowledge.changes == []
        gate.set()
        connection.settimeout(10)
        assert code_in(answer_from(connection))[0] == "AA"
        assert len(adt_feed.knowledge.changes) == 1


def test_the_same_message_again_is_the_same_change() -> None:
    with feed() as adt_feed:
        adt_feed.ask(MERGE, MERGE)
        first, second = adt_feed.knowledge.changes
        assert first.change_id == second.change_id


def test_a_sender_tries_again_while_the_database_is_away() -> None:
    with feed() as adt_feed:
        adt_feed.knowledge.error = TransientError("database: CANARY OperationalError")
        (answer,) = adt_feed.ask(MERGE)
        assert code_in(answer) == ("AE", "43")
        assert "|207^" in answer
        assert "CANARY" not in answer
        adt_feed.knowledge.error = None
        assert code_in(adt_feed.ask(MERGE)[0])[0] == "AA"


@pytest.mark.parametrize(
    ("message", "error", "location"),
    [
        (adt("A01"), "201", "MSH^1^9"),
        (adt("O01", kind="ORM"), "200", "MSH^1^9"),
        (adt("A40"), "101", "MRG"),
        (adt("A08", "42", "PID|1||||Canary"), "101", "PID^1^3"),
        (adt("A08", "42", "EVN|A08"), "101", "PID"),
        (adt("A08", "42", f"PID|1||{'9' * 65}"), "102", "PID^1^3"),
        (adt("A08", "42", "PID|1||a\\E\\b"), "102", "PID^1^3"),
        (adt("A40", "42", PID, "MRG|NEW^^^ADT1"), "102", "MRG^1^1"),
        (adt().replace(b"|P|2.5.1", b"|T|2.5.1"), "202", "MSH^1^11"),
        (adt().replace(b"|P|2.5.1", b"|P|3.0"), "203", "MSH^1^12"),
        (adt().replace(b"|42|P", b"||P"), "101", "MSH^1^10"),
        (adt().replace(b"UNICODE UTF-8", b"EBCDIC"), "102", "MSH^1^18"),
        (adt().replace(b"Canary", b"Can\xffry"), "102", "MSH^1^18"),
    ],
)
def test_what_is_not_taken_is_refused_with_the_reason(
    message: bytes, error: str, location: str
) -> None:
    with feed() as adt_feed:
        answer, after = adt_feed.ask(message, adt())
        assert code_in(answer)[0] == "AR"
        (reason,) = [line for line in answer.split("\r") if line.startswith("ERR|")]
        assert reason.split("|")[2:5:2] == [location, "E"]
        assert reason.split("|")[3].split("^")[::2] == [error, "HL70357"]
        assert "anary" not in answer
        assert code_in(after)[0] == "AA"
        assert len(adt_feed.knowledge.changes) == 1


def test_what_the_store_refuses_is_refused() -> None:
    with feed() as adt_feed:
        adt_feed.knowledge.error = RejectedError("the database does not take it: DataError")
        assert code_in(adt_feed.ask(adt())[0])[0] == "AR"


def test_messages_may_be_passed_over() -> None:
    with feed(passed_over=("ADT^A01",)) as adt_feed:
        first, second = adt_feed.ask(adt("A01"), adt("A03"))
        assert (code_in(first)[0], code_in(second)[0]) == ("AA", "AR")
        assert adt_feed.knowledge.changes == []


@pytest.mark.parametrize(
    ("wanted", "error", "codes"),
    [
        ("AL|NE", None, ["CA"]),
        ("AL|NE", TransientError("x"), ["CE"]),
        ("ER|NE", None, []),
        ("ER|NE", RejectedError("x"), ["CR"]),
        ("SU|AL", None, ["CA", "AA"]),
        ("NE|ER", TransientError("x"), ["AE"]),
        ("|AL", None, ["AA"]),
    ],
)
def test_senders_of_the_enhanced_mode_get_what_they_ask_for(
    wanted: str, error: Exception | None, codes: list[str]
) -> None:
    with feed() as adt_feed, adt_feed.connect() as connection:
        adt_feed.knowledge.error = error
        connection.sendall(block(adt().replace(b"|2.5.1||||||", f"|2.5.1|||{wanted}||".encode())))
        connection.shutdown(socket.SHUT_WR)
        answers = BlockReader(1 << 20).feed(connection.makefile("rb").read())
        assert [code_in(answer.decode())[0] for answer in answers] == codes


def test_control_ids_go_back_as_they_came() -> None:
    odd = "A\\T\\1-Ü^x"
    with feed() as adt_feed:
        (answer,) = adt_feed.ask(adt("A08", odd))
        assert f"MSA|AA|{odd}\r" in answer
        (other,) = adt_feed.ask(
            b"MSH#*+!%#RIS#H###20260314##ADT*A08#7!S!7#P#2.5#\rPID#1##NEW*%%*A*X*MR##C*Y\r"
        )
        assert code_in(other) == ("AA", "7*7")


def test_no_escape_sequence_leaves_a_message_without_an_answer() -> None:
    """What it stands for may be no character of the answer's bytes."""
    with feed() as adt_feed:
        plain = adt().replace(b"ADT^A08", b"ADT^\\XE282AC\\")
        odd = b"MSH#*+!%#\x21XE282AC!#H###20260314##ADT*A08#7#P#2.5#\rPID#1##NEW##C*Y\r"
        first, second = adt_feed.ask(plain, odd)
        assert code_in(first) == ("AR", "42")
        assert code_in(second) == ("AA", "7")


# --- identifiers -------------------------------------------------------------------------------


def test_issuers_are_those_of_the_images() -> None:
    authorities = {"ADT1": "", "1.2.276.9": "UMR"}
    several = "PID|1||1^^^SSN^SS~2^^^X&1.2.276.9&ISO^PI~3^^^ADT1^MR~4^^^OTHER^MR||A^B"
    with feed(assigning_authorities=authorities) as adt_feed:
        adt_feed.ask(adt("A08", "1", several))
        found = [(c.patient_id, c.issuer_of_patient_id) for c in adt_feed.knowledge.changes]
        assert found == [("3", ""), ("2", "UMR")]


# --- limits ------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_is_refused_and_its_connection_closed() -> None:
    with feed(maximum_message_size=16384) as adt_feed, adt_feed.connect() as connection:
        connection.sendall(b"\x0b" + adt() + b"x" * 16384)
        assert code_in(answer_from(connection)) == ("AR", "42")
        assert connection.recv(1) == b""


def trickled(connection: socket.socket, content: bytes) -> bool:
    """Whether all of it could be sent, a byte every 20 ms."""
    for byte in content:
        try:
            connection.sendall(bytes([byte]))
        except ConnectionError:
            return False
        time.sleep(0.02)
    return True


def test_a_slow_sender_is_cut_off() -> None:
    with feed(message_timeout=0.4) as adt_feed, adt_feed.connect() as connection:
        started = time.monotonic()
        assert not trickled(connection, block(adt()))
        assert time.monotonic() - started < 3
        assert code_in(adt_feed.ask(adt())[0])[0] == "AA"


def test_a_silent_connection_is_closed_also_where_it_sends_nonsense() -> None:
    with feed(idle_timeout=0.4) as adt_feed, adt_feed.connect() as connection:
        started = time.monotonic()
        assert not trickled(connection, b"\r\n" * 200)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("begun", [b"", b"\x0bMSH|^~"])
def test_a_connection_that_falls_silent_is_closed(begun: bytes) -> None:
    with (
        feed(idle_timeout=0.3, message_timeout=0.3) as adt_feed,
        adt_feed.connect() as connection,
    ):
        connection.sendall(begun)
        assert connection.recv(1) == b""


def test_connections_are_limited_and_counted_again() -> None:
    with feed(maximum_connections=3, maximum_connections_per_address=2) as adt_feed:
        first, second = adt_feed.connect(), adt_feed.connect()
        assert code_in(ask(first, adt()))[0] == "AA"
        assert code_in(ask(second, adt()))[0] == "AA"
        with adt_feed.connect() as third:
            assert third.recv(1) == b""
        first.close()

        def taken() -> bool:
            with adt_feed.connect() as again:
                try:
                    return "MSA|AA" in ask(again, adt())
                except ConnectionError:
                    return False

        eventually(taken)
        second.close()


def test_unknown_addresses_are_refused() -> None:
    with feed(allowed_addresses=("192.0.2.0/24",)) as adt_feed, adt_feed.connect() as connection:
        assert connection.recv(1) == b""
        assert adt_feed.knowledge.changes == []
    with feed(allowed_addresses=("127.0.0.0/8",)) as adt_feed:
        assert code_in(adt_feed.ask(adt())[0])[0] == "AA"


def test_nobody_may_change_patients_unless_he_is_known() -> None:
    with feed(host="0.0.0.0") as adt_feed, adt_feed.connect() as connection:
        assert adt_feed.source.health().state is HealthState.DEGRADED
        assert connection.recv(1) == b""
    with feed(host="0.0.0.0", unknown_senders="accept") as adt_feed:
        assert adt_feed.source.health().state is HealthState.HEALTHY
        assert code_in(adt_feed.ask(adt())[0])[0] == "AA"


def test_sending_applications_may_be_named() -> None:
    with feed(sending_applications=("KIS",)) as adt_feed:
        refused, taken = adt_feed.ask(adt(), adt().replace(b"|RIS|", b"|KIS|"))
        assert (code_in(refused)[0], code_in(taken)[0]) == ("AR", "AA")


def test_stopping_answers_what_has_arrived() -> None:
    with feed(stop_grace=20.0) as adt_feed, adt_feed.connect() as connection:
        gate = threading.Event()
        adt_feed.knowledge.before = lambda: gate.wait(10) or None
        connection.sendall(block(adt()))
        time.sleep(0.2)
        stopping = threading.Thread(target=adt_feed.source.stop)
        stopping.start()
        time.sleep(0.1)
        gate.set()
        assert code_in(answer_from(connection))[0] == "AA"
        stopping.join(5)
        assert not stopping.is_alive()
        assert adt_feed.source.health().state is HealthState.STOPPED
        with pytest.raises(ConnectionError):
            adt_feed.connect()


def test_a_port_in_use_is_tried_again_and_an_address_that_is_not_ours_never() -> None:
    with feed() as adt_feed:
        context = SourceContext("adt", RecordingIntake(), WallClock(), RecordingKnowledge())
        with pytest.raises(TransientError):
            Hl7v2Source(Hl7v2SourceConfig(port=adt_feed.port), context).start()
        elsewhere = Hl7v2SourceConfig(host="192.0.2.1", port=free_port(), unknown_senders="accept")
        with pytest.raises(ConfigError):
            Hl7v2Source(elsewhere, context).start()
        with pytest.raises(ConfigError):
            Hl7v2Source(Hl7v2SourceConfig(character_set="EBCDIC"), context)


# --- TLS ---------------------------------------------------------------------------------------


def test_senders_show_a_certificate(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    own = authority.issue("hub")
    tls = TlsServerConfig(
        certificate=own.certificate, private_key=own.private_key, trusted=authority.certificate
    )
    with feed(tls=tls, host="0.0.0.0") as adt_feed:
        assert adt_feed.source.health().state is HealthState.HEALTHY
        for issuer, taken in ((authority, True), (stranger, False)):
            theirs = issuer.issue("ris")
            context = ssl.create_default_context(cafile=authority.certificate)
            context.load_cert_chain(theirs.certificate, theirs.private_key)
            with adt_feed.connect() as plain:
                try:
                    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                        answer = ask(connection, adt())
                except OSError:
                    answer = ""
            assert ("MSA|AA" in answer) is taken
        with adt_feed.connect() as plain:
            plain.sendall(block(adt()))
            with suppress(ConnectionError):
                assert b"MSA" not in plain.recv(4096)
        assert len(adt_feed.knowledge.changes) == 1


# --- real messages -----------------------------------------------------------------------------


@pytest.mark.skipif(not HL7_DATA.is_dir(), reason="the shared data set is not here")
def test_real_messages_are_taken_as_they_are() -> None:
    expected = {
        "dcm4che/ADT^A31-UpdatePersonInfo.hl7": [("updated", "PID_1", "PID_1", "ADT1")],
        "dcm4che/ADT^A40-PatientMerge.hl7": [("merged", "OLD_PID_1", "NEW_PID_1", "ADT1")],
        "dcm4che/ADT^A47-ChangePatientID.hl7": [
            ("identifier-changed", "OLD_PID_1", "NEW_PID_1", "ADT1")
        ],
        "microsoft-fhir-converter/ADT-A08-01.hl7": [("updated", "PATID1234", "PATID1234", "test1")],
        "microsoft-fhir-converter/ADT-A31-02.hl7": [("updated", "PATID1234", "PATID1234", "test1")],
        "microsoft-fhir-converter/ADT-A40-02.hl7": [
            ("merged", "56789", "12345", "BCBS"),
            ("merged", "569", "145", "BCBS"),
        ],
        "microsoft-fhir-converter/ADT-A47-01.hl7": [
            ("identifier-changed", "MR102", "MR101", "GOOD HEALTH HOSPITAL")
        ],
    }
    for name, changes in expected.items():
        with feed(processing_ids=("P", "T")) as adt_feed:
            adt_feed.source.take((HL7_DATA / name).read_bytes())
            found = [
                (c.kind.value, c.patient_id, c.current.patient_id, c.current.issuer_of_patient_id)
                for c in adt_feed.knowledge.changes
            ]
            assert found == changes, name


@pytest.mark.skipif(not HL7_DATA.is_dir(), reason="the shared data set is not here")
def test_every_real_message_gets_an_answer() -> None:
    files = sorted(HL7_DATA.rglob("*.hl7"))
    assert len(files) > 50
    with feed() as adt_feed:
        for file in files:
            message = file.read_bytes().replace(b"|NE|NE", b"||")
            assert code_in(adt_feed.ask(message)[0])[0] in ("AA", "AR", "CR"), file.name
        assert adt_feed.knowledge.changes


# --- hostile senders ---------------------------------------------------------------------------

MESSAGES = st.sampled_from([adt(), MERGE, adt("A01"), adt("A47", "9", PID, "MRG|O^^^ADT1")])


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A good message with some bytes of it changed, left out or repeated."""
    message = bytearray(draw(MESSAGES))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, max(len(message) - 1, 0)))
        message[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return block(bytes(message)) if draw(st.booleans()) else bytes(message)


STREAMS = st.lists(st.binary(max_size=400) | mangled(), max_size=6)


@pytest.fixture(scope="module")
def abused() -> Iterator[Feed]:
    with feed(message_timeout=0.2, idle_timeout=0.2, maximum_connections=64) as adt_feed:
        yield adt_feed


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stream=STREAMS)
def test_garbage_hurts_nobody(abused: Feed, stream: list[bytes]) -> None:
    with abused.connect() as connection:
        for part in stream:
            try:
                connection.sendall(part)
            except OSError:
                break
    assert code_in(abused.ask(adt())[0])[0] == "AA"
    assert abused.source.health().state is HealthState.HEALTHY


def test_memory_does_not_grow_with_what_is_sent() -> None:
    process = psutil.Process()
    with feed(maximum_message_size=65536, message_timeout=20.0) as adt_feed:
        adt_feed.ask(adt())
        before = process.memory_info().rss
        junk = b"z" * (1 << 20)
        with adt_feed.connect() as outside:
            for _ in range(64):  # between blocks: passed over
                outside.sendall(junk)
            assert code_in(ask(outside, adt()))[0] == "AA"
        for _ in range(32):  # in a block: refused
            with adt_feed.connect() as inside:
                try:
                    inside.sendall(b"\x0b" + junk)
                except ConnectionError:
                    continue
        eventually(lambda: "MSA|AA" in adt_feed.ask(adt())[0])
        assert process.memory_info().rss - before < 32 << 20


@given(st.lists(st.binary(max_size=60)), st.integers(1, 40))
def test_a_reader_never_holds_more_than_a_message(pieces: list[bytes], limit: int) -> None:
    reader = BlockReader(limit)
    for piece in pieces:
        try:
            found = reader.feed(piece)
        except BlockTooLongError as error:
            kept = error.head
            break
        assert all(len(one) <= limit for one in found)
    else:
        return
    assert len(kept) == limit


@given(st.lists(st.binary(max_size=30).map(lambda b: b.translate(None, b"\x0b\x1c"))), st.data())
def test_blocks_are_found_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"\r\n".join(block(message) for message in messages)
    reader, found = BlockReader(1000), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == messages


def test_the_receiver_stays_light() -> None:
    """It loads nothing but the standard library, structlog and what the hub itself has."""
    code = (
        "import sys; import connectors.hl7v2.source; "
        "heavy = {'pydicom', 'fastapi', 'hl7', 'httpx', 'numpy', 'sqlalchemy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
