"""A Storage SCP: C-STORE and C-ECHO (PS3.4 annexes A and B), and the services that are enabled.

The data set is handed on as it came, undecoded. The response is sent when the hub's intake
has stored the object durably, and not before.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from connectors.dicom.acceptor import Acceptor
from connectors.dicom.config import DicomSourceConfig
from connectors.dicom.connection import Connection, Timeouts
from connectors.dicom.data_buffer import DataBuffer, MemoryBudget
from connectors.dicom.limits import AssociationLimits
from connectors.dicom.negotiation import CallerPolicy
from connectors.dicom.normalized import Services
from connectors.dicom.performer import AssociationPerformer, Offer
from connectors.dicom.storage_classes import (
    DEFAULT_TRANSFER_SYNTAXES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from connectors.dicom.transport import Transport
from hub.errors import CaidxError, ConfigError, ConfigProblem, TransientError
from hub.ports import Health, HealthState, SourceContext, at_first_call

if TYPE_CHECKING:
    import ssl  # loaded only where TLS is configured

_CANNOT_EVER_LISTEN = frozenset({errno.EACCES, errno.EADDRNOTAVAIL})
_WITHOUT_ASSOCIATION = 128
"""Connections beyond the associations: those that are asking, being refused, or closing."""
_WAITING = 16
"""Of these, how many one address may have; as many as it may have associations, because they may
all be asked for at once."""


class DicomSource:
    """`hub.ports.Source` for DICOM associations.

    Args:
        config: see there.
        context: what the hub gives.
        build_services: builds, at each start, the services beside storage; None for none.

    Raises:
        ConfigError: a SOP class is none of the standard's.
    """

    def __init__(
        self,
        config: DicomSourceConfig,
        context: SourceContext,
        build_services: Callable[[], Services] | None = None,
    ) -> None:
        self._config = config
        self._context = context
        self._budget = MemoryBudget(config.buffer_memory)
        self._storage = (*_storage_classes(config), *config.additional_sop_classes)
        self._build_services = build_services
        self._services: Services | None = None
        self._acceptor: Acceptor | None = None
        self._health = Health(HealthState.STOPPED, "not started", context.clock.now())

    def start(self) -> None:
        """Listen (see hub.ports.Source)."""
        config = self._config
        services = None if self._build_services is None else self._build_services()
        offer = self._offer(services)
        acceptor = Acceptor(
            name=f"dicom-{self._context.name}",
            maximum_connections=config.maximum_associations + _WITHOUT_ASSOCIATION,
            maximum_waiting=max(_WAITING, config.maximum_associations_per_caller),
            handshake_timeout=config.request_timeout,
            converse=partial(self._converse, offer),
            tls=self._tls(),
        )
        try:
            acceptor.listen(config.host, config.port)
        except OSError as error:
            if services is not None:
                services.close()
            raise self._cannot_listen(error) from error
        self._acceptor, self._services = acceptor, services
        if self._rejects_all:
            detail = "no caller is listed, so all are rejected: name them in allowed_calling_ae_"
            detail += "titles or allowed_addresses, or set unknown_callers"
            self._set_health(HealthState.DEGRADED, detail)
        else:
            self._set_health(HealthState.HEALTHY, f"listening on {config.host}:{config.port}")

    def stop(self) -> None:
        """Stop accepting, give associations ``stop_grace`` seconds, then abort them."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is None:
            return
        acceptor.stop(self._config.stop_grace)
        services, self._services = self._services, None
        if services is not None:
            services.close()
        self._set_health(HealthState.STOPPED, "stopped")

    def health(self) -> Health:
        return self._health

    @property
    def _rejects_all(self) -> bool:
        config = self._config
        listed = config.allowed_calling_ae_titles or config.allowed_addresses
        return config.rejects_unknown_callers and not listed

    def _set_health(self, state: HealthState, detail: str) -> None:
        self._health = Health(state, detail, self._context.clock.now())

    def _offer(self, services: Services | None) -> Offer:
        config = self._config
        contexts: dict[str, Sequence[str]] = dict.fromkeys(self._storage, TRANSFER_SYNTAXES)
        contexts[VERIFICATION] = DEFAULT_TRANSFER_SYNTAXES
        if services is not None:
            contexts.update(services.sop_classes)
        callers = CallerPolicy(
            called_ae_title=config.ae_title if config.require_called_ae_title else "",
            calling_ae_titles=frozenset(config.allowed_calling_ae_titles),
            networks=config.allowed_addresses,
            rejects_unknown=config.rejects_unknown_callers,
        )
        return Offer(
            source=self._context.name,
            callers=callers,
            limits=AssociationLimits(
                config.maximum_associations, config.maximum_associations_per_caller
            ),
            contexts=contexts,
            used={} if services is None else services.used_sop_classes,
            storage=frozenset(self._storage),
            maximum_length=config.maximum_pdu_length,
            maximum_instance_size=config.maximum_instance_size,
            intake=self._context.intake,
            services=services,
        )

    def _converse(self, offer: Offer, transport: Transport, address: str) -> Connection:
        config = self._config
        return Connection(
            transport,
            address,
            maximum_length=config.maximum_pdu_length,
            data=DataBuffer(config.spool_threshold, self._budget),
            timeouts=Timeouts(artim=config.request_timeout, idle=config.idle_timeout),
            performer=lambda send: AssociationPerformer(offer, address, send),
        )

    def _tls(self) -> ssl.SSLContext | None:
        if self._config.tls is None:
            return None
        # Loaded only here: the receiver starts sooner without it.
        build = at_first_call("hub.transport.tls:server_context")
        context: ssl.SSLContext = build(self._config.tls, f"sources.{self._context.name}.tls")
        return context

    def _cannot_listen(self, error: OSError) -> CaidxError:
        address = f"{self._config.host}:{self._config.port}"
        message = f"cannot listen on {address}: {error.strerror}"
        self._set_health(HealthState.FAILED, message)
        if error.errno in _CANNOT_EVER_LISTEN or isinstance(error, socket.gaierror):
            field = f"sources.{self._context.name}"
            return ConfigError((ConfigProblem("configuration", 0, field, message),))
        return TransientError(message)


def _storage_classes(config: DicomSourceConfig) -> tuple[str, ...]:
    """The configured ones, or all.

    Raises:
        ConfigError: one is no Storage SOP class of the standard.
    """
    chosen = config.storage_sop_classes or STORAGE_SOP_CLASSES
    unknown = set(chosen) - set(STORAGE_SOP_CLASSES) - set(config.additional_sop_classes)
    if unknown:
        raise ConfigError(
            tuple(
                ConfigProblem(
                    "configuration",
                    0,
                    "storage_sop_classes",
                    f"{uid} is no Storage SOP class of the standard; "
                    "private ones belong into additional_sop_classes",
                )
                for uid in sorted(unknown)
            )
        )
    return chosen


def build_source(config: DicomSourceConfig, context: SourceContext) -> DicomSource:
    """`hub.ports.Connector.build_source`."""
    if not config.services:
        return DicomSource(config, context)
    build = at_first_call("connectors.dicom.services:build_services")
    return DicomSource(config, context, partial(build, config, context))
