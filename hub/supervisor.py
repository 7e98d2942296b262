"""Keeps the parts of the hub running, each on its own.

Two levels. Inside a process: sources are started again with backoff, loops go on after a fault,
a job's fault is recorded and costs nothing but that attempt. Between processes: the parent
starts one child per role and starts the one that died again.

This file is the hub's one boundary for unexpected exceptions: they end here, by name, in the log
and in the record of the work that they interrupted. Their messages are not kept, because the
values in them may be patient data.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import structlog

from hub.durable import Engine, LeftToRecoveryError
from hub.errors import CaidxError, ConfigError, IntegrityError, TransientError
from hub.ports import Clock, Health, HealthState, Source
from hub.store import studies, workers
from hub.store.database import Database
from hub.store.intake import StudyIntake, adopt_open_associations
from hub.store.workers import ProcessIdentity

FIRST_DELAY, MAX_DELAY = 0.5, 30.0
_PARENT, _PARENT_SECONDS = "CAIDX_PARENT_PID", 0.5
_KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}
"""For glibc's malloc in the children, unless the environment says otherwise: the next study needs
as much memory as the last one, and pages that went back to the system are cleared again one by
one, which is three quarters of the time that encoding a segmentation takes."""

log = structlog.get_logger(__name__)


def fault_name(error: BaseException) -> str:
    """What may be said of an unexpected exception: its class and where it was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    module = place.tb_frame.f_globals.get("__name__", "?")
    return f"{type(error).__name__} in {module}:{place.tb_lineno}"


def this_process(role: str) -> ProcessIdentity:
    """Who we are, for everyone who shares the database."""
    host = socket.gethostname()
    started = _start_time(os.getpid())
    return ProcessIdentity(
        executor_id=f"{host}:{role}:{os.getpid()}:{started}:{uuid.uuid4().hex[:8]}",
        host_identity=_host_identity(),
        pid=os.getpid(),
        process_started=started,
    )


def process_is_alive(process: ProcessIdentity) -> bool | None:
    """Whether a process of this host still runs; None for one of another host."""
    if process.host_identity != _host_identity():
        return None
    return _start_time(process.pid) == process.process_started


def _host_identity() -> str:
    """Process numbers mean something only within one boot and one PID namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _start_time(pid: int) -> str:
    """Clock ticks since boot (proc(5), /proc/<pid>/stat field 22); empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    is_zombie = fields[0] == "Z"
    return "" if is_zombie else fields[19]


def isolated(
    work: Callable[[str], None],
    on_fault: Callable[[str, str], None],
    stopping: threading.Event,
) -> Callable[[str], None]:
    """A job that always ends in a record.

    When the hub's own database is away the job waits and runs again (it is idempotent); any other
    fault is given to ``on_fault(argument, reason)``, which records it.

    Raises:
        LeftToRecoveryError: the process stops; whoever takes over runs the job again.
        IntegrityError: even recording the fault failed; the engine keeps the job as an error,
            with this message in its tables and not that of the fault.
    """

    def run(argument: str) -> None:
        fault = ""
        delay = FIRST_DELAY
        while True:
            try:
                if fault:
                    on_fault(argument, f"fault of the hub: {fault}")
                else:
                    work(argument)
            except TransientError as error:
                log.warning("job.waits", reason=str(error))
                if stopping.wait(delay):
                    raise LeftToRecoveryError from None
                delay = min(delay * 2, MAX_DELAY)
            except Exception as error:
                if fault:
                    message = f"{fault} could not be recorded: {fault_name(error)}"
                    raise IntegrityError(message) from None
                fault = fault_name(error)
                log.error("job.fault", error=fault)  # noqa: TRY400 - a trace may show patient data
            else:
                return

    return run


