"""The promises that the rest relies on, held to the real engine on both databases.

The engine is one per process, so its life is driven in child processes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.bootstrap.hub import ENGINE_SCHEMA_VERSION
from hub.durable import JobQueue, migrate_engine
from hub.ports import Job
from hub.store.database import Database, engine_schema_version, open_database, sqlite_url

WORKER = """
import sys, time, threading
from hub.durable import Engine, Queue
from hub.store.database import open_database
import sqlalchemy as sa

url, executor_id, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
database = open_database(url)

def note(what):
    with database.write() as connection:
        row = {"what": what, "at": time.monotonic_ns()}
        connection.execute(sa.text("INSERT INTO notes (what, at) VALUES (:what, :at)"), row)

@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def dawdle(connection, cursor, statement, *_):
    # Time for another worker to come in between counting the running jobs and claiming more.
    if statement.lower().startswith("select count"):
        time.sleep(0.02)

def work(argument):
    note(f"start {argument} {executor_id}")
    time.sleep(seconds)
    note(f"end {argument} {executor_id}")

if __name__ == "__main__":
    engine = Engine(url, executor_id)
    engine.start({"work": work}, (
        Queue("line", 1, worker_concurrency=4), Queue("pair", 2, worker_concurrency=12)
    ))
    note(f"up {executor_id}")
    if len(sys.argv) > 4:
        engine.take_over(sys.argv[4])
    threading.Event().wait()
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
    with opened.write() as connection:
        connection.execute(sa.text("CREATE TABLE notes (what VARCHAR(200), at BIGINT)"))
    yield opened
    opened.close()


def test_the_version_of_the_engines_tables_is_known_without_the_engine(
    database: Database,
) -> None:
    assert engine_schema_version(database) == ENGINE_SCHEMA_VERSION


@pytest.fixture
def workers(database: Database, tmp_path: Path) -> Iterator[Workers]:
    program = tmp_path / "worker.py"
    program.write_text(textwrap.dedent(WORKER))
    running = Workers(database, program)
    yield running
    running.stop()


class Workers:
    """Child processes with an engine each."""

    def __init__(self, database: Database, program: Path) -> None:
        self.database = database
        self._program = program
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, seconds: float = 0.0, *dead: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self._program), self.database.url, name, str(seconds)]
        process = subprocess.Popen([*command, *dead])
        self._processes.append(process)
        self.wait_for(f"up {name}")
        return process

    def notes(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(sa.text("SELECT what FROM notes ORDER BY at")).scalars())

    def wait_for(self, note: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while note not in self.notes():
            assert time.monotonic() < deadline, f"{note!r} is not among {self.notes()}"
            time.sleep(0.02)

    def wait_for_part(self, part: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not any(part in note for note in self.notes()):
            assert time.monotonic() < deadline, f"{part!r} is not in {self.notes()}"
            time.sleep(0.02)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _job(number: int, *, partition: str = "p", priority: int = 5, delay: float = 0.0) -> Job:
    return Job(
        kind="work",
        queue="line",
        job_id=f"job-{number}",
        argument=str(number),
        partition=partition,
        priority=priority,
        delay_seconds=delay,
    )


def _enqueue_and_fail(database: Database, jobs: JobQueue) -> None:
    with database.write() as connection:
        jobs.enqueue(connection, _job(1))
        raise ZeroDivisionError


def test_a_job_runs_if_and_only_if_its_transaction_commits(
    database: Database, workers: Workers
) -> None:
    jobs = JobQueue(database.url)
    with pytest.raises(ZeroDivisionError):
        _enqueue_and_fail(database, jobs)
    with database.write() as connection:
        jobs.enqueue(connection, _job(2))
        jobs.enqueue(connection, _job(2))
    workers.start("w")
    workers.wait_for("end 2 w")
    time.sleep(0.5)
    assert [n for n in workers.notes() if n.startswith("start")] == ["start 2 w"]


def test_urgent_work_overtakes_and_a_line_has_its_limit(
    database: Database, workers: Workers
) -> None:
    jobs = JobQueue(database.url)
    with database.write() as connection:
        for number in range(4):
            jobs.enqueue(connection, _job(number, priority=10))
        jobs.enqueue(connection, _job(99, priority=1))
    workers.start("w", 0.05)
    workers.wait_for("end 3 w")
    notes = workers.notes()[1:]
    assert notes[0] == "start 99 w"
    assert all(notes[i].replace("start", "end") == notes[i + 1] for i in range(0, len(notes), 2)), (
        "two jobs of one line ran at once"
    )


def test_two_workers_together_keep_the_limit_of_a_line(
    database: Database, workers: Workers
) -> None:
    jobs, lines, limit = JobQueue(database.url), 10, 2
    for name in ("one", "two"):
        workers.start(name, 0.1)
    with database.write() as connection:  # more than one of them may run at once
        for number in range(4 * lines):
            job = _job(number, partition=f"p{number // 4}")
            jobs.enqueue(connection, replace(job, queue="pair"))
    for number in range(4 * lines):
        workers.wait_for_part(f"end {number} ")
    notes = [note.split() for note in workers.notes() if not note.startswith("up")]
    for line in range(lines):
        steps = [1 if what == "start" else -1 for what, n, _ in notes if int(n) // 4 == line]
        assert len(steps) == 8
        assert max(accumulate(steps)) <= limit, "more jobs of one line ran at once"
    assert {worker for *_, worker in notes} == {"one", "two"}, "both took part"


def test_a_delayed_job_waits(database: Database, workers: Workers) -> None:
    jobs = JobQueue(database.url)
    workers.start("w")
    with database.write() as connection:
        jobs.enqueue(connection, _job(1, delay=2.0, priority=1))
        jobs.enqueue(connection, _job(2))
    workers.wait_for("end 1 w")
    assert [n for n in workers.notes() if n.startswith("end")] == ["end 2 w", "end 1 w"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_workers_job_is_taken_over_in_its_own_line(
    database: Database, workers: Workers, how: signal.Signals
) -> None:
    """The engine's recovery call is private: this test holds its version to it."""
    jobs = JobQueue(database.url)
    with database.write() as connection:
        jobs.enqueue(connection, _job(1))
        jobs.enqueue(connection, _job(2))
    dead = workers.start("dead", 3600)
    workers.wait_for("start 1 dead")
    dead.send_signal(how)
    workers.start("heir", 0.0, "dead")
    workers.wait_for("end 1 heir")
    workers.wait_for("end 2 heir")
    assert workers.notes().count("start 2 heir") == 1
