"""Hostile and broken senders at the hub's own receiver, with its store and its indexer behind it:
it stays within its memory, harms nobody else, and nothing of what broke off is left."""

from __future__ import annotations

import hashlib
import random
import re
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.integration.test_dicom_abuse import data_set, ui
from tests.peers.requestor import (
    CT,
    Requestor,
    associate_request,
    closed_within,
    p_data,
    pdv,
    store,
    store_command,
)
from tests.running_hub import POOL_BYTES, RunningHub, StartHub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(200)]

CAP = 512 << 20
"""Bytes that the receiver may ever have resident."""
MIB = 1 << 20
LARGE = 300 * MIB
"""Bytes of pixel data in one object: far beyond what is held in memory."""
HELD = 7 * MIB
"""Bytes of an object that is still held in memory, as a sender leaves it lying."""
_READY = re.compile(r"free/(\.maker|[0-9]+-[0-9a-f]{32})")
IDLE, HOLDING, STORING, BREAKING = 200, 90, 4, 4
ONE_MIB = 2 * random.Random(7).randbytes(MIB // 2)
ONE_MIB_PDU = 2 * p_data(pdv(ONE_MIB[: MIB // 2], is_command=False, last=False))
LAST_PDU = p_data(pdv(ONE_MIB[: MIB // 2], is_command=False))


@pytest.fixture
def hub(start_hub: StartHub) -> Iterator[RunningHub]:
    limits = {"maximum_associations": 400, "maximum_associations_per_caller": 400}
    running = start_hub(supervised=False, roles=("receiver", "indexer"), source=limits)
    yield running
    print(f"at most {peak_memory(running) / MIB:.0f} MiB resident")
    assert peak_memory(running) < CAP, f"{peak_memory(running) / MIB:.0f} MiB"


def peak_memory(hub: RunningHub) -> int:
    """The most that the receiver ever had resident, in bytes."""
    status = Path(f"/proc/{hub.pid('receiver')}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def head_of(uid: str, study: str) -> bytes:
    """A data set as far as its pixel data, which are LARGE."""
    head = ui(0x00080016, CT) + ui(0x00080018, uid) + ui(0x0020000D, study)
    pixels = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", LARGE)
    return head + ui(0x0020000E, f"{study}.1") + pixels


def begin(it: Requestor, uid: str, study: str) -> None:
    it.send(p_data(pdv(store_command(uid), is_command=True)))
    it.send(p_data(pdv(head_of(uid, study), is_command=False, last=False)))


def store_large(hub: RunningHub, uid: str, study: str) -> str:
    """SHA-256 of an object that was acknowledged."""
    digest = hashlib.sha256(head_of(uid, study))
    with Requestor(hub.dicom_port) as it:
        it.establish(calling="LARGE")
        begin(it, uid, study)
        for _ in range(LARGE // MIB - 1):
            it.send(ONE_MIB_PDU)
            digest.update(ONE_MIB)
        digest.update(ONE_MIB)
        it.send(ONE_MIB_PDU[: len(ONE_MIB_PDU) // 2])
        assert it.ask(LAST_PDU).status == 0
        it.release()
    return digest.hexdigest()


def break_off(hub: RunningHub, uid: str, study: str, length: int, *, whole: bool = True) -> None:
    """Close the connection in the middle of an object, or of a PDU of it."""
    with Requestor(hub.dicom_port) as it:
        it.establish(calling="BREAKER")
        begin(it, uid, study)
        for _ in range(length // MIB):
            it.send(ONE_MIB_PDU)
        if not whole:
            it.send(ONE_MIB_PDU[: MIB // 3])


def garbage(hub: RunningHub, ends: threading.Event) -> None:
    choose = random.Random(11)
    while not ends.wait(0.02):
        with suppress(ConnectionError, TimeoutError), Requestor(hub.dicom_port) as it:
            if choose.random() < 0.7:
                it.send(associate_request(calling="ABUSER"))
            it.send(choose.choice((b"\x04\0\0\0\0\x0a", b"", b"\x05")) + choose.randbytes(300))
            closed_within(it, 0.1)


def files_of(hub: RunningHub) -> dict[str, int]:
    """Files below objects/free and objects/used -> bytes that they take on the disk."""
    objects = hub.data / "objects"
    return {
        str(path.relative_to(objects)): path.stat().st_blocks * 512
        for folder in ("free", "used")
        for path in (objects / folder).rglob("*")
        if path.is_file()
    }


def indexed(hub: RunningHub) -> dict[str, str]:
    rows = hub.rows("SELECT sop_instance_uid, sha256 FROM instances")
    return {row["sop_instance_uid"]: row["sha256"] for row in rows}


def transfers_open(hub: RunningHub) -> int:
    (row,) = hub.rows("SELECT COUNT(*) AS n FROM associations WHERE closed_at IS NULL")
    return int(row["n"])


def test_all_abuse_at_once_harms_nobody_and_leaves_nothing(
    hub: RunningHub, shared_data: Path
) -> None:
    study = sorted((shared_data / "dicom" / "ct-head-ge-tilt").glob("*.dcm"))
    ends, acknowledged = threading.Event(), {}
    with ThreadPoolExecutor(STORING + BREAKING + 1) as pool, ExitStack() as stack:
        stack.callback(ends.set)
        for number in range(IDLE):
            stack.enter_context(Requestor(hub.dicom_port)).establish(calling=f"IDLE{number}")
        for number in range(HOLDING):
            holding = stack.enter_context(Requestor(hub.dicom_port))
            holding.establish(calling=f"HOLDING{number}")
            begin(holding, f"1.7.{number}", "1.2.7")
            for _ in range(HELD // MIB):
                holding.send(ONE_MIB_PDU)
        wait_for(lambda: any("outsize" in name for name in files_of(hub)), "large objects", 30)
        pool.submit(garbage, hub, ends)
        large = {
            f"1.8.{n}": pool.submit(store_large, hub, f"1.8.{n}", f"1.2.8.{n}")
            for n in range(STORING)
        }
        broken = [
            pool.submit(break_off, hub, f"1.9.{n}", "1.2.9", n * 60 * MIB, whole=n % 2 == 0)
            for n in range(BREAKING)
        ]
        hub.send(study, aet="OTHERS")
        for done in broken:
            done.result(120)
        acknowledged = {uid: done.result(120) for uid, done in large.items()}
    uid = "1.2.10"
    with Requestor(hub.dicom_port) as it:
        it.establish(calling="AFTER")
        assert it.ask(store(uid, data_set(uid))).status == 0
        it.release()
    acknowledged[uid] = hashlib.sha256(data_set(uid)).hexdigest()
    wait_for(
        lambda: len(indexed(hub)) == len(acknowledged) + len(study) and not transfers_open(hub),
        "what was acknowledged to be indexed, and every transfer to end",
        explain=hub.log_text,
    )
    assert acknowledged.items() <= indexed(hub).items()
    assert len(acknowledged) == STORING + 1
    must_hold_nothing_else(hub, STORING)


def must_hold_nothing_else(hub: RunningHub, large: int) -> None:
    """Every file is a segment that the index knows, or an extent ready for use; and the disk
    space is that of what was acknowledged."""
    known = {row["segment"] for row in hub.rows("SELECT segment FROM segments")}

    def strange() -> list[str]:
        return [
            name
            for name in files_of(hub)
            if not (name.startswith("used/") and Path(name).name in known)
            and not _READY.fullmatch(name)
        ]

    def taken() -> int:
        return sum(files_of(hub).values())

    others = 2 * POOL_BYTES + 64 * MIB  # the pool, and an extent of each small transfer
    wait_for(lambda: not strange(), "leftovers to go", 10, lambda: str(strange()))
    wait_for(lambda: taken() < large * LARGE + others, "disk space", 10, lambda: str(files_of(hub)))
    assert taken() >= large * LARGE
