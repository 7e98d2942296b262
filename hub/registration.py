"""Registering a model: taken in, checked, tried, kept; and how its state changes.

registered -> active -> suspended -> active ... -> retired. A person activates; from then on routes
may use it. Everything is checked before anything is kept: the manifest with every mistake and its
line, the digest of each file, and that the model loads where models run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hub.domain.inference import ModelKey
from hub.domain.registration import RegistrationState
from hub.errors import RejectedError
from hub.ports import ModelPackage
from hub.store.package_store import Offered, PackageStore
from hub.store.registrations import (
    Registration,
    RegistrationConflictError,
    RegistrationLedger,
)

_NO_REASON = "it was registered"


class NotYoursError(RejectedError):
    """A vendor may register, suspend and retire its own models only, and activate none."""


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """A model of the configuration, whose state can be changed like that of a registered one."""

    key: ModelKey
    vendor: str
    runtime_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Registers models and changes their states, in the name of one actor."""

    ledger: RegistrationLedger
    packages: PackageStore
    try_out: Callable[[ModelPackage], None]
    """Loads a model where models run, and asks its server whether it is there. Raises
    ``ConfigError`` or ``TransientError``."""
    configured: Mapping[str, ConfiguredModel]
    """Models of the configuration by id: registered ones have other ids."""
    only_vendor: str = ""
    """``vendor.name`` of the manifests that this actor may bring; empty: all."""

    def register(self, offered: Offered, reason: str = "") -> tuple[Registration, bool]:
        """Take a package in; False beside the registration where it is there already.

        Raises:
            ConfigError: every mistake of the package, with its line where there is one.
            RegistrationConflictError: its id or its version is taken, or it was retired.
            NotYoursError: it is another vendor's.
            TransientError: no space left, or it cannot be tried now.
        """
        with self.packages.taking(offered) as package:
            key, card = package.key, package.card
            self._refuse_foreign(card.id, card.vendor.name)
            if card.id in self.configured:
                message = f"{card.id} stands in the configuration: take it out there, or choose "
                raise RegistrationConflictError(message + "a new id")
            known = self.ledger.known(key, card.vendor.name)
            if known is None:
                self.try_out(package)
            self.packages.keep(package)
            if known is not None:
                return known, False
            return self.ledger.add(
                key,
                vendor=card.vendor.name,
                runtime_kind=card.runtime.kind,
                reason=reason or _NO_REASON,
            )

    def activate(self, package: ModelPackage, reason: str) -> tuple[Registration, bool]:
        """Let routes use a version, after it was tried again; it takes the place of the version
        that was active. False beside it where it is active already.

        Raises:
            ConfigError: it is not what its manifest says.
            RegistrationConflictError: it was retired.
            TransientError: it cannot be tried now.
        """
        if self.only_vendor:
            raise NotYoursError("whoever runs the hub activates models")
        _refuse_no_reason(reason)
        self.try_out(package)
        vendor = package.card.vendor.name
        return self._change(package.key, vendor, RegistrationState.ACTIVE, reason)

    def suspend(self, model: ModelKey, vendor: str, reason: str) -> tuple[Registration, bool]:
        """From now on nothing is asked of the model; what it is being asked is quarantined.

        Raises:
            RegistrationConflictError: it is not active.
            NotYoursError: it is another vendor's.
        """
        return self._change(model, vendor, RegistrationState.SUSPENDED, reason)

    def retire(self, model: ModelKey, vendor: str, reason: str) -> tuple[Registration, bool]:
        """For good: it is not asked any more, and cannot be registered again.

        Raises:
            NotYoursError: it is another vendor's.
        """
        return self._change(model, vendor, RegistrationState.RETIRED, reason)

    def _change(
        self, model: ModelKey, vendor: str, state: RegistrationState, reason: str
    ) -> tuple[Registration, bool]:
        self._refuse_foreign(model.model_id, vendor)
        _refuse_no_reason(reason)
        configured = self.configured.get(model.model_id)
        if configured is not None and configured.key == model:
            self.ledger.note_configured(model, vendor=vendor, runtime_kind=configured.runtime_kind)
        return self.ledger.change(model, state, reason.strip())

    def _refuse_foreign(self, model_id: str, vendor: str) -> None:
        if self.only_vendor and vendor != self.only_vendor:
            raise NotYoursError(f"the model {model_id} is another vendor's")


def _refuse_no_reason(reason: str) -> None:
    if not reason.strip():
        raise RejectedError("a reason is needed: it stands in the audit log")
