from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hub.errors import (
    ConfigError,
    ConfigProblem,
    IntegrityError,
    LeftToRecoveryError,
    TransientError,
)
from hub.ports import Health, HealthState
from hub.store import workers
from hub.store.database import migrate, open_database, sqlite_url
from hub.supervisor import faults, sources
from hub.supervisor.faults import Loop, isolated
from hub.supervisor.processes import RoleProcesses, process_is_alive, this_process
from hub.supervisor.sources import SupervisedSource
from hub.supervisor.takeover import SignsOfLife, Takeover
from tests.fakes import FrozenClock


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (faults, sources):
        monkeypatch.setattr(module, "FIRST_DELAY", 0.01)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestIsolated:
    def test_a_fault_is_recorded_by_name_and_place_without_its_message(self) -> None:
        recorded: list[tuple[str, str]] = []

        def work(argument: str) -> None:
            raise ValueError(f"JANE^DOE {argument}")

        run = isolated(work, lambda *fault: recorded.append(fault), threading.Event())
        with capture_logs() as logs:
            run("job-1")
        ((argument, reason),) = recorded
        assert argument == "job-1"
        assert reason.startswith("fault of the hub: ValueError in tests.unit.test_supervisor:")
        assert "JANE" not in reason + str(logs)

    def test_a_job_waits_for_the_database_and_runs_again(self) -> None:
        answers = [TransientError("database: away"), TransientError("database: away"), None]
        runs: list[str] = []

        def work(argument: str) -> None:
            runs.append(argument)
            answer = answers.pop(0)
            if answer is not None:
                raise answer

        isolated(work, pytest.fail, threading.Event())("job-1")
        assert runs == ["job-1"] * 3

    def test_recording_a_fault_waits_for_the_database_too(self) -> None:
        answers = [TransientError("database: away"), None]

        def work(_: str) -> None:
            raise ValueError

        def on_fault(*_: str) -> None:
            answer = answers.pop(0)
            if answer is not None:
                raise answer

        isolated(work, on_fault, threading.Event())("job-1")
        assert answers == []

    def test_when_the_process_stops_a_waiting_job_is_left_to_recovery(self) -> None:
        stopping = threading.Event()
        stopping.set()

        def work(_: str) -> None:
            raise TransientError("database: away")

        with pytest.raises(LeftToRecoveryError):
            isolated(work, pytest.fail, stopping)("job-1")

    def test_a_fault_that_cannot_even_be_recorded_keeps_its_message_to_itself(self) -> None:
        def broken(*_: str) -> None:
            raise ValueError("JANE^DOE")

        with pytest.raises(IntegrityError, match="could not be recorded") as caught:
            isolated(broken, broken, threading.Event())("job-1")
        assert "JANE" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_loop_goes_on_after_any_fault() -> None:
    turns: list[int] = []

    def turn() -> None:
        turns.append(1)
        if len(turns) == 1:
            raise ZeroDivisionError
        if len(turns) == 2:
            raise TransientError("away")

    loop = Loop("test", turn, 0.001)
    loop.start()
    _until(lambda: len(turns) >= 3)
    loop.stop()
    after = len(turns)
    time.sleep(0.05)
    assert len(turns) == after


class _Source:
    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.starts = 0
        self.stopped = False

    def start(self) -> None:
        self.starts += 1
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer

    def stop(self) -> None:
        self.stopped = True

    def health(self) -> Health:
        return Health(HealthState.HEALTHY, "listening", FrozenClock().now())


class TestSupervisedSource:
    def test_it_is_started_until_it_listens(self) -> None:
        source = _Source(TransientError("port in use"), ZeroDivisionError(), None)
        supervised = SupervisedSource("dicom", source, FrozenClock())
        supervised.start()
        _until(lambda: supervised.health().state is HealthState.HEALTHY)
        _until(lambda: source.starts == 3)
        supervised.stop()
        assert source.stopped

    def test_a_configuration_that_can_never_work_is_not_tried_again(self) -> None:
        problem = ConfigProblem("caidx.yaml", 3, "sources.0", "no such interface")
        source = _Source(ConfigError((problem,)))
        supervised = SupervisedSource("dicom", source, FrozenClock())
        supervised.start()
        _until(lambda: supervised.health().state is HealthState.FAILED)
        assert "caidx.yaml:3" in supervised.health().detail
        supervised.stop()
        assert source.starts == 1


