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

from hub import supervisor
from hub.durable import LeftToRecoveryError
from hub.errors import ConfigError, ConfigProblem, IntegrityError, TransientError
from hub.ports import Health, HealthState
from hub.store import workers
from hub.store.database import migrate, open_database, sqlite_url
from hub.supervisor import (
    Loop,
    RoleProcesses,
    SupervisedSource,
    Takeover,
    isolated,
    process_is_alive,
    this_process,
)
from tests.fakes import FrozenClock


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.01)


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
        us, other = (
            Takeover(database, process, clock, timedelta(seconds=10))
            for process in (
                this_process("worker"),
                replace(this_process("worker"), host_identity="another host"),
            )
        )
        us.register("worker")
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
from hub import supervisor
supervisor.FIRST_DELAY = 0.01
supervisor.RoleProcesses({roles!r}).run()
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
        "import pathlib, os, time; from hub.supervisor import end_with_parent;"
        f"end_with_parent(); pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch();"
        "time.sleep(60)"
    )
    roles = {"a": [sys.executable, "-c", child]}
    program = f"from hub.supervisor import RoleProcesses; RoleProcesses({roles!r}).run()"
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
    assert processes._children["a"].returncode == -signal.SIGKILL
