"""How fast objects are received: the hub, DCMTK's storescp, Orthanc and pynetdicom, in turn.

``python -m tests.bench.intake``: every round, each receiver is started with an empty folder, is
warmed up and gets the same images (with UIDs of their own) over 1, 4 and 8 associations; the
clock runs from the first A-ASSOCIATE-RQ to the last response. The hub acknowledges what is
durable; its CPU time counts until everything is in the index. Its extents were prepared
beforehand: in a hub that runs they are recycled in quiet times.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console

from tests.bench import intake_sender, intake_stow
from tests.bench.intake_corpus import (
    TOKEN,
    Corpus,
    compressed,
    ct,
    sop_instance_uid,
    token_of,
)
from tests.bench.intake_hub import HubReceiver
from tests.bench.intake_load import at_once, shares
from tests.bench.intake_receivers import (
    STORESCP,
    OrthancReceiver,
    Receiver,
    cpu_seconds,
    null,
    pdu_length,
    pynetdicom,
    storescp,
)
from tests.bench.intake_report import AIMS, ratios_of, show, summary
from tests.bench.results import FOLDER, facts, write
from tests.peers import find_tool

PACKAGES = ("caidx-hub", "pynetdicom", "pydicom", "sqlalchemy", "xxhash")
WARM_UP = 8
"""Objects before the clock: what is loaded at the first object is loaded."""
SAMPLE = 25
"""Every so many-th object of the hub is compared by its SHA-256."""
RECEIVERS: Mapping[str, Callable[[Path], Receiver]] = {
    "hub": HubReceiver,
    **{name: functools.partial(storescp, name) for name in STORESCP},
    "orthanc": OrthancReceiver,
    "pynetdicom": pynetdicom,
    "null": null,
}
CORPORA: Mapping[str, Callable[[], Corpus]] = {
    "ct": lambda: ct("ct", 500, 512),
    "small": lambda: ct("small", 1000, 128),
    "rle": lambda: compressed("rle", 100),
    "jpegls": lambda: compressed("jpegls", 100),
    "j2k": lambda: compressed("j2k", 100),
}
LEAST_ROUNDS = 5
MOST_ASSOCIATIONS_COMPRESSED = 4
"""A hundred objects are not enough for more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    receivers: Sequence[str]
    corpora: Sequence[str]
    associations: Sequence[int]
    rounds: int


@dataclass
class Bench:
    """The senders, and the bytes that they send."""

    corpus: Corpus
    associations: Sequence[int]
    runs: Iterator[int]
    _messages: dict[int, list[intake_sender.Message]] = field(default_factory=dict)
    _requests: dict[str, list[intake_stow.StowRequest]] = field(default_factory=dict)

    def measure(self, receiver: Receiver) -> dict[str, dict[str, float]]:
        """One round of a receiver: what was sent -> seconds, of the wall and of the CPU."""
        try:
            receiver.start()
            messages = self._messages_for(pdu_length(receiver, self.corpus))
            self._c_store(receiver, messages[:WARM_UP], 1)
            held, found = WARM_UP, {}
            for count in self.associations:
                send = functools.partial(self._c_store, receiver, messages, count)
                held += len(self.corpus.data_sets)
                found[str(count)] = self._measured(receiver, held, send)
            if receiver.http_port and self.corpus.name == "ct":
                requests = self._requests_for(receiver.stow_path)
                self._stow(receiver, requests[:1], 1)
                held += intake_stow.INSTANCES_PER_REQUEST
                for count in [n for n in self.associations if n <= MOST_ASSOCIATIONS_COMPRESSED]:
                    send = functools.partial(self._stow, receiver, requests, count)
                    held += len(self.corpus.data_sets)
                    found[f"stow_{count}"] = self._measured(receiver, held, send)
            return found
        finally:
            receiver.stop()

    def _measured(
        self, receiver: Receiver, held: int, send: Callable[[], tuple[float, list[bytes]]]
    ) -> dict[str, float]:
        os.sync()  # what another receiver left to the kernel is not written on our time
        processes = receiver.processes()
        before = cpu_seconds(processes)
        seconds, tokens = send()
        sent = perf_counter()
        receiver.finish(held, self._sample(tokens))
        behind = perf_counter() - sent
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds(processes) - before,
            "behind_seconds": behind,
        }

    def _c_store(
        self, receiver: Receiver, messages: Sequence[intake_sender.Message], count: int
    ) -> tuple[float, list[bytes]]:
        run, senders, tokens = next(self.runs), [], []
        for number, share in enumerate(shares(messages, count)):
            tokens.append(token_of(run, number))
            for message in share:
                message.renew(tokens[-1])
            senders.append(
                functools.partial(intake_sender.send, receiver.dicom_port, self.corpus, share)
            )
        return at_once(senders), tokens

    def _stow(
        self, receiver: Receiver, requests: Sequence[intake_stow.StowRequest], count: int
    ) -> tuple[float, list[bytes]]:
        run, senders = next(self.runs), []
        for number, share in enumerate(shares(requests, count)):
            for request in share:
                request.renew(token_of(run, number), receiver.key)
            senders.append(functools.partial(intake_stow.send, receiver.http_port, share))
        return at_once(senders), []

    def _sample(self, tokens: Sequence[bytes]) -> dict[str, str]:
        """SOP Instance UID -> SHA-256 of the data set as it was sent."""
        found = {}
        for index in range(0, len(self.corpus.data_sets) if tokens else 0, SAMPLE):
            token = tokens[index % len(tokens)]
            data_set = self.corpus.data_sets[index].replace(TOKEN, token)
            found[sop_instance_uid(token, index)] = hashlib.sha256(data_set).hexdigest()
        return found

    def _messages_for(self, length: int) -> list[intake_sender.Message]:
        if length not in self._messages:
            self._messages[length] = intake_sender.messages(self.corpus, length)
        return self._messages[length]

    def _requests_for(self, path: str) -> list[intake_stow.StowRequest]:
        if path not in self._requests:
            self._requests[path] = intake_stow.requests(self.corpus, path)
        return self._requests[path]


