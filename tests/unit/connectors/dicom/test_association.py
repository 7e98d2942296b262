"""The acceptor's side of an association, byte by byte and without sockets."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.dicom.association import (
    Aborted,
    Association,
    Chunk,
    Message,
    ReleaseRequested,
    Requested,
)
from connectors.dicom.data_buffer import SMALLEST, DataBuffer, MemoryBudget
from connectors.dicom.negotiation import negotiate
from connectors.dicom.upper_layer import State
from tests.fuzz.upper_layer import fuzz, pdus
from tests.peers import requestor
from tests.peers.requestor import (
    CT,
    associate_request,
    command,
    echo_command,
    element,
    p_data,
    pdv,
    short,
    store,
    store_command,
)

MAXIMUM = 1 << 20


@dataclass
class Session:
    """An association with everything that it indicated; data are copied."""

    limit: int = 8 << 20
    budget: int = 64 << 20
    objects: list[tuple[str, bytes]] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.data = DataBuffer(self.limit, MemoryBudget(self.budget))
        self.association = Association(MAXIMUM, self.data)
        self._parts = bytearray()

    def feed(self, stream: bytes, sizes: random.Random | None = None) -> Session:
        position = 0
        while position < len(stream) and not self.association.closed:
            view = self.association.get_buffer()
            assert len(view)
            count = min(len(view), len(stream) - position)
            if sizes is not None:
                count = sizes.randint(1, min(count, sizes.choice((1, 7, 100, 70_000))))
            view[:count] = stream[position : position + count]
            position += count
            self._act(self.association.buffer_updated(count))
            self.sent += self.association.take_outgoing()
        return self

    def _act(self, indication: object) -> None:
        if isinstance(indication, Requested):
            accept, _ = negotiate(indication.request, {CT: [requestor.EXPLICIT]}, MAXIMUM)
            self.association.accept(accept, indication.request.maximum_length)
        elif isinstance(indication, Chunk):
            self.chunks.append(len(indication.data))
            self._parts += indication.data
        elif isinstance(indication, Message):
            uid = indication.command.sop_instance_uid
            self.objects.append((uid, bytes(self._parts) + bytes(indication.data)))
            self._parts.clear()
        elif isinstance(indication, ReleaseRequested):
            self.association.release()
        elif isinstance(indication, Aborted):
            self.aborts.append(indication.detail)

    @property
    def last_abort(self) -> tuple[int, int]:
        """Source and reason of the A-ABORT that was sent last."""
        assert self.sent[-10] == 7, "no A-ABORT was sent"
        return self.sent[-2], self.sent[-1]


def opened(**settings: int) -> Session:
    session = Session(**settings)
    session.feed(associate_request())
    assert session.association.state is State.STA6
    return session


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.integers(0, 200_000), min_size=1, max_size=4),
    fragment=st.sampled_from([1, 13, 1000, 16_378, 131_066, MAXIMUM - 6]),
    seed=st.integers(0, 1 << 16),
    limit=st.sampled_from([SMALLEST, 8 << 20]),
)
def test_whatever_the_fragments_the_bytes_arrive_in_order_and_whole(
    data: list[int], fragment: int, seed: int, limit: int
) -> None:
    choose = random.Random(seed)
    sets = [choose.randbytes(size if fragment > 1 else size % 300) for size in data]
    stream = b"".join(
        store(f"1.2.{number}", data_set, fragment=fragment) for number, data_set in enumerate(sets)
    )
    session = opened(limit=limit)
    session.feed(stream + requestor.RELEASE_RQ, choose)
    assert session.objects == [(f"1.2.{n}", data_set) for n, data_set in enumerate(sets)]
    assert session.association.state is State.STA13
    assert not session.aborts


def test_command_and_data_in_one_pdu_and_empty_fragments_are_read() -> None:
    session = opened()
    named = store_command("1.2.3")
    session.feed(
        p_data(
            pdv(named[:10], is_command=True, last=False),
            pdv(b"", is_command=True, last=False),
            pdv(named[10:], is_command=True),
            pdv(b"ab", is_command=False, last=False),
            pdv(b"cd", is_command=False, last=False),
        )
    )
    session.feed(p_data(pdv(b"", is_command=False)))
    assert session.objects == [("1.2.3", b"abcd")]


def test_what_does_not_fit_into_memory_is_given_in_chunks() -> None:
    session = opened(limit=1 << 20)
    data_set = random.Random(1).randbytes(3_500_000)
    session.feed(store("1.2.3", data_set, fragment=MAXIMUM - 6))
    session.feed(store("1.2.4", b"next"))
    assert session.objects == [("1.2.3", data_set), ("1.2.4", b"next")]
    assert session.chunks == [1 << 20] * 3


def test_without_budget_the_chunks_are_small_and_nothing_is_lost() -> None:
    session = opened(limit=8 << 20, budget=0)
    data_set = random.Random(2).randbytes(1_000_000)
    session.feed(store("1.2.3", data_set, fragment=300_000))
    assert session.objects == [("1.2.3", data_set)]
    assert max(session.chunks) <= SMALLEST


def test_a_huge_announced_length_takes_no_memory() -> None:
    session = opened()
    session.feed(p_data(pdv(store_command("1.2.3"), is_command=True)))
    session.feed(struct.pack(">BxIIBB", 4, 0xFFFFFFFF, 0xFFFFFFFB, 1, 0))
    assert session.last_abort == (2, 6)
    assert len(session.data.space(1 << 30)) == 0


MANY = (range(0x2000, 0x2040), [b""] * 64)
WRONG = {
    "a PDU of no known type": (b"\x09\0\0\0\0\x04abcd", (2, 1)),
    "a P-DATA-TF that is too long": (
        p_data(pdv(store_command("1.2"), is_command=True))
        + struct.pack(">BxIIBB", 4, MAXIMUM + 1, MAXIMUM - 3, 1, 0),
        (2, 6),
    ),
    "an empty P-DATA-TF": (struct.pack(">BxI", 4, 0), (2, 6)),
    "a PDV that is longer than its PDU": (
        struct.pack(">BxIIBB", 4, 10, 10, 1, 3) + bytes(8),
        (2, 6),
    ),
    "a PDV without its head": (struct.pack(">BxIIBB", 4, 6, 1, 1, 3), (2, 6)),
    "a rest that is no PDV": (struct.pack(">BxIIBB", 4, 9, 2, 1, 1) + bytes(3), (2, 6)),
    "a context that was not accepted": (
        p_data(pdv(store_command("1.2"), is_command=True, context_id=3)),
        (2, 6),
    ),
    "data before a command": (p_data(pdv(b"data", is_command=False)), (2, 6)),
    "a command where data is due": (
        p_data(pdv(store_command("1.2"), is_command=True)) * 2,
        (2, 6),
    ),
    "a command that never ends": (
        p_data(pdv(bytes(60_000), is_command=True, last=False)) * 3,
        (2, 6),
    ),
    "a second A-ASSOCIATE-RQ": (associate_request(), (2, 2)),
    "an A-ASSOCIATE-AC": (struct.pack(">BxI", 2, 68) + bytes(68), (2, 2)),
    "an A-ASSOCIATE-RJ": (struct.pack(">BxI", 3, 4) + bytes(4), (2, 2)),
    "an A-RELEASE-RP": (struct.pack(">BxI", 6, 4) + bytes(4), (2, 2)),
    "a release amid a message": (
        p_data(pdv(store_command("1.2"), is_command=True)) + requestor.RELEASE_RQ,
        (2, 2),
    ),
    "a release of another length": (struct.pack(">BxI", 5, 5) + bytes(5), (2, 6)),
    "no command set": (p_data(pdv(b"", is_command=True)), (0, 0)),
    "a command set that breaks off": (p_data(pdv(echo_command()[:-1], is_command=True)), (0, 0)),
    "an element twice": (
        p_data(pdv(echo_command() + element(0x100, short(0x30)), is_command=True)),
        (0, 0),
    ),
    "an element of group 0002": (
        p_data(pdv(echo_command() + element(0x10, b"1.2", group=2), is_command=True)),
        (0, 0),
    ),
    "more elements than there are": (
        p_data(pdv(echo_command() + b"".join(map(element, *MANY)), is_command=True)),
        (0, 0),
    ),
    "an element of 4 GiB": (
        p_data(
            pdv(echo_command() + struct.pack("<HHI", 0, 0x1000, 0xFFFFFFFE) + b"1", is_command=True)
        ),
        (0, 0),
    ),
    "a number of four bytes": (
        p_data(pdv(echo_command() + element(0x900, bytes(4)), is_command=True)),
        (0, 0),
    ),
    "a command without a message ID": (
        p_data(
            pdv(command(element(0x100, short(0x30)), element(0x800, short(0x101))), is_command=True)
        ),
        (0, 0),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_protocol_error_is_an_abort_with_its_reason(name: str) -> None:
    stream, reason = WRONG[name]
    session = opened()
    session.feed(stream + bytes(100))
    assert session.last_abort == reason
    assert len(session.aborts) == 1
    assert session.objects == []
    assert session.association.state is State.STA13


BROKEN_REQUESTS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000101"),
    "nothing but zeros": bytes(100),
    "a length of 4 GiB": struct.pack(">BxI", 1, 0xFFFFFFFF) + bytes(100),
    "a length of 2 MiB": struct.pack(">BxI", 1, 1 << 21) + bytes(100),
    "too short": struct.pack(">BxI", 1, 20) + bytes(20),
    "an item past the end": struct.pack(">BxI", 1, 72) + bytes(68) + b"\x10\0\xff\xff",
    "an even context ID": associate_request([requestor.proposed(2, CT, [requestor.EXPLICIT])]),
    "a context ID twice": associate_request([requestor.proposed(1, CT, ["1.2"])] * 2),
    "a role without its UID": associate_request(user=[requestor.item(0x54, b"\0\x40ab")]),
    "data": p_data(pdv(echo_command(), is_command=True)),
    "a release": requestor.RELEASE_RQ,
}


@pytest.mark.parametrize("name", BROKEN_REQUESTS)
def test_who_does_not_ask_for_an_association_is_sent_away(name: str) -> None:
    session = Session()
    session.feed(BROKEN_REQUESTS[name])
    assert session.sent[0] == 7
    assert session.association.state is State.STA13
    assert session.association.artim_runs
    session.association.artim_expired()
    assert session.association.closed


def test_an_abort_of_the_peer_ends_at_once_and_is_told() -> None:
    session = opened()
    session.feed(store("1.2.3", bytes(1000))[:500] + requestor.ABORT)
    assert session.objects == []
    session = opened()
    session.feed(requestor.ABORT)
    assert session.association.closed
    assert len(session.aborts) == 1


def test_every_message_is_cut_to_what_the_peer_takes() -> None:
    session = Session()
    session.feed(associate_request(maximum_length=64))
    session.association.send(1, bytes(100), bytes(130))
    lengths = [len(part) - 6 for part in pdus(session.association.take_outgoing())]
    assert max(lengths) <= 64
    assert sum(lengths) - 6 * len(lengths) == 230


def test_a_thousand_mutated_associations_break_no_promise() -> None:
    done = fuzz(seconds=8, runs=1000, seed=20261122)
    assert done.runs >= 200
    assert done.established > done.runs // 4
    assert done.messages > 0


def test_after_an_abort_of_ours_the_rest_of_a_message_is_none() -> None:
    session = opened()
    message = store("1.2.3", bytes(1000))
    session.feed(message[:500])
    session.association.abort()
    session.feed(message[500:] + store("1.2.4", b"next"))
    assert session.association.state is State.STA13
    assert session.objects == []
