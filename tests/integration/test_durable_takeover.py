"""Whoever lives finds the work of those who do not, and a job that had to stop is not over."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub.durable import JobQueue, migrate_engine
from hub.ports import Job
from hub.store.database import Database, open_database, sqlite_url

WORKER = """
import sys, threading, time
from pathlib import Path
from hub.durable import Engine, Queue
from hub.errors import LeftToRecoveryError

url, executor_id, queue, folder = sys.argv[1:5]

def work(argument):
    Path(folder, f"{argument}-{executor_id}").touch()
    if executor_id == "stopping":
        raise LeftToRecoveryError
    if executor_id == "hanging":
        threading.Event().wait()

if __name__ == "__main__":
    engine = Engine(url, executor_id)
    engine.start({"work": work}, (Queue(queue, 1),))
    Path(folder, f"up-{executor_id}").touch()
    while True:
        time.sleep(0.1)
        if Path(folder, "now").exists():
            for holder in engine.holders() - {executor_id}:
                engine.take_over(holder)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = (
        sqlite_url(tmp_path / "hub.sqlite")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    opened = open_database(url)
    migrate_engine(opened.url)
    yield opened
    opened.close()


Start = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker by its name and its queue."""
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    processes: list[subprocess.Popen[bytes]] = []

    def begin(name: str, queue: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(program), database.url, name, queue, str(tmp_path)]
        processes.append(subprocess.Popen(command))
        _wait_for(tmp_path / f"up-{name}")
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} never came"
        time.sleep(0.02)


def _enqueue(database: Database, queue: str) -> None:
    jobs = JobQueue(database.url)
    with database.write() as connection:
        job = Job(kind="work", queue=queue, job_id="j", argument="job", partition="p")
        jobs.enqueue(connection, job)
    jobs.close()


def test_a_job_that_a_stopping_worker_left_unfinished_is_run_by_the_next(
    database: Database, start: Start, tmp_path: Path
) -> None:
    _enqueue(database, "line")
    stopping = start("stopping", "line")
    _wait_for(tmp_path / "job-stopping")
    time.sleep(0.5)  # for what it writes about the job, if anything
    stopping.kill()
    stopping.wait()
    (tmp_path / "now").touch()
    start("heir", "line")
    _wait_for(tmp_path / "job-heir")


def test_a_queue_that_only_the_dead_worker_knew_is_looked_at_too(
    database: Database, start: Start, tmp_path: Path
) -> None:
    start("heir", "line")
    _enqueue(database, "another-line")
    hanging = start("hanging", "another-line")
    _wait_for(tmp_path / "job-hanging")
    hanging.kill()
    hanging.wait()
    (tmp_path / "now").touch()
    _wait_for(tmp_path / "job-heir")
