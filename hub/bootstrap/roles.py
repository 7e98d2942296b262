"""The parent of all roles: ``caidx serve``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from hub.config import Settings
from hub.supervisor.processes import RoleProcesses, Start

_SHARED = ("hub.bootstrap.hub", "hub.store.knowledge", "hub.supervisor.takeover")
"""What indexer, workers and web all load; threads none of it starts, and numpy, whose threads no
copy would have, is not among it."""


def role_processes(settings: Settings, run: Callable[[str], None]) -> RoleProcesses:
    """A receiver, an indexer, the workers, and the web role: copies of this process, in which
    ``run(role)`` runs the role of that name.

    The receiver comes first, with the configuration read and nothing else: so it listens a
    moment after this process began, and again a moment after it died.
    """
    workers = [f"worker-{number + 1}" for number in range(settings.workers.count)]
    roles: dict[str, Start] = {
        name: partial(run, name.partition("-")[0])
        for name in ("receiver", *workers, "web", "indexer")
    }
    return RoleProcesses(roles, after_first=_load_shared)


def _load_shared() -> None:
    for module in _SHARED:
        import_module(module)
