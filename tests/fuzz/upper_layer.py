"""Mutated associations against the acceptor's state machine, without sockets.

    python -m tests.fuzz.upper_layer --seconds 600 [--seed N] [--captures FOLDER]

Starts from associations as peers really speak them (``--captures``: files with the bytes that a
requestor sent) and from built ones; changes bytes, cuts, repeats and joins pieces, and feeds the
result in pieces of any size. After each run the promises of `Promises` must hold.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import structlog

from connectors.dicom.connection import Connection, Timeouts
from connectors.dicom.data_buffer import DataBuffer, MemoryBudget
from connectors.dicom.limits import AssociationLimits
from connectors.dicom.negotiation import CallerPolicy
from connectors.dicom.performer import AssociationPerformer, Offer
from connectors.dicom.storage_classes import (
    DEFAULT_TRANSFER_SYNTAXES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from connectors.dicom.transport import ConnectionBrokenError
from hub.ports import EndOfTransfer
from tests.contracts.recording import RecordingIntake
from tests.peers import requestor

BUDGET = 4 << 20


class Replay:
    """connectors.dicom.transport.Transport: a peer that says these bytes in pieces, then ends."""

    def __init__(self, said: bytes, choose: random.Random) -> None:
        self._said = memoryview(said)
        self._choose = choose
        self.answered = bytearray()
        self.closed = False

    def receive_into(self, view: memoryview, *, fill: bool) -> int:
        assert len(view), "no room to receive into"
        if not self._said:
            if self._choose.random() < 0.1:
                raise TimeoutError
            if self._choose.random() < 0.1:
                raise ConnectionBrokenError("reset")
            return 0
        most = min(len(view), len(self._said))
        count = most if self._choose.random() < 0.7 else self._choose.randint(1, most)
        view[:count] = self._said[:count]
        self._said = self._said[count:]
        return count

    def send(self, data: bytes) -> None:
        self.answered += data
        assert len(self.answered) < 1 << 22, "answers without end"

    def set_timeout(self, seconds: float) -> None:
        assert seconds > 0

    def wake(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        self.closed = True


def offer(intake: RecordingIntake) -> Offer:
    contexts: dict[str, Sequence[str]] = dict.fromkeys(STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES)
    contexts[VERIFICATION] = DEFAULT_TRANSFER_SYNTAXES
    return Offer(
        source="fuzz",
        callers=CallerPolicy("", frozenset(), (ip_network("127.0.0.0/8"),), rejects_unknown=True),
        limits=AssociationLimits(2, 1),
        contexts=contexts,
        storage=frozenset(STORAGE_SOP_CLASSES),
        maximum_length=1 << 20,
        maximum_instance_size=1 << 22,
        intake=intake,
        services=None,
    )


@dataclass
class Promises:
    """What holds whatever a peer sends."""

    choose: random.Random
    runs: int = 0
    messages: int = 0
    established: int = 0
    ends: dict[EndOfTransfer, int] = field(default_factory=dict)

    def check(self, said: bytes) -> bytes:
        """Let a peer say this; raises AssertionError where a promise is broken."""
        intake = RecordingIntake()
        budget = MemoryBudget(BUDGET)
        limits = self.choose.choice((64 << 10, 1 << 20))
        offered, transport = offer(intake), Replay(said, self.choose)
        connection = Connection(
            transport,
            "127.0.0.1",
            maximum_length=offered.maximum_length,
            data=DataBuffer(limits, budget),
            timeouts=Timeouts(artim=0.01, idle=0.01),
            performer=lambda send: AssociationPerformer(offered, "127.0.0.1", send),
        )
        connection.run()
        assert transport.closed
        assert offered.limits.taken == 0, "an association is still counted"
        assert budget.take(BUDGET), "memory was not given back"
        for reception in intake.receptions:
            assert len(reception.ends) == 1, "a reception was not closed exactly once"
        assert all(spool.state != "open" for spool in intake.spools), "a spool was left open"
        assert len(intake.receptions) <= 1
        answered = bytes(transport.answered)
        assert answered[:1] in (b"", b"\x02", b"\x03", b"\x07"), "no answer that the standard knows"
        self.runs += 1
        self.messages += len(intake.stored)
        self.established += answered[:1] == b"\x02"
        for end in intake.ends:
            self.ends[end] = self.ends.get(end, 0) + 1
        return answered


def built() -> list[list[bytes]]:
    """Associations as lists of PDUs."""
    rq, release, abort = requestor.associate_request(), requestor.RELEASE_RQ, requestor.ABORT
    data = bytes(range(256)) * 3
    both = requestor.p_data(
        requestor.pdv(requestor.store_command("1.2.6"), is_command=True),
        requestor.pdv(data, is_command=False),
    )
    several = requestor.p_data(
        requestor.pdv(requestor.store_command("1.2.7"), is_command=True)
    ) + requestor.p_data(
        *(requestor.pdv(data, is_command=False, last=number == 4) for number in range(5))
    )
    echo = requestor.p_data(requestor.pdv(requestor.echo_command(), is_command=True))
    large = requestor.store("1.2.8", bytes(300_000), fragment=70_000)
    store = requestor.store("1.2.5", data, fragment=100)
    return [
        [rq, store, release],
        [rq, store, store, abort],
        [rq, both, several, echo, release],
        [rq, large, store, release],
        [rq, echo, echo],
    ]


def pdus(stream: bytes) -> list[bytes]:
    """A captured stream, cut into its PDUs."""
    parts = []
    while stream:
        length = 6 + int.from_bytes(stream[2:6], "big")
        parts.append(stream[:length])
        stream = stream[length:]
    return parts


_TELLING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def mutated(parts: Sequence[bytes], choose: random.Random) -> bytes:
    """Something like these PDUs, but wrong."""
    parts = list(parts)
    for _ in range(choose.choice((0, 0, 1, 1, 2, 5))):
        place = choose.randrange(len(parts))
        match choose.randrange(5):
            case 0:
                parts.insert(place, choose.choice(parts))
            case 1 if len(parts) > 1:
                del parts[place]
            case 2:
                parts[place] = parts[place][: choose.randrange(len(parts[place]) + 1)]
            case 3:
                other = choose.randrange(len(parts))
                parts[place], parts[other] = parts[other], parts[place]
            case _:
                parts[place] += choose.randbytes(choose.randrange(20))
    said = bytearray(b"".join(parts))
    for _ in range(choose.choice((0, 1, 1, 2, 8, 64))):
        if said:
            # Heads, where lengths and kinds stand, are worth more than pixels.
            near = choose.random() < 0.7
            place = choose.randrange(min(len(said), 600)) if near else choose.randrange(len(said))
            width = choose.choice((1, 1, 1, 4))
            value = bytes(choose.choice(_TELLING) for _ in range(width))
            if choose.random() < 0.5:
                value = choose.randbytes(width)
            said[place : place + width] = value
    return bytes(said)


def fuzz(seconds: float, runs: int, seed: int, captures: Sequence[bytes] = ()) -> Promises:
    """Until the time or the runs are used up; a broken promise names its run."""
    corpus = [*built(), *(pdus(capture) for capture in captures)]
    promises = Promises(random.Random(seed))
    deadline = time.monotonic() + seconds
    while promises.runs < runs and time.monotonic() < deadline:
        choose = promises.choose = random.Random(f"{seed}-{promises.runs}")
        said = mutated(choose.choice(corpus), choose)
        try:
            promises.check(said)
        except Exception as error:
            raise AssertionError(f"seed {seed}, run {promises.runs}") from error
    return promises


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--captures", type=Path)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    files = sorted(arguments.captures.iterdir()) if arguments.captures else []
    done = fuzz(arguments.seconds, sys.maxsize, seed, [path.read_bytes() for path in files])
    print(
        f"seed {seed}: {done.runs} associations, {done.established} established, "
        f"{done.messages} objects stored, ends { ({k.value: v for k, v in done.ends.items()}) }"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
