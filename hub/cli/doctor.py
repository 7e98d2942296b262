"""``caidx doctor``: is everything there that the hub needs, before somebody depends on it."""

from __future__ import annotations

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import typer

from hub.bootstrap.archives import build_archives
from hub.bootstrap.hub import Hub, open_hub
from hub.bootstrap.models import build_adapters, load_registry
from hub.cli.actor import actor
from hub.cli.session import Json, Session, session_of
from hub.config import WebSettings
from hub.errors import CaidxError, TransientError
from hub.ports import Archive, Destination
from hub.store import workers
from hub.store.api_keys import KeyRing, KeyState
from hub.store.database import schema_version
from hub.supervisor.processes import process_is_alive, this_process

_LOW_DISK_BYTES = 10 * 1024**3
_NO_DISK_BYTES = 1024**3
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
_CLOCK_JUMP_SECONDS = 0.5

_ROLES = ("receiver", "indexer", "worker")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    """ok, warning or failed."""
    detail: str


def doctor(context: typer.Context, *, as_json: Json = False) -> None:
    """Check ports, disk, database, models, destinations, archives and clock. Exit status 1 if
    anything that the hub cannot do without is missing."""
    session = session_of(context)
    findings = list(_look(session))
    if as_json:
        session.print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.what, finding.state, finding.detail) for finding in findings]
        session.print_table("", ("checked", "state", "detail"), rows, "")
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def _look(session: Session) -> Iterator[Finding]:
    settings = session.settings
    yield Finding("configuration", "ok", settings.file)
    for part in session.components.unavailable:
        yield Finding(f"{part.group} {part.kind}", "warning", f"{part.distribution}: {part.reason}")
    yield _disk(settings.data)
    yield _clock()
    hub = open_hub(settings, session.components)
    try:
        receiver_runs = yield from _database(hub)
        yield from _ports(session, receiver_runs=receiver_runs)
        yield from _models_and_destinations(hub)
    finally:
        hub.close()


def _disk(data: Path) -> Finding:
    try:
        data.mkdir(parents=True, exist_ok=True)
        probe = data / ".caidx-doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("data directory", "failed", f"{data}: {error.strerror}")
    free = shutil.disk_usage(data).free
    state = "failed" if free < _NO_DISK_BYTES else "warning" if free < _LOW_DISK_BYTES else "ok"
    return Finding("data directory", state, f"{data.absolute()}, {free / 1024**3:.0f} GiB free")


def _clock() -> Finding:
    """A clock that is years off, or that jumps, spoils completeness, audit and FHIR times."""
    wall, steady = time.time(), time.monotonic()
    now = datetime.now(UTC)
    time.sleep(0.05)
    jump = abs((time.time() - wall) - (time.monotonic() - steady))
    if now < _EARLIEST:
        return Finding("clock", "failed", f"{now:%Y-%m-%d} is in the past")
    if jump > _CLOCK_JUMP_SECONDS:
        return Finding("clock", "warning", f"it jumped by {jump:.1f} s while we looked")
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _database(hub: Hub) -> Generator[Finding, None, bool]:
    """Yields findings; returns whether a receiver of this host runs on this database."""
    kind = "SQLite" if hub.database.is_sqlite else "PostgreSQL"
    try:
        found, needed = schema_version(hub.database)
        if found != needed:
            detail = f"{kind}, schema {found or 'none yet'}; `caidx serve` brings it to {needed}"
            yield Finding("database", "warning", detail)
            return False
        yield Finding("database", "ok", f"{kind}, schema {found}")
        with hub.database.read() as connection:
            present = {role: workers.present(connection, role) for role in _ROLES}
    except TransientError as error:
        yield Finding("database", "failed", f"{kind}: {error}")
        return False
    alive = {
        role: [process for process, _ in processes if process_is_alive(process) is not False]
        for role, processes in present.items()
    }
    for role, processes in alive.items():
        detail = f"{len(processes)} running" if processes else "not running"
        yield Finding(role, "ok", detail)
    yield _keys(hub)
    return any(process_is_alive(process) for process in alive["receiver"])


def _ports(session: Session, *, receiver_runs: bool) -> Iterator[Finding]:
    for source in session.settings.sources:
        host, port = getattr(source.options, "host", None), getattr(source.options, "port", None)
        if isinstance(host, str) and isinstance(port, int):
            yield _port(f"source {source.name}", host, port, lambda: receiver_runs)
    web = session.settings.web
    yield _port("web", web.host, web.port, lambda: _is_our_web(web))
    if web.exposure:
        yield Finding("web", "warning", web.exposure)


def _port(what: str, host: str, port: int, is_ours: Callable[[], bool]) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if is_ours():
                return Finding(what, "ok", f"{host}:{port} is this hub")
            return Finding(what, "failed", f"{host}:{port}: {error.strerror}")
    return Finding(what, "ok", f"{host}:{port} is free")


def _is_our_web(web: WebSettings) -> bool:
    if web.tls is not None:
        return _shows(web.host, web.port, web.tls.certificate)
    try:
        answer = httpx.get(f"http://{web.host}:{web.port}/health/live", timeout=2.0)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK and "live" in answer.text


def _shows(host: str, port: int, certificate: Path) -> bool:
    """Whether whoever listens there has this certificate (PEM) and its key."""
    try:
        shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, port), timeout=2.0))
        ours = certificate.read_text("ascii").partition(ssl.PEM_FOOTER)[0] + ssl.PEM_FOOTER
        return shown == ssl.PEM_cert_to_DER_cert(ours[ours.index(ssl.PEM_HEADER) :])
    except (OSError, ValueError):
        return False


def _keys(hub: Hub) -> Finding:
    """Without any, nobody can use the HTTP server."""
    keys = KeyRing(hub.database, hub.journal(actor())).all()
    active = sum(key.state is KeyState.ACTIVE for key in keys)
    if not active:
        return Finding("keys", "ok", "none: the HTTP server is closed; `caidx key create`")
    return Finding("keys", "ok", f"{active} open the HTTP server")


def _models_and_destinations(hub: Hub) -> Iterator[Finding]:
    adapters = build_adapters(hub)
    try:
        registry = load_registry(hub, adapters)
        for model_id, model in registry.models.items():
            yield Finding(f"model {model_id}", "ok", f"version {model.package.card.version}")
        for model_id, reason in registry.broken_models.items():
            yield Finding(f"model {model_id}", "failed", reason)
        for name, running in registry.destinations.items():
            yield _asked(f"destination {name}", running.destination)
        for name, archive in build_archives(hub, this_process("doctor")).by_name.items():
            yield _asked(f"archive {name}", archive)
    finally:
        for adapter in adapters.values():
            adapter.close()


def _asked(what: str, peer: Destination | Archive) -> Finding:
    try:
        return Finding(what, "ok", peer.check())
    except CaidxError as error:
        return Finding(what, "failed", str(error))
    finally:
        peer.close()