def run(plan: Plan, folder: Path, console: Console) -> dict[str, Any]:
    """Measure everything; the result as it is kept."""
    raw: dict[str, dict[str, list[dict[str, dict[str, float]]]]] = {}
    sizes, runs = {}, itertools.count()
    disk: list[float] = []
    for name in plan.corpora:
        corpus = CORPORA[name]()
        sizes[name] = {"instances": len(corpus.data_sets), "mean_bytes": corpus.mean_bytes}
        most = max(plan.associations) if name in ("ct", "small") else MOST_ASSOCIATIONS_COMPRESSED
        bench = Bench(corpus, [n for n in plan.associations if n <= most], runs)
        rounds: dict[str, list[dict[str, dict[str, float]]]] = {r: [] for r in plan.receivers}
        for number in range(plan.rounds + 1):
            turn = number % len(plan.receivers)
            for receiver in [*plan.receivers[turn:], *plan.receivers[:turn]]:
                place = folder / f"{name}-{number}-{receiver}"
                found = bench.measure(RECEIVERS[receiver](place))
                shutil.rmtree(place, ignore_errors=True)
                rounds[receiver].append(found)
                console.print(f"{name} round {number} {receiver}: {_line(found, sizes[name])}")
            if name == "ct":
                disk.append(overwrite_seconds(folder / "disk", round(corpus.mean_bytes)))
        raw[name] = {receiver: found[1:] for receiver, found in rounds.items()}
    medians = summary(raw, sizes)
    return {
        "ratios": ratios_of(medians),
        "aims": AIMS,
        "rounds": plan.rounds,
        "corpora": sizes,
        "medians": medians,
        "overwrite_and_fdatasync_seconds": disk[1:],
        "raw": raw,
        **facts(
            *PACKAGES,
            dcmtk=[find_tool("storescp", "dcmtk"), "--version"],
            orthanc=[find_tool("Orthanc", "orthanc", Path("/usr/sbin")), "--version"],
        ),
        "kernel": platform.release(),
    }


def overwrite_seconds(path: Path, size: int, count: int = 100) -> float:
    """What the disk takes to overwrite ``size`` bytes of a written file durably; the mean."""
    content = os.urandom(size)
    with path.open("wb") as file:
        file.write(bytes(size * count))
        file.flush()
        os.fdatasync(file.fileno())
        begin = perf_counter()
        for number in range(count):
            os.pwrite(file.fileno(), content, number * size)
            os.fdatasync(file.fileno())
        seconds = perf_counter() - begin
    path.unlink()
    return seconds / count


def _line(found: Mapping[str, Mapping[str, float]], size: Mapping[str, float]) -> str:
    rates = (f"{key}: {size['instances'] / one['seconds']:.0f}/s" for key, one in found.items())
    return ", ".join(rates)


def _plan(arguments: Sequence[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.intake", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (at least 5)")
    parser.add_argument("--quick", action="store_true", help="CT only, 2 rounds: a look, no result")
    for name, known in (("receivers", RECEIVERS), ("corpora", CORPORA)):
        parser.add_argument(f"--{name}", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--associations", default="1,4,8", help="how many at a time")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS and not options.quick:
        parser.error("a median of fewer than 5 rounds says little")
    plan = Plan(
        receivers=options.receivers.split(","),
        corpora=["ct"] if options.quick else options.corpora.split(","),
        associations=[int(count) for count in options.associations.split(",")],
        rounds=min(2, options.rounds) if options.quick else options.rounds,
    )
    for chosen, known in ((plan.receivers, RECEIVERS), (plan.corpora, CORPORA)):
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return plan


def main(arguments: Sequence[str]) -> int:
    """Run, print, keep; what is only a part of the benchmark is not kept as its result."""
    plan = _plan(arguments)
    console = Console()
    FOLDER.mkdir(parents=True, exist_ok=True)  # on the disk that a hub would use by default
    with tempfile.TemporaryDirectory(prefix="intake-", dir=FOLDER) as folder:
        result = run(plan, Path(folder).absolute(), console)
    show(result, console)
    if result["ratios"]:
        whole = set(AIMS) <= set(result["ratios"]) and plan.rounds >= LEAST_ROUNDS
        console.print(f"kept in {write('intake' if whole else 'intake-part', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
