"""What hostile and broken peers do to a receiver, in a process of its own: it goes on, within its
memory, and nobody else notices."""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.source import DicomSource
from hub.formats.dicom.header import split_part10
from hub.ports import EndOfTransfer
from tests.contracts.recording import ENCAPSULATED_PDF, RecordingIntake, dicom_file, eventually
from tests.peers import dcmtk, free_port
from tests.peers.receiver import Receiver, receiver
from tests.peers.requestor import (
    CT,
    EXPLICIT,
    Requestor,
    associate_request,
    closed_within,
    command,
    element,
    p_data,
    pdv,
    proposed,
    short,
    store,
    store_command,
)

pytestmark = pytest.mark.peers

CAP = 512 << 20
"""Bytes that the receiver may ever have resident."""
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    with receiver(
        maximum_associations=300,
        maximum_associations_per_caller=300,
        maximum_instance_size=64 << 20,
    ) as running:
        yield running


@pytest.fixture
def hub(shared_receiver: Receiver) -> Iterator[Receiver]:
    """A receiver that must run on, within its memory, after each test."""
    yield shared_receiver
    assert shared_receiver.runs
    assert shared_receiver.peak_memory < CAP
    with Requestor(shared_receiver.port) as it:
        it.establish(calling="AFTER")
        uid = f"1.9.{time.monotonic_ns()}"
        assert it.ask(store(uid, data_set(uid))).status == 0
        it.release()


