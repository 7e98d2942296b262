"""The bell: who rings never waits, and who listens hears which segments grew."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hub.errors import TransientError
from hub.store.segments.bell import Bell

ONE, TWO = "1" * 32 + ".segment", "2" * 32 + ".segment"


def test_each_segment_that_rang_is_told_once(tmp_path: Path) -> None:
    writer, listener = Bell(tmp_path / "bell"), Bell(tmp_path / "bell")
    for segment in (ONE, TWO, ONE):
        writer.ring(segment)
    assert listener.wait(0).segments == {ONE, TWO}
    assert listener.wait(0).segments == set()


def test_ringing_with_nobody_there_never_waits(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    for _ in range(5000):  # more than a pipe holds
        bell.ring(ONE)
    assert bell.wait(0).segments == {ONE}
    bell.ring(TWO)
    while TWO not in (heard := bell.wait(1).segments):
        assert heard == {ONE}


def test_waiting_ends_with_the_first_ring(tmp_path: Path) -> None:
    writer, listener = Bell(tmp_path / "bell"), Bell(tmp_path / "bell")
    timer = threading.Timer(0.05, writer.ring, [ONE])
    timer.start()
    started = time.monotonic()
    assert listener.wait(30).segments == {ONE}
    assert time.monotonic() - started < 15
    timer.join()


def test_waiting_ends_with_the_time(tmp_path: Path) -> None:
    assert Bell(tmp_path / "bell").wait(0.01).segments == set()


def test_another_process_is_heard(tmp_path: Path) -> None:
    listener = Bell(tmp_path / "bell")
    listener.wait(0)
    code = (
        "import sys; from pathlib import Path; from hub.store.segments.bell import Bell; "
        "Bell(Path(sys.argv[1])).ring(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "bell"), ONE], check=True)
    assert listener.wait(10).segments == {ONE}


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["long" * 20] * 5) / "bell"
    bell = Bell(path)
    bell.ring(ONE)
    assert bell.wait(0).segments == {ONE}
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_segment_is_not_told(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    bell.ring("../../etc/passwd")
    bell.ring(ONE)
    assert bell.wait(0).segments == {ONE}


def test_a_bell_that_cannot_be_opened_does_not_disturb_who_rings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bell = Bell(tmp_path / "file" / "bell")
    bell.ring(ONE)
    with pytest.raises(TransientError):
        bell.wait(0)


def test_a_closed_bell_opens_again(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bell")
    bell.ring(ONE)
    bell.close()
    bell.close()
    bell.ring(TWO)
    assert TWO in bell.wait(0).segments
