"""The host's clock."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """The host's clock (hub.ports.Clock)."""

    def now(self) -> datetime:
        return datetime.now(UTC)
