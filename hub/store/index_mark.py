"""How far the index goes: everything received before this moment is in it.

Completeness goes by this mark and not by the clock alone: after a crash, a study whose quiet time
is over may still have images in the logs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hub.errors import TransientError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class IndexMark:
    """The modification time of a file, so that it costs nothing and survives its writer; a power
    cut may take it back, never forward."""

    path: Path

    def get(self) -> datetime:
        """Everything received before this is in the index; 1970 where nothing is known."""
        try:
            modified = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return _EPOCH
        return _EPOCH + timedelta(microseconds=modified // 1000)

    def set(self, at: datetime) -> None:
        """Raises:
        TransientError: it cannot be written now.
        """
        nanoseconds = (at - _EPOCH) // timedelta(microseconds=1) * 1000
        try:
            try:
                os.utime(self.path, ns=(nanoseconds, nanoseconds))
            except FileNotFoundError:  # nobody may see it with the time of its making
                made = self.path.with_suffix(".making")
                made.touch(mode=0o600)
                os.utime(made, ns=(nanoseconds, nanoseconds))
                made.rename(self.path)
        except OSError as error:
            raise TransientError(f"cannot write a mark: {error.strerror}") from error


def index_mark(root: Path) -> IndexMark:
    """The mark of an object store (``<data>/objects``)."""
    return IndexMark(root / "indexed")
