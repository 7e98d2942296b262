"""The pool of extents: each belongs to one writer at a time, and is full of zeros before."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hub.errors import IntegrityError, TransientError
from hub.ports import EndOfTransfer
from hub.store.disk import Disk
from hub.store.segments.extent_files import ExtentFiles, is_all_zero
from hub.store.segments.extents import ExtentPool
from hub.store.segments.names import EXTENT_CLASSES, FREE, MEBIBYTE, free_name, parse_free, path_of
from hub.store.segments.objects import SegmentStore
from tests.received import SENDER, Receiving, received_object

SMALL, MEDIUM, LARGE, LARGEST = EXTENT_CLASSES
READY = 16 * MEBIBYTE
"""Of which two small extents and one medium one are kept ready."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def pool(root: Path) -> Iterator[ExtentPool]:
    pool = ExtentPool(root, READY, 0)
    yield pool
    pool.stop()


def free(root: Path) -> list[str]:
    """Sizes of the free extents in MiB, sorted; what is being made stands as it is called."""
    names = [path.name for path in (root / FREE).iterdir() if not path.name.startswith(".")]
    return sorted(name.partition("-")[0] if parse_free(name) else name for name in names)


def all_free_are_zero(root: Path) -> bool:
    return all(not any(path.read_bytes()) for path in (root / FREE).iterdir())


def claim(pool: ExtentPool, at_least: int = 1, after: int = 0) -> str:
    """Claim an extent and give it back as a writer that died; its name."""
    extent = pool.claim(at_least, after)
    os.close(extent.handle)
    return extent.segment


# --- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_least", "after", "size"),
    [
        (1, 0, SMALL),
        (SMALL, 0, SMALL),
        (SMALL + 1, 0, MEDIUM),
        (1, SMALL, MEDIUM),
        (1, MEDIUM, LARGE),
        (1, LARGE, LARGEST),
        (1, LARGEST, LARGEST),
        (LARGE, SMALL, LARGE),
        (LARGEST + 1, 0, LARGEST + 1),
        (LARGEST + 1, LARGEST, LARGEST + 1),
    ],
)
def test_each_extent_of_a_transfer_is_larger_than_the_last(
    root: Path, at_least: int, after: int, size: int
) -> None:
    extent = ExtentPool(root, 0, 0).claim(at_least, after)
    assert extent.size == size == os.fstat(extent.handle).st_size
    assert is_all_zero(extent.handle)
    os.close(extent.handle)


def test_what_is_kept_ready_is_filled_and_claimed_first(root: Path, pool: ExtentPool) -> None:
    pool.keep_ready()
    assert free(root) == ["1", "1", "4"]
    ready = {path.name.partition("-")[2]: path.stat() for path in (root / FREE).iterdir()}
    extent = pool.claim(1)
    before = ready[extent.segment.partition(".")[0]]
    assert before.st_ino == os.fstat(extent.handle).st_ino
    assert before.st_blocks * 512 >= SMALL
    assert free(root) == ["1", "4"]
    os.close(extent.handle)
    pool.keep_ready()
    assert free(root) == ["1", "1", "4"]


def test_what_is_ready_is_taken_before_anything_is_made(root: Path, pool: ExtentPool) -> None:
    pool.keep_ready()
    sizes = []
    for _ in range(4):
        extent = pool.claim(1)
        sizes.append(extent.size)
        os.close(extent.handle)
    assert sizes == [SMALL, SMALL, MEDIUM, SMALL]
    assert free(root) == []


def test_a_transfer_that_wants_a_larger_one_takes_a_smaller_one_that_is_ready(
    root: Path, pool: ExtentPool
) -> None:
    pool.keep_ready()
    extent = pool.claim(100, LARGE)
    assert extent.size == MEDIUM
    os.close(extent.handle)


def test_an_extent_is_locked_until_its_handle_is_closed(root: Path, pool: ExtentPool) -> None:
    for _ in ("made on the spot", "ready"):
        extent = pool.claim(1)
        with path_of(root, extent.segment).open() as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.close(extent.handle)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        pool.keep_ready()


