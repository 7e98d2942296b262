"""What the hub expects of its parts: the seams at which a stranger's package plugs in.

Connectors and model adapters know these protocols, the domain, the formats and the errors,
and nothing else of the hub. They arrive through the entry-point groups
``caidx.connectors`` and ``caidx.model_adapters``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from hub.domain.delivery import Document, DocumentKind, Receipt
from hub.domain.inference import Deferred, InferenceRequest, InferenceResult, ModelKey, Unsuitable
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance, Location


class Clock(Protocol):
    """The time; the only way to ask for it."""

    def now(self) -> datetime:
        """UTC, timezone-aware."""
        ...


class HealthState(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """How a component is, and since when."""

    state: HealthState
    detail: str
    since: datetime


# --- jobs --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of durable work: one study revision, one inference request, one delivery attempt."""

    kind: str
    queue: str
    job_id: str
    """The same identifier is enqueued once."""
    argument: str
    partition: str | None = None
    """The line within the queue: a model, a destination."""
    priority: int = 1
    """Lower runs first."""
    delay_seconds: float = 0.0


AFTER_COMMIT = "caidx_after_commit"
"""Key in the ``info`` of a connection: calls that the database makes, without arguments, once the
transaction has committed, and never when it was rolled back."""


class Jobs(Protocol):
    """Puts jobs into the hub's own transactions."""

    def enqueue(self, connection: Any, job: Job) -> None:
        """The job will run if, and only if, the connection's transaction commits."""
        ...


# --- bytes -------------------------------------------------------------------------------


class ObjectStore(Protocol):
    """Where the bytes of received instances lie. Implementations can be pickled, so that
    worker processes read for themselves."""

    def read(self, location: Location) -> bytes:
        """The Part 10 file at a location.

        Raises:
            IntegrityError: the store no longer holds what the index promises.
        """
        ...


# --- intake ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is sending."""

    source: str
    """Name of the source in the configuration."""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    address: str = ""


class EndOfTransfer(StrEnum):
    RELEASED = "released"
    """The sender said that it is done (A-RELEASE, end of a STOW request)."""
    ABORTED = "aborted"
    """The connection broke; what was acknowledged stays."""


class StoredAs(StrEnum):
    NEW = "new"
    DUPLICATE = "duplicate"
    """Same SOP Instance UID and same bytes: stored once."""
    CONFLICT = "conflict"
    """Same SOP Instance UID, other bytes: kept, flagged, never in place of the first."""


@dataclass(frozen=True, slots=True)
class ReceivedObject:
    """One object as a source received it, undecoded."""

    sop_class_uid: str
    sop_instance_uid: str
    """As the protocol named it; must be the data set's own."""
    transfer_syntax_uid: str
    data_set: bytes
    """The encoded data set without preamble and file meta information."""


class Reception(Protocol):
    """One association, STOW request or drop of files."""

    def store(self, received: ReceivedObject) -> StoredAs:
        """Store durably; when this returns, an instant power cut loses nothing.

        Raises:
            RejectedError: the object itself is wrong; the sender must not try again.
            TransientError: out of resources; the sender may try again.
        """
        ...

    def close(self, end: EndOfTransfer) -> None:
        """The transfer ended; called exactly once."""
        ...


class Intake(Protocol):
    """What a source hands its objects to."""

    def open(self, sender: Sender) -> Reception: ...


class Source(Protocol):
    """A way in. ``start`` returns when it listens; it runs on its own threads."""

    def start(self) -> None:
        """Raises:
        TransientError: it cannot start now (port in use); the supervisor tries again.
        ConfigError: it can never start as configured.
        """
        ...

    def stop(self) -> None:
        """Stop accepting, let transfers end for a short time, then close."""
        ...

    def health(self) -> Health: ...


# --- destinations ------------------------------------------------------------------------


class Destination(Protocol):
    """A way out. One call, one document; thread-safe."""

    def deliver(self, document: Document, idempotency_key: str) -> Receipt:
        """Return only when the destination itself has confirmed.

        Raises:
            TransientError: try again later.
            RejectedError: the destination will never take this document.
        """
        ...

    def check(self) -> str:
        """Ask whether it is there (C-ECHO, CapabilityStatement); a line for people.

        Raises:
            TransientError: it is not.
        """
        ...

    def close(self) -> None: ...


