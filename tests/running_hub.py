"""The real program as child processes, with its peers: ``start_hub`` in a test.

``start_hub(orthanc=..., fhir_server=...)`` writes a configuration, runs ``python -m hub serve``
on free loopback ports and returns when it listens and its workers work. With
``supervised=False`` each role is a process of the test's own, so that one that is killed stays
dead until ``restart``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from pydicom.filereader import read_file_meta_info
from ruamel.yaml import YAML

from hub.bootstrap.clock import SystemClock
from hub.domain.access import Scope
from hub.errors import TransientError
from hub.store import workers
from hub.store.api_keys import KeyRing
from hub.store.database import Database, open_database, schema_version, sqlite_url
from hub.store.journal import Journal
from hub.store.overview import StudyTimeline, study_timeline
from tests.peers import dcmtk, free_port
from tests.peers.fhir_server import FhirServer
from tests.peers.orthanc import Orthanc

REPOSITORY = Path(__file__).resolve().parents[1]
COMPILED = REPOSITORY / "build" / "compiled"
"""Where the hubs of all tests keep compiled modules, as an installation does beside its modules:
the first start takes longer by what compiling takes."""
_NOT_COMPILED = "PYTHONDONTWRITEBYTECODE"
START_TIMEOUT = 180.0
STUDY_TIMEOUT = 180.0
"""Generous, for a loaded machine; whoever waits returns at once when all is well."""
STOP_TIMEOUT = 60.0
POLL_SECONDS = 0.05

PACS, EHR, RESULTS = "pacs", "ehr", "results"
"""Names of the destinations: Orthanc, the FHIR server, a folder."""
AE_TITLE = "CAIDX"
POOL_BYTES = 16 << 20
"""Less than the default: each start writes so many zeros."""

_OPEN_REQUESTS = ("queued", "running", "waiting", "retrying")
_OPEN_DELIVERIES = ("pending", "retrying", "confirming")

_STORESCU_OPTIONS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
"""Which option makes storescu propose a transfer syntax, so that it sends files as they are."""

Sections = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """What a test can choose."""

    orthanc: Orthanc | None = None
    """Becomes the destination ``pacs``: SR, SEG and encapsulated PDF by C-STORE."""
    fhir_server: FhirServer | None = None
    """Becomes the destination ``ehr``."""
    database_url: str | None = None
    """SQLAlchemy URL; None: the SQLite file in the data folder."""
    workers: int = 1
    supervised: bool = True
    """One ``caidx serve`` that starts the roles, and starts them again when they die."""
    roles: Sequence[str] = ("receiver", "indexer", "worker", "web")
    """Without supervision: the roles to start."""
    sections: Sections = field(default_factory=dict)
    """Top-level sections of the configuration that replace this module's."""
    environment: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the DICOM source."""
    further_sources: Sequence[Mapping[str, Any]] = ()
    """Whole sources beside it."""


class RunningHub:
    """One hub; ``stop``, ``kill``, ``start`` and ``restart`` keep its ports and its data."""

    def __init__(self, folder: Path, options: HubOptions) -> None:
        self.folder = folder
        self.options = options
        self.data = folder / "var"
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.http_url = f"http://127.0.0.1:{self.http_port}"
        self.config_file = folder / "caidx.yaml"
        self.temporary = folder / "tmp"
        """What the hub's processes use as the folder for temporary files."""
        self.database_url = options.database_url or sqlite_url(self.data / "caidx.sqlite")
        self._log = folder / "hub.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._database: Database | None = None
        self._keys: dict[tuple[Scope, str], str] = {}
        self.temporary.mkdir(parents=True, exist_ok=True)
        with self.config_file.open("w", encoding="utf-8") as file:
            YAML().dump(self._configuration(), file)

    # --- life ------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start what does not run, and return when all of it is ready, or at once."""
        for name, command in self._commands().items():
            if name not in self._processes:
                self._spawn(name, command)
        if wait:
            self.wait_until_ready()

    def stop(self) -> None:
        """End in an orderly way."""
        for process in self._processes.values():
            process.terminate()
        for name in list(self._processes):
            try:
                self._processes[name].wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{name} did not stop:\n{self.log_text()}") from None
            self._end_group(self._processes.pop(name))

    def kill(self, role: str = "all") -> None:
        """SIGKILL: everything, or one role's process (``worker-2``, ``receiver``, ``web``)."""
        if role == "all":
            for name in list(self._processes):
                self._end_group(self._processes.pop(name))
            return
        self.signal(role, signal.SIGKILL)
        if role in self._processes:
            self._end_group(self._processes.pop(role))

    def restart(self, role: str = "all") -> None:
        """Start again what was killed; without ``supervised`` also one role."""
        if role == "all":
            self.start()
            return
        assert role not in self._processes, f"{role} runs"
        self._spawn(role, self._commands()[role])

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to one role's process."""
        os.kill(self.pid(role), number)

    def pid(self, role: str) -> int:
        """Process of a role that runs now."""
        if role in self._processes:
            return self._processes[role].pid
        serve = psutil.Process(self._processes["serve"].pid)
        # The roles are copies of their parent, with its command line and a name of their own.
        found = [child.pid for child in serve.children() if _name(child) == role]
        assert found, f"no process of the role {role} runs"
        return found[0]

    def model_processes(self, role: str = "worker-1") -> list[psutil.Process]:
        """The processes in which a worker runs its models."""
        children = psutil.Process(self.pid(role)).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(_command_line(child))]

    def wait_until_ready(self) -> None:
        """Return when the tables are there, the source listens and all workers are at work."""
        wait_for(self.is_ready, "the hub to start", START_TIMEOUT, self.log_text)

    # --- in --------------------------------------------------------------------------------

    def send(
        self,
        paths: Path | Sequence[Path],
        *,
        aet: str = "STORESCU",
        options: Sequence[str] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Send DICOM files as they are, by DCMTK's storescu, in one association.

        All must have the same transfer syntax; one that storescu cannot propose is sent by
        dcmsend.
        """
        files = _files([paths] if isinstance(paths, Path) else paths)
        syntaxes = {transfer_syntax_of(file) for file in files}
        assert len(syntaxes) == 1, f"one association, one transfer syntax: {syntaxes}"
        option = _STORESCU_OPTIONS.get(syntaxes.pop())
        if option is None:
            return dcmtk.dcmsend(files, self.dicom_port, aet=aet, options=options, check=check)
        chosen = [option, *options]
        return dcmtk.storescu(files, self.dicom_port, aet=aet, options=chosen, check=check)

    # --- what became of it -------------------------------------------------------------------

    @property
    def database(self) -> Database:
        """The hub's database; tests read."""
        if self._database is None:
            self._database = open_database(self.database_url)
        return self._database

    def timeline(self, study_instance_uid: str) -> StudyTimeline | None:
        """Everything that happened to a study; None when nothing of it arrived."""
        return study_timeline(self.database, study_instance_uid)

    def wait_for_study(
        self,
        study_instance_uid: str,
        state: str = "settled",
        *,
        revision: int = 1,
        timeout: float = STUDY_TIMEOUT,
    ) -> StudyTimeline:
        """Return the timeline when a revision got so far.

        States: ``received``; ``routed``; ``answered``, every request ended in an answer or a
        dead letter; ``settled``, so did every delivery.
        """
        found: list[StudyTimeline] = []

        def reached() -> bool:
            timeline = self.timeline(study_instance_uid)
            found[:] = [timeline] if timeline is not None else []
            return timeline is not None and _reached(timeline, state, revision)

        what = f"study {study_instance_uid} to be {state}"
        wait_for(reached, what, timeout, lambda: f"{found}\n{self.log_text()}")
        return found[0]

    def rows(self, statement: str, **values: object) -> list[dict[str, Any]]:
        """Rows of an SQL query."""
        with self.database.read() as connection:
            done = connection.execute(sa.text(statement), values)
            return [dict(row) for row in done.mappings()]

    def log_text(self) -> str:
        """Standard output and standard error of every process so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def get(self, path: str, scope: Scope = Scope.OPERATOR) -> httpx.Response:
        """A request to the web role, with a key. Loading the system's certificates for each would
        take longer than the answer."""
        url, headers = self.http_url + path, self.headers(scope)
        return httpx.get(url, timeout=60, headers=headers, verify=False)  # noqa: S501 - no TLS

    def headers(self, scope: Scope) -> dict[str, str]:
        """What opens the HTTP server's door."""
        return {"Authorization": f"Bearer {self.key(scope)}"}

    def key(self, scope: Scope, vendor: str = "") -> str:
        """A key of this hub, made when it is first asked for: operators of the hub use
        ``caidx key create``."""
        if (scope, vendor) not in self._keys:
            name = f"test-{scope}-{len(self._keys)}"
            ring = KeyRing(self.database, Journal(SystemClock(), "user:test"))
            self._keys[scope, vendor] = ring.create(name, scope, vendor)[1]
        return self._keys[scope, vendor]

    def caidx(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the hub's own command line, with its configuration."""
        done = subprocess.run(
            [*self._program(), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self._environment(),
            timeout=START_TIMEOUT,
        )
        if check:
            assert done.returncode == 0, f"caidx {arguments} failed:\n{done.stdout}{done.stderr}"
        return done

    # --- how ---------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether the source listens, and the tables and as many workers as wanted are there."""
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended at once:\n{self.log_text()}"
        running = self._processes
        supervised = "serve" in running
        if (supervised or "receiver" in running) and not _listens(self.dicom_port):
            return False
        if (supervised or "web" in running) and not _listens(self.http_port):
            return False
        workers_of_ours = sum(name.startswith("worker") for name in running)
        wanted = self.options.workers if supervised else workers_of_ours
        return self._has_tables() and self._alive_workers() >= wanted

    def _has_tables(self) -> bool:
        if self.options.database_url is None and not (self.data / "caidx.sqlite").exists():
            return False
        with suppress(TransientError):
            return len(set(schema_version(self.database))) == 1
        return False

    def _alive_workers(self) -> int:
        with suppress(TransientError), self.database.read() as connection:
            present = workers.present(connection, "worker")
            return sum(psutil.pid_exists(process.pid) for process, _ in present)
        return 0

    def _program(self) -> list[str]:
        return [sys.executable, "-m", "hub", "--config", str(self.config_file)]

    def _commands(self) -> dict[str, list[str]]:
        if self.options.supervised:
            return {"serve": [*self._program(), "serve"]}
        numbered = [f"worker-{n + 1}" for n in range(self.options.workers)]
        names = [
            name
            for role in self.options.roles
            for name in (numbered if role == "worker" else [role])
        ]
        return {
            name: [*self._program(), "serve", "--role", name.partition("-")[0]] for name in names
        }

    def _spawn(self, name: str, command: list[str]) -> None:
        with self._log.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        chosen = self.options.environment
        inherited = {name: value for name, value in os.environ.items() if name != _NOT_COMPILED}
        compiled = {"PYTHONPYCACHEPREFIX": str(COMPILED)}
        return {**inherited, **compiled, "TMPDIR": str(self.temporary), **chosen}

    @staticmethod
    def _end_group(process: subprocess.Popen[bytes]) -> None:
        """The process and all that it started: they are a group of their own. Returns when all
        are gone, and so are their ports."""
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT)
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(_holds_something(child) for child in children):
            assert time.monotonic() < deadline, "a killed process did not end"
            time.sleep(0.002)

    def _configuration(self) -> dict[str, Any]:
        url = self.options.database_url
        source = {"name": "dicom", "kind": "dicom", "ae_title": AE_TITLE, "port": self.dicom_port}
        source |= self.options.source
        retry = {"first_delay": 0.5, "factor": 1.5, "max_delay": 2.0, "attempts": 200}
        return {
            "data": str(self.data),
            **({"database": {"url": url}} if url else {}),
            "sources": [source, *self.options.further_sources],
            "destinations": self._destinations(),
            "completeness": {"quiet_seconds": 0.5, "straggler_seconds": 3.0},
            "delivery": retry,
            "workers": {"count": self.options.workers, "heartbeat_seconds": 1.0},
            "log": {"level": "debug"},
            "storage": {"pool_bytes": POOL_BYTES},
            **self.options.sections,
            "web": {"port": self.http_port, **self.options.sections.get("web", {})},
        }

    def _destinations(self) -> list[dict[str, Any]]:
        orthanc, fhir_server = self.options.orthanc, self.options.fhir_server
        found: list[dict[str, Any]] = []
        if orthanc is not None:
            address = {"host": "127.0.0.1", "port": orthanc.dicom_port}
            found.append({"name": PACS, "kind": "dicom", "ae_title": orthanc.ae_title, **address})
        if fhir_server is not None:
            found.append({"name": EHR, "kind": "fhir", "url": fhir_server.base_url})
        return found or [{"name": RESULTS, "kind": "folder", "folder": str(self.data / RESULTS)}]

    def close(self) -> None:
        """End everything at once and let go of the database."""
        self.kill()
        if self._database is not None:
            self._database.close()
            self._database = None


def launch_hub(folder: Path, **options: Any) -> RunningHub:
    """Start a hub in a folder of its own; whoever calls closes it. See `HubOptions`."""
    hub = RunningHub(folder, HubOptions(**options))
    try:
        hub.start()
    except BaseException:
        hub.close()
        raise
    return hub


StartHub = Callable[..., RunningHub]


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[StartHub]:
    """``start_hub(**HubOptions)``; every hub that it started ends with the test."""
    started: list[RunningHub] = []

    def start(**options: Any) -> RunningHub:
        folder = tmp_path / f"hub-{len(started) + 1}"
        folder.mkdir()
        started.append(launch_hub(folder, **options))
        return started[-1]

    yield start
    for hub in started:
        hub.close()


def wait_for(
    reached: Callable[[], bool],
    what: str,
    timeout: float = STUDY_TIMEOUT,
    explain: Callable[[], str] = str,
) -> None:
    """Poll until a condition holds; fail with an explanation at the deadline."""
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}:\n{explain()}")
        time.sleep(POLL_SECONDS)


def transfer_syntax_of(file: Path) -> str:
    """Transfer Syntax UID of a Part 10 file."""
    return str(read_file_meta_info(file).TransferSyntaxUID)


def _files(paths: Sequence[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (sorted(path.rglob("*.dcm")) if path.is_dir() else [path])
    ]


def _reached(timeline: StudyTimeline, state: str, revision: int) -> bool:
    row = next((row for row in timeline.revisions if row.revision == revision), None)
    if row is None:
        return False
    if state == "received":
        return True
    if row.state != "routed":
        return False
    answered = all(request.state not in _OPEN_REQUESTS for request in timeline.requests)
    delivered = all(delivery.state not in _OPEN_DELIVERIES for delivery in timeline.deliveries)
    return {"routed": True, "answered": answered, "settled": answered and delivered}[state]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _holds_something(process: psutil.Process) -> bool:
    """One that ended holds no port, file or lock any more, also before somebody has asked for its
    exit status: whoever inherited it may take a second for that. But its first thread may have
    ended before the others."""
    with suppress(psutil.NoSuchProcess):
        has_ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return bool(process.is_running() and not has_ended)
    return False


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def _command_line(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []
