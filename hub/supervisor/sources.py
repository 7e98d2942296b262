"""Sources are started again until they listen."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import structlog

from hub.errors import CaidxError, ConfigError
from hub.ports import Clock, Health, HealthState, Source
from hub.supervisor.faults import FIRST_DELAY, MAX_DELAY, fault_name

log = structlog.get_logger(__name__)


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