# --- models ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model as registered: its card, its files, its digest."""

    key: ModelKey
    card: ModelCard
    directory: Path
    """Folder of ``model.yaml``."""
    artefacts: Mapping[str, Path] = field(default_factory=dict)
    """``Artefact.path`` of the card -> the file itself: found, contained and pinned when the
    package was registered. Whoever reads it checks the SHA-256 of what was read."""


class ModelAdapter(Protocol):
    """One way to run models. Thread-safe; ``infer`` may be called concurrently."""

    def load(self, package: ModelPackage) -> None:
        """Make a model ready; loading a new version happens before the old one is unloaded.

        Raises:
            ConfigError: the package is not what its manifest says.
            TransientError: it cannot be loaded now.
        """
        ...

    def infer(self, request: InferenceRequest) -> InferenceResult | Unsuitable | Deferred:
        """Answer one request.

        Raises:
            TransientError: this attempt failed (worker died, time-out); another may succeed.
            RejectedError: the input cannot be read or the model's answer is broken.
        """
        ...

    def unload(self, model: ModelKey) -> None: ...

    def health(self) -> Health: ...

    def close(self) -> None: ...


# --- sending files by hand ---------------------------------------------------------------


class SentAs(StrEnum):
    """What became of one file."""

    STORED = "stored"
    WARNING = "warning"
    """Stored; the receiver had something to say."""
    REFUSED = "refused"
    """The receiver will never take it."""
    FAILED = "failed"
    """Not stored this time: no association, out of resources, no answer."""
    SKIPPED = "skipped"
    """Not sent: not a file of this protocol."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file that a person sent."""

    path: Path
    sent_as: SentAs
    detail: str
    """The receiver's answer or the reason, for people; no patient data."""
    sop_instance_uid: str = ""


class SendFiles(Protocol):
    """Sends files to an address by hand (``caidx send``)."""

    def __call__(
        self,
        paths: Sequence[Path],
        *,
        host: str,
        port: int,
        called_ae_title: str,
        calling_ae_title: str,
        on_progress: Callable[[SentFile], None] | None = None,
    ) -> list[SentFile]:
        """Send files, and all files in folders; one answer per file, in order.

        Raises:
            TransientError: the receiver cannot be reached at all.
        """
        ...


# --- components as they are registered ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source gets from the hub."""

    name: str
    intake: Intake
    clock: Clock


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What a destination gets from the hub."""

    name: str
    clock: Clock


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """What a model adapter gets from the hub."""

    name: str
    objects: ObjectStore
    clock: Clock


@dataclass(frozen=True, slots=True)
class Connector:
    """The value of an entry point in ``caidx.connectors``; the entry point's name is its ``kind``.

    Configurations are frozen pydantic models that forbid unknown fields; the hub validates
    them before it calls ``build_*``.
    """

    source_config: type[Any] | None = None
    build_source: Callable[[Any, SourceContext], Source] | None = None
    destination_config: type[Any] | None = None
    build_destination: Callable[[Any, DestinationContext], Destination] | None = None
    accepts: Sequence[DocumentKind] = ()
    """The documents that a destination of this kind can take."""
    send_files: SendFiles | None = None
    """Sends files by hand, where the protocol can."""


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """The value of an entry point in ``caidx.model_adapters``; its name is the ``kind``."""

    runtime_kind: str
    """The manifest's ``runtime.kind`` that this adapter runs."""
    config: type[Any]
    build: Callable[[Any, AdapterContext], ModelAdapter]


__all__ = [
    "AFTER_COMMIT",
    "AdapterContext",
    "AdapterKind",
    "Clock",
    "Connector",
    "Destination",
    "DestinationContext",
    "EndOfTransfer",
    "Health",
    "HealthState",
    "Instance",
    "Intake",
    "Job",
    "Jobs",
    "ModelAdapter",
    "ModelPackage",
    "ObjectStore",
    "ReceivedObject",
    "Reception",
    "SendFiles",
    "Sender",
    "SentAs",
    "SentFile",
    "Source",
    "SourceContext",
    "StoredAs",
]
