"""The hub's side of the path benchmark: real processes, and what they recorded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import sqlalchemy as sa

from connectors.dicom import CONNECTOR
from hub.ports import SentAs, SentFile
from hub.store.database import Database, open_database, sqlite_url
from hub.store.schema import deliveries, requests, results, study_revisions
from tests.bench.path_study import Peers, StudyFiles
from tests.bench.results import Parts
from tests.peers import free_port

QUIET_SECONDS = 2.0
START_TIMEOUT = 120.0
REPORT_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class RunningHub:
    """`caidx serve` with its receiver, worker and web processes."""

    process: subprocess.Popen[bytes]
    database: Database
    dicom_port: int

    def report_on(self, study: StudyFiles) -> Parts:
        """Send a study; seconds from the last C-STORE response to the last confirmed delivery."""
        answered: list[datetime] = []

        def on_progress(sent: SentFile) -> None:
            assert sent.sent_as is SentAs.STORED, f"not stored: {sent.detail}"
            answered.append(datetime.now(UTC))

        assert CONNECTOR.send_files is not None
        CONNECTOR.send_files(
            study.paths,
            host="127.0.0.1",
            port=self.dicom_port,
            called_ae_title="CAIDX",
            calling_ae_title="BENCH",
            on_progress=on_progress,
        )
        self._wait(study.study_instance_uid)
        return self._parts(study.study_instance_uid, answered[-1])

    def cores_when_idle(self, seconds: float = 3.0) -> float:
        """How much of a core all its processes take while nothing happens."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        before = sum(sum(p.cpu_times()[:2]) for p in family)
        time.sleep(seconds)
        return (sum(sum(p.cpu_times()[:2]) for p in family) - before) / seconds

    def _wait(self, study_instance_uid: str) -> None:
        states = sa.select(deliveries.c.state).where(
            deliveries.c.study_instance_uid == study_instance_uid
        )
        deadline = time.monotonic() + REPORT_TIMEOUT
        while True:
            time.sleep(0.1)
            with self.database.read() as connection:
                found = set(connection.execute(states).scalars())
            if found == {"delivered"}:  # all deliveries of a report start in one transaction
                return
            assert time.monotonic() < deadline, f"no report: deliveries are {found or 'none'}"
            assert self.process.poll() is None, "the hub ended"

    def _parts(self, study_instance_uid: str, last_response: datetime) -> Parts:
        with self.database.read() as connection:
            study = connection.execute(_of(study_revisions, study_instance_uid)).one()
            asked = connection.execute(_of(requests, study_instance_uid)).one()
            made = connection.execute(
                sa.select(results.c.timings).where(results.c.request_id == asked.request_id)
            ).scalar_one()
            sent = connection.execute(_of(deliveries, study_instance_uid)).all()
        last = max(sent, key=lambda delivery: delivery.delivered_at)
        worked = _seconds(asked.started_at, asked.finished_at)
        return {
            "quiet time": QUIET_SECONDS,
            "completeness beyond it": _seconds(last_response, study.completed_at) - QUIET_SECONDS,
            "route (with its queue)": _seconds(study.completed_at, asked.created_at),
            "queue": _seconds(asked.created_at, asked.started_at),
            "read and decode": made["read"] + made["decode"],
            **{part: made[part] for part in ("preprocess", "inference", "postprocess")},
            **{part: seconds for part, seconds in made.items() if part.startswith("encode")},
            "load, hand over, store": worked - sum(made.values()),
            "deliver (with its queue)": _seconds(asked.finished_at, last.delivered_at),
            "total": _seconds(last_response, last.delivered_at),
        }


@contextmanager
def running_hub(folder: Path, peers: Peers) -> Iterator[RunningHub]:
    """A hub with default settings, but for its ports, its folder and its destinations."""
    folder.mkdir()
    dicom_port, web_port = free_port(), free_port()
    configuration = folder / "caidx.yaml"
    configuration.write_text(_configuration(folder, peers, dicom_port, web_port))
    command = [sys.executable, "-m", "hub", "--config", str(configuration), "serve"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{web_port}/health/ready", folder / "log")
        database = open_database(sqlite_url(folder / "data" / "caidx.sqlite"))
        yield RunningHub(process, database, dicom_port)
        database.close()
    except AssertionError as error:
        error.add_note(f"the hub's log ends:\n{(folder / 'log').read_text()[-4000:]}")
        raise
    finally:
        process.terminate()
        process.wait(timeout=60)


def _configuration(folder: Path, peers: Peers, dicom_port: int, web_port: int) -> str:
    return f"""
data: {folder / "data"}
web: {{port: {web_port}}}
log: {{level: warning}}
completeness: {{quiet_seconds: {QUIET_SECONDS}}}
sources:
  - {{name: modalities, kind: dicom, port: {dicom_port}}}
destinations:
  - name: pacs
    kind: dicom
    ae_title: {peers.pacs.ae_title}
    host: 127.0.0.1
    port: {peers.pacs.dicom_port}
  - {{name: ehr, kind: fhir, url: "{peers.ehr.base_url}"}}
"""


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _is_ready(url):
        assert process.poll() is None, f"the hub ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"the hub is not ready:\n{log.read_text()}"
        time.sleep(0.1)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def _of(table: sa.Table, study_instance_uid: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(table).where(table.c.study_instance_uid == study_instance_uid)


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()