@dataclass(slots=True)
class Loop:
    """A function that runs again and again on a thread of its own, whatever it raises."""

    name: str
    turn: Callable[[], None]
    interval: float
    """Seconds between the end of a turn and the start of the next."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        delay = self.interval
        while not self._stop.wait(delay):
            try:
                self.turn()
                delay = self.interval
            except CaidxError as error:
                log.warning("loop.fault", loop=self.name, reason=str(error))
                delay = min(max(delay, FIRST_DELAY) * 2, MAX_DELAY)
            except Exception as error:
                log.error("loop.fault", loop=self.name, error=fault_name(error))  # noqa: TRY400
                delay = min(max(delay, FIRST_DELAY) * 2, MAX_DELAY)


@dataclass(slots=True)
class SupervisedSource:
    """Starts a source again, with backoff, until it listens; its health says why not."""

    name: str
    source: Source
    clock: Clock
    _fault: Health | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"start-{self.name}", daemon=True)
        self._thread.start()

    def health(self) -> Health:
        return self._fault or self.source.health()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self.source.stop()

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._stop.is_set():
            try:
                self.source.start()
            except ConfigError as error:
                self._failed(HealthState.FAILED, str(error))
                return
            except CaidxError as error:
                self._failed(HealthState.STARTING, str(error))
            except Exception as error:
                self._failed(HealthState.STARTING, fault_name(error))
            else:
                self._fault = None
                log.info("source.listens", source=self.name)
                return
            self._stop.wait(delay)
            delay = min(delay * 2, MAX_DELAY)

    def _failed(self, state: HealthState, detail: str) -> None:
        log.warning("source.not-started", source=self.name, reason=detail)
        self._fault = Health(state, detail, self.clock.now())


@dataclass(frozen=True, slots=True)
class Takeover:
    """Signs of life of this process, and the end of those that give none."""

    database: Database
    process: ProcessIdentity
    clock: Clock
    silence: timedelta
    """Without a sign of life for so long, a process of another host is dead."""

    def register(self, role: str) -> None:
        """Begin to hold work."""
        with self.database.write() as connection:
            workers.register(connection, self.process, role, self.clock.now())

    def beat(self, health: Mapping[str, Health]) -> None:
        """Still here, and this is how our components are."""
        with self.database.write() as connection:
            workers.beat(connection, self.process.executor_id, health, self.clock.now())

    def leave(self) -> None:
        """Nothing is held any more."""
        with self.database.write() as connection:
            workers.mark_gone(connection, self.process.executor_id, self.clock.now())

    def dead(self, role: str, holders: Collection[str] = ()) -> list[ProcessIdentity]:
        """Processes of a role that died without leaving, or left while they held work.

        ``holders`` are the executors that hold work: one that had been given up for dead may
        have woken up, begun something, and died before its next sign of life.
        """
        limit = self.clock.now() - self.silence
        with self.database.read() as connection:
            present = workers.present(connection, role, holders)
        return [
            process
            for process, seen_at in present
            if process.executor_id != self.process.executor_id
            and (process_is_alive(process) is False or seen_at < limit)
        ]

    def take_over_jobs(self, engine: Engine) -> None:
        """Put the jobs of dead workers back into their queues."""
        for process in self.dead("worker", engine.holders()):
            jobs = engine.take_over(process.executor_id)
            with self.database.write() as connection:
                workers.mark_gone(connection, process.executor_id, self.clock.now())
            log.warning("worker.taken-over", executor_id=process.executor_id, jobs=jobs)

    def take_over_transfers(self, intake: StudyIntake) -> None:
        """Close the transfers that dead receivers left open."""
        with self.database.read() as connection:
            holders = studies.receivers_with_open_associations(connection)
        for process in self.dead("receiver", holders):
            transfers = adopt_open_associations(intake, process.executor_id)
            with self.database.write() as connection:
                workers.mark_gone(connection, process.executor_id, self.clock.now())
            log.warning("receiver.taken-over", executor_id=process.executor_id, transfers=transfers)


def end_with_parent() -> None:
    """A role that ``caidx serve`` started ends when that process dies, however it dies: nobody
    else would start it again, and it would hold its ports."""
    parent = os.environ.get(_PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass(slots=True)
class RoleProcesses:
    """The child processes of ``caidx serve``: one per role, started again when they die."""

    commands: Mapping[str, Sequence[str]]
    """Role -> command line."""
    grace_seconds: float = 15.0
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then the children get time to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        for role in self.commands:
            self._start(role)
        while not self._stop.wait(0.1):
            for role, child in list(self._children.items()):
                if child.poll() is not None:
                    self._restart(role, child.returncode)
        self._end()

    def _start(self, role: str) -> None:
        environment = _KEEP_FREED_MEMORY | os.environ | {_PARENT: str(os.getpid())}
        self._children[role] = subprocess.Popen(list(self.commands[role]), env=environment)
        self._started[role] = time.monotonic()

    def _restart(self, role: str, returncode: int) -> None:
        lived = time.monotonic() - self._started[role]
        log.error("role.died", role=role, returncode=returncode, lived_seconds=round(lived, 1))
        if lived < FIRST_DELAY * 4:  # it dies at once: do not spin
            self._stop.wait(FIRST_DELAY * 4)
        if not self._stop.is_set():
            self._start(role)

    def _end(self) -> None:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + self.grace_seconds
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