class TestProcessIdentity:
    def test_we_are_alive(self) -> None:
        assert process_is_alive(this_process("worker")) is True

    def test_two_identities_of_one_process_differ(self) -> None:
        assert this_process("worker").executor_id != this_process("worker").executor_id

    def test_a_dead_process_and_its_zombie_are_not(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        identity = replace(this_process("worker"), pid=child.pid, process_started=stat[19])
        assert process_is_alive(identity) is True
        child.kill()
        _until(lambda: process_is_alive(identity) is False)  # a zombie until we wait for it
        child.wait()
        assert process_is_alive(identity) is False

    def test_another_process_with_the_same_number_is_another_one(self) -> None:
        assert process_is_alive(replace(this_process("worker"), process_started="1")) is False

    def test_a_process_of_another_host_cannot_be_judged(self) -> None:
        assert process_is_alive(replace(this_process("worker"), host_identity="other")) is None


class TestTakeover:
    def test_a_process_that_left_or_was_given_up_is_dead_while_it_holds_work(
        self, tmp_path: Path
    ) -> None:
        database, clock = open_database(sqlite_url(tmp_path / "hub.sqlite")), FrozenClock()
        migrate(database)
        here = this_process("worker")
        elsewhere = replace(this_process("worker"), host_identity="another host")
        us = Takeover(database, here, clock, timedelta(seconds=10))
        SignsOfLife(database, here, clock).register("worker")
        other = SignsOfLife(database, elsewhere, clock)
        other.register("worker")
        other.leave()
        holder = other.process.executor_id
        assert us.dead("worker") == []
        assert us.dead("worker", {holder}) == []  # it has just given a sign of life
        clock.advance(11)
        assert us.dead("worker", {holder}) == [other.process]
        assert us.dead("receiver", {holder}) == []
        with database.read() as connection:
            assert len(workers.present(connection, "worker")) == 1


def test_a_role_that_dies_is_started_again_and_all_end_together(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, time;"
        f"pathlib.Path({str(tmp_path)!r}, sys.argv[1] + str(os.getpid())).touch();"
        "time.sleep(60)"
    )
    roles = {name: [sys.executable, "-c", program, name] for name in ("a-", "b-")}
    parent = f"""
from hub.supervisor.processes import RoleProcesses
RoleProcesses({roles!r}).run()
"""
    running = subprocess.Popen([sys.executable, "-c", parent])

    def pids(name: str) -> list[int]:
        return [int(p.name.partition("-")[2]) for p in tmp_path.glob(f"{name}*")]

    _until(lambda: len(pids("a-")) == 1 and len(pids("b-")) == 1)
    os.kill(pids("a-")[0], signal.SIGKILL)
    _until(lambda: len(pids("a-")) == 2)
    assert len(pids("b-")) == 1
    running.terminate()
    assert running.wait(timeout=20) == 0
    for pid in (*pids("a-"), *pids("b-")):
        assert not Path(f"/proc/{pid}").exists()


def test_a_role_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = (
        "import pathlib, os, time; from hub.supervisor.processes import end_with_parent;"
        f"end_with_parent(); pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch();"
        "time.sleep(60)"
    )
    roles = {"a": [sys.executable, "-c", child]}
    program = f"from hub.supervisor.processes import RoleProcesses; RoleProcesses({roles!r}).run()"
    parent = subprocess.Popen([sys.executable, "-c", program])
    _until(lambda: len(list(tmp_path.iterdir())) == 1)
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    parent.kill()
    parent.wait()
    _until(lambda: not Path(f"/proc/{pid}").exists())


def test_children_that_do_not_end_are_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    processes = RoleProcesses({"a": [sys.executable, "-c", stubborn]}, grace_seconds=0.2)
    processes._start("a")
    time.sleep(0.3)
    processes._end()
    assert processes._children["a"].poll() == -signal.SIGKILL


FORKED = """
import os, pathlib, sys, time
from hub.supervisor.processes import RoleProcesses, end_with_parent

folder = pathlib.Path(sys.argv[1])

def role() -> None:
    end_with_parent()
    (folder / f"{time.monotonic_ns()}-{os.getpid()}").touch()
    time.sleep(60)

def failing() -> None:
    (folder / f"{time.monotonic_ns()}-failing-{os.getpid()}").touch()
    sys.exit(3)

roles = {"a": role, "b": failing} if "failing" in sys.argv else {"a": role}
RoleProcesses(roles).run()
"""


def _forked(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FORKED, str(folder), *options])


def _starts(folder: Path, kind: str = "*-[0-9]*") -> list[tuple[int, int]]:
    """(when, PID) of each start, the first one first."""
    found = [path.name.split("-") for path in folder.glob(kind)]
    return sorted((int(name[0]), int(name[-1])) for name in found)


def test_a_forked_role_that_was_killed_starts_again_at_once(tmp_path: Path) -> None:
    parent = _forked(tmp_path)
    for number in range(1, 4):
        _until(lambda n=number: len(_starts(tmp_path)) == n)
        os.kill(_starts(tmp_path)[-1][1], signal.SIGKILL)
    _until(lambda: len(_starts(tmp_path)) == 4)
    (_, last) = _starts(tmp_path)[-1]
    parent.terminate()
    assert parent.wait(timeout=20) == 0
    assert not Path(f"/proc/{last}").exists()


SHARING = """
import pathlib, sys, time
from hub.supervisor.processes import RoleProcesses

folder = pathlib.Path(sys.argv[1])

def role(name: str) -> None:
    own_name = pathlib.Path("/proc/self/comm").read_text().strip()
    (folder / f"{name}.{own_name}.{'sndhdr' in sys.modules}").touch()
    time.sleep(60)

def load() -> None:
    import sndhdr

roles = {name: lambda name=name: role(name) for name in ("receiver", "worker-1")}
RoleProcesses(roles, after_first=load).run()
"""


def test_what_others_share_is_loaded_after_the_first_has_begun(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SHARING, str(tmp_path)])
    _until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.terminate()
    assert parent.wait(timeout=20) == 0
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"receiver.receiver.False", "worker-1.worker-1.True"}


def test_a_fault_of_a_forked_role_does_not_tell_its_message() -> None:
    program = (
        "import sys; from hub.log import configure_logging;"
        "from hub.supervisor.processes import ForkedChild;"
        "configure_logging('info', 'json');"
        "sys.exit(ForkedChild('a', lambda: int('JANE^DOE')).wait(10))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert "JANE" not in done.stderr


def test_a_forked_role_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = _forked(tmp_path)
    _until(lambda: len(_starts(tmp_path)) == 1)
    parent.kill()
    parent.wait()
    ((_, pid),) = _starts(tmp_path)
    _until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_role_that_fails_by_itself_waits_longer_each_time_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    parent = _forked(tmp_path, "failing")
    _until(lambda: len(_starts(tmp_path, "*-failing-*")) == 3)
    first, second, third = (when for when, _ in _starts(tmp_path, "*-failing-*"))
    assert third - second > 1.5 * (second - first) > 0.5e9
    ((_, healthy),) = [s for s in _starts(tmp_path) if s not in _starts(tmp_path, "*-failing-*")]
    os.kill(healthy, signal.SIGKILL)
    _until(lambda: len(_starts(tmp_path)) - len(_starts(tmp_path, "*-failing-*")) == 2)
    parent.terminate()
    assert parent.wait(timeout=20) == 0
