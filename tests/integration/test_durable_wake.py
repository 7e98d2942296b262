"""A job that its own process enqueued is looked for when it is committed, not at the next look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hub.durable import migrate_engine
from hub.store.database import sqlite_url

PROGRAM = """
import sys, threading, time
from hub import durable
from hub.ports import Job
from hub.store.database import open_database

durable.POLLING_SECONDS = 30.0
done = threading.Event()

def work(argument):
    done.set()

if __name__ == "__main__":
    database = open_database(sys.argv[1])
    engine = durable.Engine(database.url, "executor")
    jobs = durable.JobQueue(database.url, engine.look_now)
    engine.start({"work": work}, (durable.Queue("line", 1),))
    time.sleep(1)
    with database.write() as connection:
        job = Job(kind="work", queue="line", job_id="j", argument="", partition="p")
        jobs.enqueue(connection, job)
    print("ran" if done.wait(10) else "waited")
    engine.stop(0)
"""


def test_a_job_of_the_same_process_starts_without_waiting_for_the_next_look(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path / "hub.sqlite")
    migrate_engine(url)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    done = subprocess.run(
        [sys.executable, str(program), url], capture_output=True, text=True, timeout=90, check=False
    )

    assert done.stdout.split() == ["ran"], done.stderr