def el(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return head + struct.pack("<xxI", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def ui(tag: int, uid: str) -> bytes:
    raw = uid.encode("latin-1")
    return el(tag, b"UI", raw + b"\0" * (len(raw) % 2))


def data_set(uid: str, *, sop_class: str = CT, between: bytes = b"", after: bytes = b"") -> bytes:
    """A small object; ``between`` goes before StudyInstanceUID."""
    return (
        ui(0x00080016, sop_class)
        + ui(0x00080018, uid)
        + el(0x00080060, b"CS", b"CT")
        + el(0x00100020, b"LO", b"CANARY-7")
        + between
        + ui(0x0020000D, "1.2.3.4")
        + ui(0x0020000E, "1.2.3.4.5")
        + after
    )


# --- data sets ------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Sequences of undefined length, one in the other."""
    opening = struct.pack("<HH2sxxI", 0x0010, 0x1002, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return opening * depth + closing * depth


def deflated(raw: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(raw) + packer.flush()


def deflate_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = data_set("1.2.9")[:80] + struct.pack("<HH2sxxI", 0x0009, 0x1001, b"UN", 0xFFFFFFF0)
    block = bytes(1 << 20)
    return packer.compress(head) + b"".join(packer.compress(block) for _ in range(128))


BAD_DATA_SETS: dict[str, tuple[Callable[[str], bytes], str, int]] = {
    "sequences 10,000 deep": (lambda uid: data_set(uid, between=nested(10_000)), EXPLICIT, 0xC000),
    "an undefined length without end": (
        lambda uid: data_set(
            uid, between=struct.pack("<HH2sxxI", 0x0010, 0x1002, b"SQ", 0xFFFFFFFF)
        ),
        EXPLICIT,
        0xC000,
    ),
    "a deflate bomb": (lambda uid: deflate_bomb(), DEFLATED, 0xC000),
    "nothing deflated": (lambda uid: b"\xff" * 1000, DEFLATED, 0xC000),
    "group 0002 in the data set": (
        lambda uid: ui(0x00020010, EXPLICIT) + data_set(uid),
        EXPLICIT,
        0xC000,
    ),
    "a length past the end": (lambda uid: data_set(uid)[:-4], EXPLICIT, 0xC000),
    "random bytes": (lambda uid: random.Random(1).randbytes(4096), EXPLICIT, 0xC000),
    "another SOP class": (lambda uid: data_set(uid, sop_class="1.2.840.1"), EXPLICIT, 0xA900),
    "another SOP instance": (lambda uid: data_set(uid + ".1"), EXPLICIT, 0xA900),
    "no data set at all": (lambda uid: b"", EXPLICIT, 0xC000),
}


@pytest.mark.parametrize("name", BAD_DATA_SETS)
def test_a_data_set_that_cannot_be_kept_gets_its_status(hub: Receiver, name: str) -> None:
    build, syntax, status = BAD_DATA_SETS[name]
    uid = "1.2.77"
    with Requestor(hub.port) as it:
        it.establish(proposed(1, CT, [syntax]))
        assert it.ask(store(uid, build(uid))).status == status
        it.release()
    assert uid not in hub.stored


ODD_DATA_SETS: dict[str, Callable[[str], bytes]] = {
    "a wrong character set": lambda uid: el(0x00080005, b"CS", b"ISO_IR 9999 ") + data_set(uid),
    "ISO 2022 escapes": lambda uid: (
        el(0x00080005, b"CS", b"\\ISO 2022 IR 87")
        + data_set(uid, between=el(0x00104000, b"LT", b"\x1b$B\x1b(B\x1b$$$\x1b" * 20))
    ),
    "absurd rows and columns": lambda uid: data_set(
        uid, after=el(0x00280010, b"US", b"\xff\xff") + el(0x00280011, b"US", b"\xff\xff")
    ),
    "a billion frames": lambda uid: data_set(uid, after=el(0x00280008, b"IS", b"1000000000")),
}


@pytest.mark.parametrize("name", ODD_DATA_SETS)
def test_what_is_only_odd_is_kept_byte_for_byte(hub: Receiver, name: str) -> None:
    uid = f"1.2.8{list(ODD_DATA_SETS).index(name)}"
    odd = ODD_DATA_SETS[name](uid)
    with Requestor(hub.port) as it:
        it.establish()
        assert it.ask(store(uid, odd, fragment=7)).status == 0
        it.release()
    eventually(lambda: uid in hub.stored)
    assert hub.stored[uid] == hashlib.sha256(odd).hexdigest()


@pytest.mark.parametrize(
    "uid",
    ["../../etc/passwd", "/etc/passwd", "1.2.3/4", "1..2", "1.2." + "9" * 80, "A", "1.2\x1b", ""],
)
def test_a_uid_that_is_none_is_refused_by_its_own_status(hub: Receiver, uid: str) -> None:
    with Requestor(hub.port) as it:
        it.establish()
        assert it.ask(store(uid, data_set("1.2.3"))).status == 0x0117
        it.release()


@pytest.mark.parametrize(
    "title", ["../../etc", "A\\B", "\x1b$B$@\x1b(B", "\xff" * 16, " ", "\0" * 16]
)
def test_an_ae_title_of_any_bytes_is_answered(hub: Receiver, title: str) -> None:
    with Requestor(hub.port) as it:
        answer = it.establish(calling=title)
        assert answer.body[20:36] == title.encode("latin-1").ljust(16)
        it.release()


# --- commands -------------------------------------------------------------------------------


def request(field: int, *more: bytes, has_data: bool) -> bytes:
    return command(
        element(0x0002, CT.encode()),
        element(0x0100, short(field)),
        element(0x0110, short(7)),
        element(0x0800, short(1 if has_data else 0x0101)),
        *more,
    )


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0140, 0x0120, 0x0130, 0x0150, 0x0ABC])
@pytest.mark.parametrize("has_data", [False, True])
def test_a_command_that_is_not_served_is_answered_with_0211(
    hub: Receiver, field: int, has_data: bool
) -> None:
    message = p_data(pdv(request(field, has_data=has_data), is_command=True))
    if has_data:
        message += p_data(pdv(bytes(100_000), is_command=False))
    with Requestor(hub.port) as it:
        it.establish()
        assert it.ask(message).status == 0x0211
        assert it.ask(store("1.2.61", data_set("1.2.61"))).status == 0
        it.release()


def test_an_endless_data_set_of_a_command_that_is_not_served_takes_no_memory(hub: Receiver) -> None:
    piece = p_data(pdv(bytes(1_000_000), is_command=False, last=False))
    with Requestor(hub.port) as it:
        it.establish()
        it.send(p_data(pdv(request(0x0020, has_data=True), is_command=True)))
        for _ in range(100):
            it.send(piece)
        assert it.ask(p_data(pdv(b"", is_command=False))).status == 0x0211
        it.release()


def test_responses_and_cancels_that_nobody_waits_for_are_passed_over(hub: Receiver) -> None:
    stray = [
        command(
            element(0x0100, short(field)), element(0x0120, short(9)), element(0x0800, short(0x101))
        )
        for field in (0x8001, 0x8100, 0xFFFF, 0x0FFF)
    ]
    with Requestor(hub.port) as it:
        it.establish()
        for one in stray:
            it.send(p_data(pdv(one, is_command=True)))
        assert it.ask(store("1.2.62", data_set("1.2.62"))).status == 0
        it.release()


COMMAND_BOMBS = {
    "that never ends": lambda: (
        p_data(pdv(bytes(60_000), is_command=True, last=False)) for _ in range(200)
    ),
    "of thousands of elements": lambda: [
        p_data(pdv(b"".join(element(n, b"") for n in range(0x2000, 0x3000)), is_command=True))
    ],
    "with an element twice": lambda: [
        p_data(pdv(store_command("1.2") + element(0x1000, b"1.3"), is_command=True))
    ],
    "with elements of other groups": lambda: [
        p_data(pdv(store_command("1.2") + element(0x10, b"1.3", group=0x10), is_command=True))
    ],
    "with a length of 4 GiB": lambda: [
        p_data(pdv(struct.pack("<HHI", 0, 2, 0xFFFFFFFE), is_command=True))
    ],
}


@pytest.mark.parametrize("name", COMMAND_BOMBS)
def test_a_command_set_bomb_ends_its_association(hub: Receiver, name: str) -> None:
    with Requestor(hub.port) as it:
        it.establish()
        with suppress(ConnectionError):
            for part in COMMAND_BOMBS[name]():
                it.send(part)
        assert closed_within(it, 0.5) or it.socket.fileno() >= 0
    assert hub.runs


def test_unknown_command_elements_are_passed_over(hub: Receiver) -> None:
    named = store_command("1.2.63") + b"".join(element(n, b"xyz") for n in range(0x5000, 0x5020))
    with Requestor(hub.port) as it:
        it.establish()
        it.send(p_data(pdv(named, is_command=True)))
        assert it.ask(p_data(pdv(data_set("1.2.63"), is_command=False))).status == 0
        it.release()


# --- sizes ----------------------------------------------------------------------------------


def test_a_pdu_of_4_gib_is_an_abort(hub: Receiver) -> None:
    with Requestor(hub.port) as it:
        it.establish()
        it.send(struct.pack(">BxI", 4, 0xFFFFFFFF) + struct.pack(">IBB", 0xFFFFFFFB, 1, 0))
        answer = it.receive()
        assert answer is not None
        assert answer.abort == (2, 6)


def test_an_instance_beyond_the_limit_is_refused_for_ever_and_leaves_nothing(hub: Receiver) -> None:
    with Requestor(hub.port) as it:
        it.establish()
        answer = it.ask(store("1.2.64", bytes(80 << 20), fragment=1_000_000))
        assert answer.status == 0xC000
        assert b"longer than" in answer.body
        assert it.ask(store("1.2.65", data_set("1.2.65"))).status == 0
        it.release()
    eventually(lambda: "1.2.64" in hub.told("discarded"))
    assert "1.2.64" not in hub.stored


def test_many_large_objects_at_once_stay_within_the_memory(hub: Receiver) -> None:
    body = random.Random(3).randbytes(20 << 20)

    def send(number: int) -> int:
        with Requestor(hub.port) as it:
            it.establish(calling=f"L{number}")
            status = it.ask(store(f"1.3.{number}", body, fragment=1_000_000)).status
            it.release()
        return status

    with ThreadPoolExecutor(48) as pool:
        assert list(pool.map(send, range(48))) == [0] * 48
    wanted = hashlib.sha256(body).hexdigest()
    eventually(lambda: sum(digest == wanted for digest in hub.stored.values()) == 48)


# --- associations ---------------------------------------------------------------------------


def test_what_is_aborted_amid_an_instance_is_never_stored_and_ends_once(hub: Receiver) -> None:
    sizes = (1000, 3_000_000, 20 << 20)
    before = len(hub.told("end"))
    for number, size in enumerate(sizes):
        uid = f"1.4.{number}"
        stream = store(uid, data_set(uid, after=el(0x7FE00010, b"OW", bytes(size))))
        with Requestor(hub.port) as it:
            it.establish()
            assert it.ask(store(f"1.5.{number}", data_set(f"1.5.{number}"))).status == 0
            it.send(stream[:-500])
    eventually(lambda: len(hub.told("end")) == before + len(sizes))
    time.sleep(0.3)
    assert hub.told("end")[before:] == ["aborted"] * len(sizes)
    assert not [uid for uid in hub.stored if uid.startswith("1.4.")]
    assert [uid for uid in hub.told("discarded") if uid.startswith("1.4.")] == ["1.4.2"]


def test_200_idle_associations_harm_nobody(hub: Receiver, shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom" / "ct-head-ge-tilt").glob("*.dcm"))
    with ExitStack() as stack:
        idle = [stack.enter_context(Requestor(hub.port)) for _ in range(200)]
        for number, one in enumerate(idle):
            one.establish(calling=f"IDLE{number}")
        started = time.monotonic()
        dcmtk.storescu(paths, hub.port)
        assert time.monotonic() - started < 10
        for one in idle:
            one.release()
    wanted = {hashlib.sha256(split_part10(path.read_bytes())[1]).hexdigest() for path in paths}
    eventually(lambda: wanted <= set(hub.stored.values()))


def test_100_connections_that_say_nothing_harm_nobody(hub: Receiver) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Requestor(hub.port))
        dcmtk.echoscu(hub.port)
    eventually(lambda: hub.threads < 50)


def test_others_are_unharmed_while_somebody_sends_garbage(hub: Receiver) -> None:
    ends, sent = threading.Event(), []

    def abuse(seed: int) -> None:
        choose = random.Random(seed)
        while not ends.is_set():
            with suppress(ConnectionError, TimeoutError), Requestor(hub.port) as it:
                if choose.random() < 0.7:
                    it.send(associate_request(calling="ABUSER"))
                it.send(choose.choice((b"\x04\0\0\0\0\x0a", b"", b"\x05")) + choose.randbytes(300))
                if choose.random() < 0.5:
                    closed_within(it, 0.2)

    def work() -> None:
        good = ENCAPSULATED_PDF
        with Requestor(hub.port) as it:
            it.establish(proposed(1, good, [EXPLICIT]))
            for number in range(200):
                uid = f"1.6.{number}"
                data = split_part10(dicom_file(uid, padding=50_000))[1]
                assert it.ask(store(uid, data, sop_class=good)).status == 0
                sent.append((uid, hashlib.sha256(data).hexdigest()))
            it.release()

    with ThreadPoolExecutor(4) as pool:
        abusers = [pool.submit(abuse, seed) for seed in range(3)]
        try:
            pool.submit(work).result(60)
        finally:
            ends.set()
        for one in abusers:
            one.result(30)
    eventually(lambda: all(hub.stored.get(uid) == digest for uid, digest in sent))
    assert len(sent) == 200


# --- limits and callers ----------------------------------------------------------------------


@contextmanager
def listening(intake: RecordingIntake | None = None, **settings: Any) -> Iterator[int]:
    """A source in this process."""
    port = free_port()
    config = DicomSourceConfig(port=port, stop_grace=0.1, services=(), **settings)
    source = DicomSource(config, (intake or RecordingIntake()).context())
    source.start()
    try:
        yield port
    finally:
        source.stop()


@contextmanager
def rejected(port: int, expected: tuple[int, int, int], **fields: object) -> Iterator[None]:
    with Requestor(port) as it:
        answer = it.ask(associate_request(**fields))  # type: ignore[arg-type]
        assert answer.rejection == expected
        assert not closed_within(it, 0.1)  # it is the peer who closes (PS3.8 9.2.3, Sta13)
        yield


def reject(port: int, expected: tuple[int, int, int], **fields: object) -> None:
    with rejected(port, expected, **fields):
        return


def test_each_rejection_has_its_own_reason() -> None:
    with listening(
        allowed_calling_ae_titles=["FRIEND"], require_called_ae_title=True, ae_title="HUB"
    ) as port:
        reject(port, (1, 1, 3), calling="STRANGER", called="HUB")
        reject(port, (1, 1, 7), calling="FRIEND", called="OTHER")
        reject(port, (1, 1, 2), calling="FRIEND", called="HUB", application_context="1.2.3")
        reject(port, (1, 2, 2), calling="FRIEND", called="HUB", version=2)
        with Requestor(port) as it:
            it.establish(calling="FRIEND", called="HUB")
            it.release()


def test_callers_from_elsewhere_and_callers_that_nobody_named_are_rejected() -> None:
    with listening(allowed_addresses=["192.0.2.0/24"]) as port:
        reject(port, (1, 1, 3))
    with (
        listening(allowed_addresses=["192.0.2.0/24", "127.0.0.0/8"]) as port,
        Requestor(port) as it,
    ):
        it.establish()
    with listening(unknown_callers="reject") as port:
        reject(port, (1, 1, 3))
    with listening(host="0.0.0.0") as port:
        reject(port, (1, 1, 3))
    with listening(host="::", allowed_addresses=["127.0.0.1"]) as port, Requestor(port) as it:
        it.establish()


def test_limits_of_associations_in_all_and_per_caller_are_transient_rejections() -> None:
    limit = (2, 3, 2)
    limits = {"maximum_associations": 3, "maximum_associations_per_caller": 2}
    with (
        listening(allowed_calling_ae_titles=["A", "B", "C"], **limits) as port,
        Requestor(port) as first,
        Requestor(port) as second,
        Requestor(port) as third,
    ):
        first.establish(calling="A")
        second.establish(calling="A")
        reject(port, limit, calling="A")
        third.establish(calling="B")
        reject(port, limit, calling="C")
        first.release()
        with Requestor(port) as again:
            again.establish(calling="A")


def test_titles_that_nobody_listed_are_one_caller_at_each_address() -> None:
    with (
        listening(maximum_associations_per_caller=2) as port,
        Requestor(port) as first,
        Requestor(port) as second,
    ):
        first.establish(calling="A")
        second.establish(calling="B")
        reject(port, (2, 3, 2), calling="C")
        first.release()
        with Requestor(port) as again:
            again.establish(calling="C")


def test_one_silent_address_does_not_take_the_places_of_all() -> None:
    with listening() as port, ExitStack() as stack:
        talking = stack.enter_context(Requestor(port))
        talking.establish()
        silent = [stack.enter_context(Requestor(port)) for _ in range(17)]
        assert closed_within(silent[-1], 2)
        assert not closed_within(silent[-2], 0.1)
        silent[0].establish()
        with Requestor(port) as again:
            assert not closed_within(again, 0.1)


def test_who_asks_too_late_or_falls_silent_is_sent_away() -> None:
    intake = RecordingIntake()
    with listening(intake, request_timeout=0.5, idle_timeout=0.7) as port:
        with Requestor(port) as drip:
            for byte in associate_request()[:14]:
                with suppress(ConnectionError):
                    drip.send(bytes([byte]))
                time.sleep(0.1)
            assert closed_within(drip, 0.2)  # ARTIM goes on, whatever comes
        with Requestor(port) as silent:
            silent.establish()
            uid = "1.7.1"
            assert silent.ask(store(uid, data_set(uid))).status == 0
            answer = silent.receive()
            assert answer is not None
            assert answer.abort == (0, 0)
            assert closed_within(silent, 2)
    assert intake.ends == [EndOfTransfer.ABORTED]
    assert [item.sop_instance_uid for item in intake.stored] == [uid]
