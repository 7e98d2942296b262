"""The hub's one boundary for unexpected exceptions: they end here, by name.

They end in the log and in the record of the work that they interrupted. Their messages are not
kept, because the values in them may be patient data.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from hub.errors import CaidxError, IntegrityError, LeftToRecoveryError, TransientError

FIRST_DELAY, MAX_DELAY = 0.5, 30.0
"""Seconds: what fails is tried again after the first, and at the latest after the second."""

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


def run_to_the_end(run: Callable[[], None]) -> None:
    """All that a forked process does: what it raises goes to the log as the log writes errors,
    and not, as multiprocessing would have it, with its message to standard error.

    Raises:
        SystemExit: with status 1, after that.
    """
    try:
        run()
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


@dataclass(slots=True)
class Loop:
    """A function that runs again and again on a thread of its own, whatever it raises."""

    name: str
    turn: Callable[[], None]
    interval: float
    """Seconds between the end of a turn and the start of the next."""
    at_once: bool = False
    """The first turn does not wait."""
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
        delay = 0.0 if self.at_once else self.interval
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
