"""``caidx model register | activate | suspend | retire``: models come, and are stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hub.bootstrap.hub import Hub
from hub.bootstrap.model_register import ModelRegister, register_of
from hub.bootstrap.registration import registrar
from hub.cli.actor import actor
from hub.cli.session import Session, session_of
from hub.formats.manifest.package_archive import PackageArchive, looks_like_archive
from hub.registration import Registrar
from hub.store.package_store import Offered, OfferedArchive, OfferedFolder, OfferedManifest
from hub.store.packages import MAXIMUM_MANIFEST_BYTES
from hub.store.registrations import Registration

_Id = Annotated[str, typer.Argument(metavar="ID", help="Of the model.")]
_Version = Annotated[str, typer.Option("--version", metavar="V", help="Else the one in question.")]
_Sha256 = Annotated[str, typer.Option("--sha256", metavar="H", help="Or how its digest begins.")]
_Reason = Annotated[str, typer.Option("--reason", "-r", help="Stands in the audit log.")]


def register(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="DIR|FILE", exists=True)],
    *,
    activate_it: Annotated[
        bool, typer.Option("--activate", help="Let routes use it at once; needs a reason.")
    ] = False,
    reason: _Reason = "",
) -> None:
    """Check a model package, and keep it: a folder or a ZIP file with `model.yaml`, or that file
    alone where somebody else runs the model.

    Every mistake is told with its line, and nothing is kept then. The model is loaded once, in a
    process of its own. `caidx model activate` lets routes use it.
    """
    session = session_of(context)
    if activate_it and not reason.strip():
        raise typer.BadParameter("--activate needs a reason", param_hint="--reason")
    with session.hub() as hub:
        known, registrar_ = _registrar(hub)
        with _offered(path, session.settings.registration.maximum_package_mib << 20) as offered:
            registration, is_new = registrar_.register(offered, reason)
        said = "is registered" if is_new else f"was registered before, and is {registration.state}"
        session.out.print(f"{registration.model} {said} ({registration.model.sha256})")
        if activate_it:
            model = known.find(registration.model.model_id, sha256=registration.model.sha256)
            _tell(session, *registrar_.activate(known.package(model), reason))


def activate(
    context: typer.Context,
    model_id: _Id,
    *,
    version: _Version = "",
    sha256: _Sha256 = "",
    reason: _Reason,
) -> None:
    """Let routes use a version of a model, in place of the one that was active.

    Without `--version`: the suspended one, or the last that was registered. It is loaded once more
    before. Requests that wait for the version before are still answered by that one.
    """
    session = session_of(context)
    with session.hub() as hub:
        known, registrar_ = _registrar(hub)
        found = known.find_to_activate(model_id, version, sha256)
        _tell(session, *registrar_.activate(known.package(found), reason))


def suspend(context: typer.Context, model_id: _Id, *, reason: _Reason) -> None:
    """Stop a model at once, in every process: nothing is asked of it until a person activates it.

    Requests that wait for it end as failed (`caidx request retry` asks again); an answer that it
    is working on is quarantined.
    """
    session = session_of(context)
    with session.hub() as hub:
        known, registrar_ = _registrar(hub)
        found = known.find(model_id)
        _tell(session, *registrar_.suspend(found.key, found.vendor, reason))


def retire(
    context: typer.Context,
    model_id: _Id,
    *,
    version: _Version = "",
    sha256: _Sha256 = "",
    reason: _Reason,
) -> None:
    """Stop a version of a model for good: it cannot be activated or registered again."""
    session = session_of(context)
    with session.hub() as hub:
        known, registrar_ = _registrar(hub)
        found = known.find(model_id, version, sha256)
        _tell(session, *registrar_.retire(found.key, found.vendor, reason))


def _registrar(hub: Hub) -> tuple[ModelRegister, Registrar]:
    known = register_of(hub)
    return known, registrar(hub, known, hub.journal(actor()))


def _tell(session: Session, registration: Registration, is_new: bool) -> None:  # noqa: FBT001
    said = "is" if is_new else "was before, and stays,"
    session.out.print(f"{registration.model} {said} {registration.state}")


@contextmanager
def _offered(path: Path, maximum_bytes: int) -> Iterator[Offered]:
    """A folder, a ZIP file, or `model.yaml` alone."""
    if path.is_dir():
        yield OfferedFolder(path)
        return
    with path.open("rb") as file:
        start = file.read(MAXIMUM_MANIFEST_BYTES + 1)
        if looks_like_archive(start):
            archive = PackageArchive(file, str(path), maximum_bytes=maximum_bytes)
            yield OfferedArchive(archive)
        else:
            yield OfferedManifest(start)
