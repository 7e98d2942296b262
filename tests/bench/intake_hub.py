"""The hub as a receiver of the intake benchmark: its receiver, indexer and web roles."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import sqlalchemy as sa

from hub.bootstrap.clock import SystemClock
from hub.domain.access import Scope
from hub.errors import TransientError
from hub.store.api_keys import KeyRing
from hub.store.database import Database, open_database, sqlite_url
from hub.store.journal import Journal
from hub.store.schema import instances
from tests.bench.intake_receivers import START_TIMEOUT, wait_until_listening
from tests.peers import free_port

ROLES = ("receiver", "indexer", "web")
POOL_BYTES = 4 << 30
"""Room for all that one round sends: the extents that a hub recycles in quiet times."""
POOL_TIMEOUT, SETTLE_SECONDS = 120.0, 2.0
INDEX_TIMEOUT = 120.0
_CONFIGURATION = """
data: {data}
web: {{port: {web}}}
log: {{level: warning}}
storage: {{pool_bytes: {pool}}}
sources:
  - {{name: dicom, kind: dicom, port: {dicom}}}
  - {{name: stow, kind: dicomweb}}
"""


class HubReceiver:
    """`caidx serve --role` receiver, indexer and web, with default settings."""

    stow_path = "/dicom-web/studies"

    def __init__(self, folder: Path) -> None:
        self.dicom_port, self.http_port = free_port(), free_port()
        self._folder, self._data = folder, folder / "data"
        self._roles: list[subprocess.Popen[bytes]] = []
        self._database: Database | None = None
        self.key = ""
        """Of scope system; made at each start."""

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        self._data.mkdir()
        configuration = self._folder / "caidx.yaml"
        configuration.write_text(
            _CONFIGURATION.format(
                data=self._data, web=self.http_port, dicom=self.dicom_port, pool=POOL_BYTES
            )
        )
        command = [sys.executable, "-m", "hub", "--config", str(configuration), "serve", "--role"]
        with (self._folder / "log").open("wb") as log:
            for role in ROLES:
                self._roles.append(
                    subprocess.Popen(
                        [*command, role], stdout=log, stderr=log, stdin=subprocess.DEVNULL
                    )
                )
        try:
            for role, port in (("receiver", self.dicom_port), ("web", self.http_port)):
                wait_until_listening(port, self._roles[ROLES.index(role)])
            self._database = open_database(sqlite_url(self._data / "caidx.sqlite"))
            self._wait_for_index(0)
            ring = KeyRing(self._database, Journal(SystemClock(), "user:bench"))
            self.key = ring.create("bench", Scope.SYSTEM)[1]
            self._wait_for_pool()
        except AssertionError as error:
            error.add_note(self._log())
            self.stop()
            raise

    def stop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        for process in self._roles:
            process.kill()
            process.wait()
        self._roles.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> Sequence[psutil.Process]:
        return [psutil.Process(process.pid) for process in self._roles]

    def finish(self, instances: int, sample: Mapping[str, str]) -> None:
        try:
            self._wait_for_index(instances)
            self._compare(sample)
        except AssertionError as error:
            error.add_note(self._log())
            raise

    def _wait_for_pool(self) -> None:
        """Until the extents are made, and everything that starts with the hub has started."""
        deadline = time.monotonic() + POOL_TIMEOUT
        while _bytes_in(self._data / "objects" / "free") < POOL_BYTES * 0.95:
            assert time.monotonic() < deadline, "the extents are not made"
            time.sleep(0.1)
        time.sleep(SETTLE_SECONDS)

    def _wait_for_index(self, count: int) -> None:
        assert self._database is not None
        query = sa.select(sa.func.count()).select_from(instances)
        deadline = time.monotonic() + max(INDEX_TIMEOUT, START_TIMEOUT)
        while True:
            found = -1
            with suppress(TransientError), self._database.read() as connection:
                found = connection.execute(query).scalar_one()
            if found == count:
                return
            assert found < count, f"{found} instances in the index, of {count} that were sent"
            assert time.monotonic() < deadline, f"{found} of {count} instances in the index"
            time.sleep(0.02)

    def _compare(self, sample: Mapping[str, str]) -> None:
        """What is in the index is what was sent."""
        assert self._database is not None
        columns = sa.select(instances.c.sop_instance_uid, instances.c.sha256)
        with self._database.read() as connection:
            rows = connection.execute(columns.where(instances.c.sop_instance_uid.in_(sample)))
            assert dict(rows.tuples().all()) == dict(sample), "other bytes than were sent"

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-4000:]


def _bytes_in(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
