"""The parent of all roles: ``caidx serve``."""

from __future__ import annotations

import sys
from functools import partial

from hub.bootstrap.receiver import run_receiver
from hub.config import Settings
from hub.registry import Components
from hub.supervisor.processes import RoleProcesses, Start


def role_processes(
    settings: Settings, components: Components, config_file: str | None
) -> RoleProcesses:
    """A receiver, an indexer, the workers, and the web role.

    The receiver is a copy of this process, with the configuration read: so it listens again a
    moment after it died.
    """
    program = [sys.executable, "-m", "hub"]
    options = ["--config", config_file] if config_file else []
    workers = [f"worker-{n + 1}" for n in range(settings.workers.count)]
    roles: dict[str, Start] = {"receiver": partial(run_receiver, settings, components)}
    for role in ("indexer", *workers, "web"):
        roles[role] = [*program, *options, "serve", "--role", role.partition("-")[0]]
    return RoleProcesses(roles)
