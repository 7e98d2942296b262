"""Segments that are there and that the disk does not give: nobody else waits for them."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub.errors import IntegrityError
from hub.store.index_mark import index_mark
from hub.store.schema import alerts, associations
from hub.store.schema import segments as segments_table
from hub.store.segments import followers as segment_followers
from hub.store.segments.log_reader import DAMAGED
from tests.fakes import FrozenClock
from tests.received import received_object
from tests.stored import StoreBench
from tests.unit.store.test_indexing import RELEASED, column
from tests.unit.store.test_indexing_damage import eraser
from tests.unit.store.test_indexing_faults import only_segment, stored_numbers

EMPTY = "ab" + "0" * 30 + ".segment"


@pytest.fixture(autouse=True)
def at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The indexer looks at everything in each round."""
    monkeypatch.setattr(segment_followers, "LOOK_SECONDS", 0.0)


def give_up(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not readable now has been tried for long enough."""
    assert bench.indexer._followers is not None
    unread = bench.indexer._followers._unread
    unread.update(dict.fromkeys(unread, 0.0))
    for _ in range(3):
        bench.indexer.run_once(0.0)


def failing(name: str, path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the kernel's fails for one file: ``open``, ``fdatasync`` or ``mmap``."""

    def refuse(what: Any) -> None:
        named = Path(what) if name == "open" else Path(f"/proc/self/fd/{what}").readlink()
        if named == path:
            raise OSError(code, os.strerror(code))

    class Mapped(mmap.mmap):
        def __new__(cls, handle: int, *args: Any, **kwargs: Any) -> Any:
            refuse(handle)
            return super().__new__(cls, handle, *args, **kwargs)

    if name == "mmap":
        monkeypatch.setattr(mmap, "mmap", Mapped)
        return
    real: Callable[..., Any] = getattr(os, name)

    def call(what: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(what)
        return real(what, *args, **kwargs)

    monkeypatch.setattr(os, name, call)


def test_a_file_of_no_bytes_stops_nobody_and_is_told_once(
    bench: StoreBench, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench.root / "used" / EMPTY[:2]
    folder.mkdir(parents=True)
    (folder / EMPTY).touch()
    begun = clock.now()
    clock.advance(5)
    bench.store([received_object(number=1)])
    assert stored_numbers(bench) == [1]
    assert index_mark(bench.root).get() < begun  # as long as it may still be readable
    assert column(bench.database, alerts.c.kind) == []
    give_up(bench, monkeypatch)
    assert index_mark(bench.root).get() == clock.now()
    bench.restart()
    bench.store([received_object(number=2)])
    assert column(bench.database, alerts.c.kind) == [DAMAGED]
    assert "released" not in column(bench.database, segments_table.c.state)
    eraser(bench).turn()
    assert (folder / EMPTY).exists()


@pytest.mark.parametrize("call", ["open", "mmap", "fdatasync"])
def test_a_segment_that_the_disk_does_not_give_ends_as_aborted_and_stops_nobody(
    bench: StoreBench, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    reception = bench.open()
    reception.store(received_object(1, 1))
    bench.index()
    reception.store(received_object(1, 2))
    failing(call, only_segment(bench), errno.EIO, monkeypatch)
    clock.advance(5)
    bench.store([received_object(2, 3)])
    assert stored_numbers(bench) == [1, 3]
    assert index_mark(bench.root).get() < clock.now()
    reception.close(RELEASED)
    bench.index()
    give_up(bench, monkeypatch)
    assert index_mark(bench.root).get() == clock.now()
    assert column(bench.database, alerts.c.kind) == [DAMAGED]
    assert sorted(map(str, column(bench.database, associations.c.end))) == ["aborted", "released"]
    assert column(bench.database, segments_table.c.state) == ["sealed"] * 2
    assert stored_numbers(bench) == [1, 3]


def test_a_known_segment_without_a_readable_file_ends_its_transfer_as_aborted(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception = bench.open()
    reception.store(received_object(1, 1))
    bench.index()
    damaged = only_segment(bench)
    reception.store(received_object(2, 2))
    reception.close(RELEASED)
    failing("open", damaged, errno.EIO, monkeypatch)
    bench.restart()
    bench.index()
    give_up(bench, monkeypatch)
    assert column(bench.database, associations.c.end) == ["aborted"]
    assert column(bench.database, alerts.c.kind) == [DAMAGED]


def test_a_segment_that_can_be_read_again_is_indexed(
    bench: StoreBench, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception = bench.open()
    reception.store(received_object(number=1))
    reception.close(RELEASED)
    with monkeypatch.context() as patched:
        failing("open", only_segment(bench), errno.EIO, patched)
        bench.index()
        assert stored_numbers(bench) == []
    clock.advance(1)
    bench.indexer.run_once(0.0)
    bench.index()
    assert stored_numbers(bench) == [1]
    assert column(bench.database, alerts.c.kind) == []
    assert index_mark(bench.root).get() == clock.now()


def test_where_the_process_is_at_fault_every_segment_waits(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception = bench.open()
    reception.store(received_object(number=1))
    reception.close(RELEASED)
    with monkeypatch.context() as patched:
        failing("open", only_segment(bench), errno.EMFILE, patched)
        patched.setattr(segment_followers, "UNREADABLE_SECONDS", 0.0)
        with pytest.raises(IntegrityError):
            bench.indexer.run_once(0.0)
    bench.index()
    assert stored_numbers(bench) == [1]
