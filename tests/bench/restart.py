"""How long after kill -9 a receiver takes associations again, beside its peers.

``python -m tests.bench restart``: the hub's receiver is killed under its own supervisor; the
peers, which have none, are started again by the benchmark in the same moment. Then the whole hub
is killed and started again, until it receives, indexes, works and answers over HTTP. The clock
runs from the kill to the response to a C-ECHO. Modules are compiled already, as those of an
installation are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from hub.store import workers
from hub.store.schema import instances
from hub.supervisor.processes import process_is_alive
from tests.bench.intake import PACKAGES
from tests.bench.intake_corpus import Corpus, ct, token_of
from tests.bench.intake_receivers import OrthancReceiver, Program, pynetdicom, storescp
from tests.bench.intake_sender import Association, messages, send
from tests.bench.results import FOLDER, facts, write
from tests.peers import find_tool
from tests.running_hub import RunningHub, launch_hub

Peer = Program | OrthancReceiver
PEERS: Mapping[str, Callable[[Path], Peer]] = {
    "storescp": partial(storescp, "storescp"),
    "storescp-fork": partial(storescp, "storescp-fork"),
    "orthanc": OrthancReceiver,
    "pynetdicom": pynetdicom,
}
AIMS = {"receiver": 0.3, "whole_hub": 2.0}
"""Seconds, at most."""
PATIENCE = 60.0
_PDU_LENGTH = 16384

Seconds = dict[str, list[float]]


def until(reached: Callable[[], bool], begin: float) -> float:
    """Seconds from a moment (``time.monotonic``) until something is so."""
    while not reached():
        assert time.monotonic() < begin + PATIENCE, "it did not come back"
        time.sleep(0.002)
    return time.monotonic() - begin


def echoes(port: int, corpus: Corpus) -> bool:
    """Whether an association is accepted and a C-ECHO answered."""
    with suppress(OSError):
        association = Association(port, corpus.sop_class_uid, corpus.transfer_syntax_uid)
        association.echo()
        association.release()
        return True
    return False


def peer_back(receiver: Peer, corpus: Corpus) -> float:
    """Kill a peer and start it again, with what it holds."""
    begin = time.monotonic()
    receiver.kill_and_start()
    return until(partial(echoes, receiver.dicom_port, corpus), begin)


def receiver_back(hub: RunningHub, corpus: Corpus) -> float:
    """Kill the receiver; its supervisor starts it again."""
    begin = time.monotonic()
    hub.kill("receiver")
    return until(partial(echoes, hub.dicom_port, corpus), begin)


def hub_back(hub: RunningHub, corpus: Corpus, token: bytes) -> dict[str, float]:
    """Kill all of it and start it again; when it receives, has indexed an image, is all ready."""
    message = messages(corpus, _PDU_LENGTH)[0]
    message.renew(token)
    held = _indexed(hub)
    begin = time.monotonic()
    hub.kill()
    hub.start(wait=False)
    receives = until(partial(echoes, hub.dicom_port, corpus), begin)
    send(hub.dicom_port, corpus, [message])
    indexes = until(lambda: _indexed(hub) > held, begin)
    ready = until(lambda: hub.is_ready() and _all_well(hub), begin)
    return {"receives": receives, "indexes": indexes, "whole_hub": max(ready, indexes)}


def run(rounds: int, folder: Path, console: Console) -> dict[str, Any]:
    """Measure in turn; the first round counts in no median."""
    corpus, found = ct("small", 1, 64), Seconds()
    hub = launch_hub(_made(folder / "hub"), sections={"log": {"level": "warning"}})
    peers = {name: make(folder / name) for name, make in PEERS.items()}
    try:
        for peer in peers.values():
            peer.start()
        for number in range(rounds + 1):
            one = {"receiver": receiver_back(hub, corpus)}
            one |= {name: peer_back(peer, corpus) for name, peer in peers.items()}
            one |= hub_back(hub, corpus, token_of(number, 0))
            if number:
                for name, seconds in one.items():
                    found.setdefault(name, []).append(seconds)
            console.print(", ".join(f"{name} {seconds:.3f}" for name, seconds in one.items()))
    finally:
        hub.close()
        for peer in peers.values():
            peer.stop()
    medians = {name: median(seconds) for name, seconds in found.items()}
    return {
        "ratios": {f"receiver_over_{name}": medians["receiver"] / medians[name] for name in PEERS},
        "seconds": medians,
        "longest": {name: max(seconds) for name, seconds in found.items()},
        "aims": AIMS,
        "rounds": rounds,
        "raw": found,
        **facts(
            *PACKAGES,
            dcmtk=[find_tool("storescp", "dcmtk"), "--version"],
            orthanc=[find_tool("Orthanc", "orthanc", Path("/usr/sbin")), "--version"],
        ),
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """Medians and the longest."""
    table = Table(title=f"seconds from kill -9 to a C-ECHO response, {result['rounds']} rounds")
    for column in ("what", "median", "longest", "aim"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, seconds in result["seconds"].items():
        aim = result["aims"].get(name)
        longest = result["longest"][name]
        table.add_row(name, f"{seconds:.3f}", f"{longest:.3f}", "" if aim is None else f"{aim}")
    console.print(table)


def _indexed(hub: RunningHub) -> int:
    with hub.database.read() as connection:
        query = sa.select(sa.func.count()).select_from(instances)
        return int(connection.execute(query).scalar_one())


def _all_well(hub: RunningHub) -> bool:
    """Every role has begun since the kill, and the hub says that it is ready."""
    with hub.database.read() as connection:
        for role in ("receiver", "indexer", "worker"):
            present = workers.present(connection, role)
            if not any(process_is_alive(process) for process, _ in present):
                return False
    return bool(hub.get("/health/ready").json()["status"] == "ready")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(arguments: Sequence[str]) -> int:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (at least 5)")
    options = parser.parse_args(arguments)
    if options.rounds < 5:
        parser.error("a median of fewer than 5 rounds says little")
    console = Console()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="restart-", dir=FOLDER) as folder:
        result = run(options.rounds, Path(folder).absolute(), console)
    show(result, console)
    console.print(f"kept in {write('restart', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
