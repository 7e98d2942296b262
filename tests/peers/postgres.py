"""A real PostgreSQL: a cluster of the test run's own, with its durability settings untouched."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.peers import MissingPeerError, find_tool, free_port

START_TIMEOUT = 60.0
ROLE = "caidx"


class Postgres:
    """One cluster; ``stop``, ``kill`` and ``start`` keep its data and its port.

    One that is not ``durable`` leaves to the operating system when data go to the disk: what was
    committed outlives the server's processes, but no power cut.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self._settings = [] if durable else ["-c", "fsync=off"]
        self.port = free_port()
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user = _unprivileged(folder)
        initdb = _program("initdb")
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", f"--username={ROLE}"]
        options += [] if durable else ["--no-sync"]
        done = subprocess.run(
            [initdb, *options, f"--pgdata={self._data}"],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            **self._as_user,
        )
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the maintenance database."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """SQLAlchemy URL of a database in this cluster."""
        return f"postgresql+psycopg://{ROLE}@127.0.0.1:{self.port}/{database}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start, and return when it accepts connections."""
        assert self._process is None, "PostgreSQL runs already"
        arguments = ["-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port)]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), *arguments, "-k", str(self.folder), *self._settings],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                **self._as_user,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"PostgreSQL did not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Fast shutdown: clients are cut off, data is checkpointed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Immediate shutdown, as by a power cut: recovery follows at the next start."""
        self._end(signal.SIGQUIT)

    def log(self) -> str:
        """What it printed so far."""
        return (self.folder / "postgres.log").read_text(errors="replace")

    def execute(self, statement: str) -> None:
        """Run one statement outside any transaction, in the maintenance database."""
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={ROLE} dbname=postgres connect_timeout=5"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._conninfo()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=30)
        self._process = None


def _program(name: str) -> str:
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name)
    )
    return find_tool(name, "postgresql", *reversed(versions))


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Popen arguments: PostgreSQL refuses root, so root hands over to the user postgres."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise MissingPeerError("the system user postgres", "postgresql") from None
    os.chown(folder, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextmanager
def cluster(*, durable: bool = True) -> Iterator[Postgres]:
    """A running cluster that is thrown away at the end."""
    # Not under pytest's own folder: that is closed to the user postgres.
    folder = Path(tempfile.mkdtemp(prefix="caidx-pg-"))
    try:
        server = Postgres(folder, durable=durable)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database_in(server: Postgres, *, template: str = "template1") -> Iterator[str]:
    """The URL of a fresh database, which is dropped at the end."""
    if not server.running:
        server.start()
    name = f"test_{uuid.uuid4().hex}"
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield server.database_url(name)
    if not server.running:
        server.start()
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for the whole run; a test that stops it starts it again."""
    with cluster() as server:
        yield server


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    with database_in(postgres) as url:
        yield url
