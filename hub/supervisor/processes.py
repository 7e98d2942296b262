"""The processes of the hub: who they are, and how their parent keeps them running."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from hub.domain.process import ProcessIdentity
from hub.supervisor.faults import run_to_the_end

_PARENT, _PARENT_SECONDS = "CAIDX_PARENT_PID", 0.5
_KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 512 << 20),
}
"""Environment variable -> (option of mallopt(3), value) for glibc's malloc in the children, unless
the environment says otherwise: the next study needs as much memory as the last one, and pages that
went back to the system are cleared again one by one, which is three quarters of the time that
encoding a segmentation takes."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's library of linear algebra starts its threads when it is loaded, and spins in them; what
the hub gives it is too small for more than one."""
_LONGEST_NAME = 15
"""Of a process (proc(5), /proc/<pid>/comm)."""

log = structlog.get_logger(__name__)


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


def settle_after_start() -> None:
    """What was loaded for the start stays to the end: the collector of cycles, which the start
    went without, begins its work, and does not look at it again."""
    gc.freeze()
    gc.enable()


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


class Child(Protocol):
    """A child process, whichever way it was started."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> int:
        """Raises:
        subprocess.TimeoutExpired: it still runs.
        """
        ...


class ForkedChild:
    """A copy of this process that runs one function: there at once, with all that is loaded here.

    Only for a parent without other threads, as that of the roles is.
    """

    def __init__(self, role: str, run: Callable[[], None]) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_run_forked, args=(role, run), name=role)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode


def _run_forked(role: str, run: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(_environment(os.getppid()))
    with suppress(OSError):  # only Linux has it, and it is for those who look
        Path("/proc/self/comm").write_text(role[:_LONGEST_NAME])
    run_to_the_end(run)


def _environment(parent: int) -> dict[str, str]:
    """Of a child."""
    malloc = {name: str(value) for name, (_, value) in _KEEP_FREED_MEMORY.items()}
    return malloc | _ONE_THREAD | os.environ | {_PARENT: str(parent)}


def keep_freed_memory() -> None:
    """For a role that works on whole studies; the receiver gives its memory back. The variables
    are read when a program begins, and a copy of this one has begun already."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc and musl; macOS has none
    if mallopt is not None:
        for name, (option, value) in _KEEP_FREED_MEMORY.items():
            mallopt(option, int(os.environ.get(name, value)))


Start = Sequence[str] | Callable[[], None]
"""A command line, or a function to run in a copy of this process."""

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
_QUICK_DEATH = 2.0
"""Seconds: a role that ends sooner by itself would end again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


@dataclass(slots=True)
class RoleProcesses:
    """The child processes of ``caidx serve``: one per role, started again when they die.

    One that was killed starts again at once; one that ends by itself soon after its start has to
    wait, a little longer each time.
    """

    roles: Mapping[str, Start]
    """In the order in which they start."""
    grace_seconds: float = 15.0
    after_first: Callable[[], None] | None = None
    """Called once, when the first role was started: loads what the others, being copies of this
    process, then need not load each by itself. Must leave no thread and nothing open."""
    _children: dict[str, Child] = field(default_factory=dict)
    _descriptors: dict[int, str] = field(default_factory=dict)
    """Descriptor of a child's process (pidfd_open(2)), readable when it ended -> role."""
    _started: dict[str, float] = field(default_factory=dict)
    _pauses: dict[str, float] = field(default_factory=dict)
    _start_at: dict[str, float] = field(default_factory=dict)
    """Roles that wait for their next start."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then the children get time to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self._start_all()
        while not self._stop.is_set():
            self._wait_for_a_death(0.1)
            for role, child in list(self._children.items()):
                if child.poll() is not None:
                    self._died(role, child.poll() or 0)
            for role, moment in list(self._start_at.items()):
                if time.monotonic() >= moment:
                    self._start(role)
        self._end()

    def _start_all(self) -> None:
        for number, role in enumerate(self.roles):
            if number == 1 and self.after_first is not None:
                self.after_first()
                gc.freeze()  # so that no copy's collector writes to the pages that they share
            if not self._stop.is_set():
                self._start(role)

    def _wait_for_a_death(self, longest: float) -> None:
        ready, _, _ = select.select(list(self._descriptors), [], [], longest)
        for descriptor in ready:
            del self._descriptors[descriptor]
            os.close(descriptor)

    def _start(self, role: str) -> None:
        self._start_at.pop(role, None)
        start = self.roles[role]
        if callable(start):
            child: Child = ForkedChild(role, start)
        else:
            child = subprocess.Popen(list(start), env=_environment(os.getpid()))
        self._children[role] = child
        self._started[role] = time.monotonic()
        with suppress(ProcessLookupError):  # it is gone already: the next look finds it
            self._descriptors[os.pidfd_open(child.pid)] = role

    def _died(self, role: str, returncode: int) -> None:
        del self._children[role]
        lived = time.monotonic() - self._started[role]
        log.error("role.died", role=role, returncode=returncode, lived_seconds=round(lived, 1))
        if returncode in _FROM_OUTSIDE or lived > _QUICK_DEATH:
            self._pauses.pop(role, None)
            self._start_at[role] = time.monotonic()
        else:
            pause = min(self._pauses.get(role, _FIRST_PAUSE / 2) * 2, _LONGEST_PAUSE)
            self._pauses[role] = pause
            self._start_at[role] = time.monotonic() + pause

    def _end(self) -> None:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + self.grace_seconds
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(_QUICK_DEATH)
