"""Builds what registers models; and the trial load that every model has to pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hub.bootstrap.adapters import Adapters, adapter_context, adapter_kind
from hub.bootstrap.hub import Hub
from hub.bootstrap.model_register import ModelRegister
from hub.bootstrap.models import load_one, package_store
from hub.domain.access import Principal, Scope
from hub.errors import TransientError
from hub.ports import ModelPackage
from hub.registration import Registrar
from hub.store.disk import make_folder
from hub.store.journal import Journal
from hub.store.registrations import RegistrationLedger


@dataclass(frozen=True, slots=True)
class ModelDesk:
    """Where models are registered and looked up, for the web role."""

    hub: Hub
    register: ModelRegister

    @property
    def maximum_bytes(self) -> int:
        """The largest package."""
        return package_store(self.hub.settings).maximum_bytes

    def must_have_room(self) -> None:
        """Raises:
        TransientError: images will need what is left of the disk.
        """
        package_store(self.hub.settings).must_have_room()

    @property
    def folder(self) -> Path:
        """Where an upload may wait: on the disk that keeps the packages."""
        folder = package_store(self.hub.settings).root
        make_folder(folder)
        return folder

    def registrar(self, principal: Principal) -> Registrar:
        """In the name of whoever asks; a vendor has to do with its own models only."""
        journal = self.hub.journal(principal.actor)
        vendor = principal.vendor if principal.scope is Scope.VENDOR else ""
        return registrar(self.hub, self.register, journal, only_vendor=vendor)


def registrar(
    hub: Hub, register: ModelRegister, journal: Journal, *, only_vendor: str = ""
) -> Registrar:
    """Registers models in the name of the journal's actor."""
    return Registrar(
        ledger=RegistrationLedger(hub.database, journal),
        packages=package_store(hub.settings),
        try_out=lambda package: try_out(hub, package),
        configured=register.configured,
        only_vendor=only_vendor,
    )


def try_out(hub: Hub, package: ModelPackage) -> None:
    """Load a model in an adapter of its own, which is closed again: in a process of its own where
    models run so, or by asking its server what it serves.

    Raises:
        ConfigError: no adapter runs it, or it is not what its manifest says.
        TransientError: it cannot be loaded now, or takes longer than the configuration allows.
    """
    limit = hub.settings.registration.load_seconds
    trial = ThreadPoolExecutor(1, thread_name_prefix="try-model")
    outcome = trial.submit(_load_and_close, hub, package)
    trial.shutdown(wait=False)  # what hangs must not keep whoever registers
    try:
        outcome.result(limit)
    except TimeoutError:
        message = f"loading {package.key} took more than {limit:g} s"
        raise TransientError(message) from None


def _load_and_close(hub: Hub, package: ModelPackage) -> None:
    adapters = Adapters(hub)
    try:
        kind = adapter_kind(hub, package.card.runtime.kind, None, "model.yaml")
        check = hub.components.adapters[kind].check
        if check is not None:
            check(hub.settings.adapters[kind], package, adapter_context(hub, kind))
        load_one(hub, adapters, package)
    finally:
        for adapter in adapters.values():
            adapter.close()