def test_an_extent_that_changed_its_name_meanwhile_is_not_locked(
    root: Path, pool: ExtentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, another process may claim, fill, erase and release it."""
    pool.keep_ready()
    real = fcntl.flock

    def renamed_before(handle: int, how: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.parent.name == FREE and parse_free(path.name):
            path.rename(path.with_name(free_name(SMALL, "f" * 32)))
            path.touch()
        real(handle, how)

    name = next((root / FREE).glob("1-*"))
    files = ExtentFiles(root, Disk())
    monkeypatch.setattr(fcntl, "flock", renamed_before)
    assert files.lock(name) is None


def test_many_threads_never_claim_the_same_extent(root: Path) -> None:
    pools = [ExtentPool(root, 32 * MEBIBYTE, 0) for _ in range(2)]
    for pool in pools:
        pool.keep_ready()
    claimed: list[int] = []

    def run(pool: ExtentPool) -> None:
        for _ in range(5):
            extent = pool.claim(1)
            claimed.append(os.fstat(extent.handle).st_ino)

    threads = [threading.Thread(target=run, args=(pool,)) for pool in pools * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 20


CLAIM = """
import sys
from pathlib import Path
from hub.store.segments.extents import ExtentPool
pool = ExtentPool(Path(sys.argv[1]), 0, 0)
pool.keep_ready()
print("ready", flush=True)
sys.stdin.readline()
for _ in range(6):
    print(pool.claim(1).segment, flush=True)
sys.stdin.readline()
"""


def test_several_processes_share_the_extents(root: Path) -> None:
    ExtentPool(root, 64 * MEBIBYTE, 0).keep_ready()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    claimed = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        claimed += [process.stdout.readline() for _ in range(6)]
    for process in processes:
        process.communicate("end\n", timeout=30)
    assert len(set(claimed)) == 12
    assert "" not in claimed


# --- names --------------------------------------------------------------------------------------


def test_a_released_extent_is_zero_and_has_another_name(root: Path, pool: ExtentPool) -> None:
    pool.keep_ready()
    extent = pool.claim(1)
    os.pwrite(extent.handle, b"a patient's bytes", 70_000)
    number = os.fstat(extent.handle).st_ino
    os.close(extent.handle)
    pool.release(extent.segment)
    again = {path.stat().st_ino: path for path in (root / FREE).iterdir()}[number]
    assert again.name.partition("-")[2] != extent.segment.partition(".")[0]
    with again.open("rb") as file:
        assert is_all_zero(file.fileno())
    assert not path_of(root, extent.segment).exists()


def test_a_free_extent_keeps_its_number_when_it_is_claimed(root: Path, pool: ExtentPool) -> None:
    """A power cut may undo the claim, and the index knows the number already."""
    pool.keep_ready()
    numbers = {path.name.partition("-")[2] for path in (root / FREE).iterdir()}
    assert claim(pool).partition(".")[0] in numbers


def test_what_is_more_than_enough_goes_back_to_the_disk(root: Path, pool: ExtentPool) -> None:
    segments = [claim(pool) for _ in range(9)]
    for segment in segments:
        pool.release(segment)
    assert free(root) == ["1"] * 4


def test_a_file_of_its_own_is_overwritten_and_removed(root: Path, pool: ExtentPool) -> None:
    segment = claim(pool, LARGEST + 1)
    path = path_of(root, segment)
    path.write_bytes(b"x" * 3_000_001)
    kept = path.open("rb")
    pool.release(segment)
    assert not path.exists()
    assert os.fstat(kept.fileno()).st_size == 3_000_001
    assert is_all_zero(kept.fileno())
    kept.close()
    assert free(root) == []


def test_what_is_no_name_of_a_segment_is_not_released(pool: ExtentPool) -> None:
    with pytest.raises(IntegrityError):
        pool.release("../free/x")


# --- the disk -----------------------------------------------------------------------------------


def test_below_the_watermark_nothing_is_claimed_and_nothing_made(root: Path) -> None:
    root.mkdir()
    disk = os.statvfs(root)
    pool = ExtentPool(root, READY, disk.f_bavail * disk.f_frsize * 2)
    pool.keep_ready()
    assert free(root) == []
    with pytest.raises(TransientError, match="out of disk space"):
        pool.claim(1)


def test_an_extent_that_could_not_be_made_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(disk: Disk, handle: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Disk, "allocate", allocate)
    with pytest.raises(TransientError, match="No space left"):
        ExtentPool(root, 0, 0).claim(1)
    assert free(root) == []


# --- after a crash ------------------------------------------------------------------------------


def test_an_extent_that_was_claimed_and_never_written_to_comes_back(
    root: Path, pool: ExtentPool
) -> None:
    segment = claim(pool)
    pool.reconcile()
    assert free(root) == ["1"]
    assert not path_of(root, segment).exists()


def test_bytes_that_no_header_ever_followed_are_erased(root: Path, pool: ExtentPool) -> None:
    extent = pool.claim(1)
    os.pwrite(extent.handle, b"a patient's bytes", 500_000)
    os.close(extent.handle)
    pool.reconcile()
    assert free(root) == ["1"]
    assert all_free_are_zero(root)


def test_an_extent_with_a_living_writer_is_left_alone(root: Path, pool: ExtentPool) -> None:
    extent = pool.claim(1)
    pool.reconcile()
    assert path_of(root, extent.segment).exists()
    os.close(extent.handle)


def received_segment(root: Path) -> str:
    hub = Receiving(root)
    reception = hub.open(replace(SENDER, address="long" * 60, source="long" * 60))
    reception.store(received_object())
    reception.close(EndOfTransfer.RELEASED)
    (segment,) = hub.store.segments()
    return segment


def back_to_free(root: Path, segment: str) -> Path:
    """What a power cut does to a claim."""
    path = root / FREE / free_name(SMALL, segment.partition(".")[0])
    path_of(root, segment).rename(path)
    return path


def test_a_segment_that_a_power_cut_put_back_is_a_segment_again(root: Path) -> None:
    segment = received_segment(root)
    back_to_free(root, segment)
    pool = ExtentPool(root, READY, 0)
    pool.keep_ready()
    assert path_of(root, segment).exists()
    assert len(Receiving(root).files()) == 1
    assert segment not in {claim(pool) for _ in range(4)}


@pytest.mark.parametrize(("start", "length"), [(0, 512), (512, 512), (0, 4096)])
def test_a_segment_whose_header_never_arrived_is_erased(
    root: Path, start: int, length: int
) -> None:
    """Its first object was not acknowledged, even if it is there."""
    path = back_to_free(root, received_segment(root))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    keep_only_the_first_object(path)
    ExtentPool(root, READY, 0).keep_ready()
    assert list(SegmentStore(root).segments()) == []
    assert all_free_are_zero(root)


def keep_only_the_first_object(path: Path) -> None:
    data = path.read_bytes()
    end = data.rindex(b"CAIDXREC")
    assert end > 4096
    path.write_bytes(data[:end].ljust(len(data), b"\0"))


def test_a_damaged_header_erases_nothing(root: Path) -> None:
    path = back_to_free(root, segment := received_segment(root))
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"!!")
    keep_only_the_first_object(path)
    ExtentPool(root, READY, 0).keep_ready()
    assert b"DICM" in path_of(root, segment).read_bytes()


def test_a_lost_header_before_several_records_erases_nothing(root: Path) -> None:
    segment = received_segment(root)
    with path_of(root, segment).open("r+b") as file:
        file.write(bytes(4096))
    ExtentPool(root, 0, 0).reconcile()
    assert b"DICM" in path_of(root, segment).read_bytes()


def test_a_free_extent_that_holds_bytes_is_erased_before_it_is_used(
    root: Path, pool: ExtentPool
) -> None:
    pool.keep_ready()
    names = sorted((root / FREE).glob("1-*"))
    for path in names:
        with path.open("r+b") as file:
            file.seek(600_000)
            file.write(b"a patient's bytes")
    after_a_start = ExtentPool(root, READY, 0)
    after_a_start.keep_ready()
    assert not any(path.exists() for path in names)
    assert all_free_are_zero(root)


def test_a_free_extent_of_another_length_is_removed(root: Path, pool: ExtentPool) -> None:
    (root / FREE).mkdir(parents=True)
    odd = root / FREE / free_name(LARGEST, "0" * 32)
    odd.write_bytes(bytes(100))
    pool.keep_ready()
    assert not odd.exists()


def test_remains_of_a_dead_maker_go_and_those_of_a_living_one_stay(
    root: Path, pool: ExtentPool
) -> None:
    dead, living = pool.begin_outsize(), pool.begin_outsize()
    os.close(dead.handle)
    pool.keep_ready()
    assert not dead.path.exists()
    assert living.path.exists()
    pool.discard_outsize(living)


# --- its thread ---------------------------------------------------------------------------------


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_makes_what_was_claimed_again(root: Path, pool: ExtentPool) -> None:
    dead = claim(ExtentPool(root, 0, 0))
    pool.start()
    wait_until(lambda: free(root)[:3] == ["1", "1", "1"] or free(root) == ["1", "1", "4"])
    claim(pool)
    claim(pool)
    wait_until(lambda: free(root).count("1") >= 2)
    wait_until(lambda: not path_of(root, dead).exists())
    pool.stop()
    assert not any(thread.name == "extents" for thread in threading.enumerate())
    assert claim(pool)


def test_a_disk_that_fails_for_a_while_does_not_end_the_thread(
    root: Path, pool: ExtentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def sync(disk: Disk, handle: int) -> None:
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(Disk, "sync", sync)
        pool.start()
        assert failed.wait(20)
    claim(pool)
    wait_until(lambda: len(free(root)) >= 3)
