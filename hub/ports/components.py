"""Parts as a package registers them, and what the hub gives to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.domain.delivery import DocumentKind
from hub.ports.archives import Archive, Holdings
from hub.ports.destinations import Confirmations, Destination, SendFiles
from hub.ports.intake import Intake, ObjectStore, Source
from hub.ports.knowledge import Knowledge
from hub.ports.models import CallbackVerifier, ModelAdapter, ModelPackage, VendorDoor
from hub.ports.orders import HealthRecord, Orders, Reports
from hub.ports.process import Clock


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source gets from the hub."""

    name: str
    intake: Intake
    clock: Clock
    knowledge: Knowledge
    orders: Orders | None = None
    """In the web role only."""
    reports: Reports | None = None
    """In the web role only."""
    issuers: Mapping[str, str] = field(default_factory=dict)
    """URI of an identifier system -> issuer as in the DICOM header (`site.identifier_systems`)."""
    private_networks: tuple[str, ...] = ()
    """`outbound.private_networks`: what a URL that a message brings in may lead to besides public
    addresses."""


Refuse = Callable[[int, str, str], tuple[str, bytes]]
"""(HTTP status, what is wrong, path) -> (media type, body)."""


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """An ASGI application that the web role serves."""

    path: str
    """Where: ``/dicom-web``."""
    application: Any
    """ASGI 3; it answers for its own errors in its protocol's own terms."""
    refuse: Refuse | None = None
    """How requests are told in its protocol that the hub's door refuses before it sees them; None:
    as problem details (RFC 9457)."""


@dataclass(frozen=True, slots=True)
class ArchiveContext:
    """What the client of an archive gets from the hub."""

    name: str
    intake: Intake
    clock: Clock
    private_networks: tuple[str, ...] | None = None
    """As of `SourceContext`, where a message brought the URL; None: the operator gave it."""


@dataclass(frozen=True, slots=True)
class RecordContext:
    """What the client of a health record gets from the hub."""

    name: str
    clock: Clock
    identifier_systems: Mapping[str, str] = field(default_factory=dict)
    """Issuer as in the DICOM header -> URI of its system; under the empty issuer that of patient
    IDs without one."""


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What a destination gets from the hub."""

    name: str
    clock: Clock
    confirmations: Confirmations


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """What a model adapter gets from the hub."""

    name: str
    objects: ObjectStore
    clock: Clock
    door: VendorDoor | None = None
    """Where vendors reach the hub; None where no model is asked by a vendor's service."""
    private_networks: tuple[str, ...] = ()
    """`outbound.private_networks`: what `hub.transport.address_guard.AddressGuard` lets through
    besides public addresses."""


@dataclass(frozen=True, slots=True)
class Connector:
    """The value of an entry point in ``caidx.connectors``; the entry point's name is its ``kind``.

    Configurations are frozen pydantic models that forbid unknown fields; the hub validates
    them before it calls ``build_*``.
    """

    source_config: type[Any] | None = None
    build_source: Callable[[Any, SourceContext], Source] | None = None
    """A source with a port of its own, in the receiver's process."""
    build_endpoint: Callable[[Any, SourceContext, Holdings], HttpEndpoint] | None = None
    """Or a source that is part of the hub's HTTP server, in the web role's process."""
    shows_reports: bool = False
    """The endpoint serves the reports that the hub has made (`SourceContext.reports`)."""
    archive_config: type[Any] | None = None
    build_archive: Callable[[Any, ArchiveContext], Archive] | None = None
    record_config: type[Any] | None = None
    build_record: Callable[[Any, RecordContext], HealthRecord] | None = None
    destination_config: type[Any] | None = None
    build_destination: Callable[[Any, DestinationContext], Destination] | None = None
    accepts: Sequence[DocumentKind] = ()
    """The documents that a destination of this kind can take."""
    sends: Sequence[DocumentKind] = ()
    """Those that it gets where its configuration does not say; empty: all that it can take."""
    send_files: SendFiles | None = None
    """Sends files by hand, where the protocol can."""


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """The value of an entry point in ``caidx.model_adapters``; its name is the ``kind``."""

    runtime_kind: str
    """The manifest's ``runtime.kind`` that this adapter runs."""
    config: type[Any]
    build: Callable[[Any, AdapterContext], ModelAdapter]
    callbacks: Callable[[Any, Clock], CallbackVerifier] | None = None
    """Of adapters whose vendors call back: from the same ``config``, in the web role."""
    check: Callable[[Any, ModelPackage, AdapterContext], None] | None = None
    """What is tried before a model is activated, beyond loading it: that its server is there and
    serves what the manifest says. Raises ``ConfigError`` or ``TransientError``."""
