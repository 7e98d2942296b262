"""Records of finished jobs do not pile up; those of jobs that wait or run are never dropped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.durable import JobQueue, migrate_engine
from hub.ports import Job
from hub.store.database import open_database, sqlite_url

LATER = Job(kind="work", queue="line", job_id="job:later", argument="", delay_seconds=3600)
PROGRAM = """
import sys, threading, time
from datetime import UTC, datetime, timedelta
from hub.durable import Engine, Queue

begun, go_on = threading.Semaphore(0), threading.Event()

def work(argument):
    begun.release()
    if argument == "slow":
        go_on.wait()

engine = Engine(sys.argv[1], "forgetter")
engine.start({"work": work}, (Queue("line", worker_concurrency=4),))
for _ in range(3):
    begun.acquire()
time.sleep(0.5)
now = datetime.now(UTC)
print(engine.forget_finished(now - timedelta(days=1)), engine.forget_finished(now), flush=True)
go_on.set()
engine.stop(5)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_has_ended_is_forgotten_and_nothing_else(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = (
        sqlite_url(tmp_path / "hub.sqlite")
        if kind == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    database = open_database(url)
    migrate_engine(database.url)
    jobs = JobQueue(database.url)
    with database.write() as connection:
        for name in ("one", "two", "slow"):
            jobs.enqueue(
                connection, Job(kind="work", queue="line", job_id=f"job:{name}", argument=name)
            )
        jobs.enqueue(connection, LATER)
    program = tmp_path / "forget.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), database.url],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.split() == ["0", "2"], done.stderr
    prefix = "" if kind == "sqlite" else "dbos."
    with database.read() as connection:
        query = sa.text(f"SELECT workflow_uuid FROM {prefix}workflow_status")
        left = set(connection.execute(query).scalars())
    assert left == {"job:slow", "job:later"}
    jobs.close()
    database.close()
