"""Receives the DICOM files that are moved into a folder.

A file counts as complete when it appears under its final name: write it beside the folder, or
under a name that begins with a dot, and rename it. What was received is moved to ``done/``,
what was refused to ``refused/``, with the reason in a text file beside it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from connectors.folder.config import FolderSourceConfig
from hub.errors import CaidxError, RejectedError, TransientError
from hub.formats.dicom.header import scan_header, split_part10
from hub.ports import (
    EndOfTransfer,
    Health,
    HealthState,
    ReceivedObject,
    Reception,
    Sender,
    SourceContext,
)

log = structlog.get_logger(__name__)


class FolderSource:
    """`hub.ports.Source` on a local folder. Each look into the folder is one transfer."""

    def __init__(self, config: FolderSourceConfig, context: SourceContext) -> None:
        self._folder = config.folder
        self._poll_interval = config.poll_interval
        self._context = context
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._health = Health(HealthState.STOPPED, "not started", context.clock.now())

    def start(self) -> None:
        """Watch the folder (see hub.ports.Source)."""
        try:
            for folder in (self._folder, self._folder / "done", self._folder / "refused"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TransientError(f"cannot make the drop folder: {error.strerror}") from error
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="folder-source", daemon=True)
        self._thread.start()
        self._set_health(HealthState.HEALTHY, "watching")

    def stop(self) -> None:
        """Finish the file at hand, then stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._set_health(HealthState.STOPPED, "stopped")

    def health(self) -> Health:
        return self._health

    def _set_health(self, state: HealthState, detail: str) -> None:
        self._health = Health(state, detail, self._context.clock.now())

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except (CaidxError, OSError) as error:
                log.warning("folder.look.failed", reason=type(error).__name__)
                self._set_health(HealthState.DEGRADED, f"trying again: {type(error).__name__}")
            else:
                if self._health.state is HealthState.DEGRADED:
                    self._set_health(HealthState.HEALTHY, "watching")
            self._stop.wait(self._poll_interval)

    def _look(self) -> None:
        """Receive all that lies in the folder, as one transfer."""
        paths = [path for path in sorted(self._folder.iterdir()) if _is_complete(path)]
        if not paths:
            return
        reception = self._context.intake.open(Sender(source=self._context.name))
        end = EndOfTransfer.ABORTED
        try:
            for path in paths:
                if self._stop.is_set():
                    return
                self._receive(path, reception)
            end = EndOfTransfer.RELEASED
        finally:
            reception.close(end)

    def _receive(self, path: Path, reception: Reception) -> None:
        try:
            reception.store(_as_received(path))
        except RejectedError as error:
            moved = _move(path, self._folder / "refused")
            moved.with_name(moved.name + ".reason.txt").write_text(f"{error}\n", encoding="utf-8")
            return
        _move(path, self._folder / "done")


def _is_complete(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()


def _as_received(path: Path) -> ReceivedObject:
    transfer_syntax_uid, data_set = split_part10(path.read_bytes())
    scan = scan_header(data_set, transfer_syntax_uid)
    return ReceivedObject(
        sop_class_uid=scan.sop_class_uid,
        sop_instance_uid=scan.sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        data_set=data_set,
    )


def _move(path: Path, folder: Path) -> Path:
    """Move a file into a folder, under a name that is still free there."""
    target, number = folder / path.name, 1
    while target.exists():
        target, number = folder / f"{path.name}.{number}", number + 1
    return path.rename(target)


def build_source(config: FolderSourceConfig, context: SourceContext) -> FolderSource:
    """`hub.ports.Connector.build_source`."""
    return FolderSource(config, context)
