"""The ways out: results, and files that a person sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from hub.domain.delivery import Document, Receipt


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


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What an archive said to a request of storage commitment of ours (PS3.4 annex J)."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP Instance UIDs."""
    failed: tuple[tuple[str, int], ...] = ()
    """SOP Instance UID and Failure Reason (0008,1197)."""


class Confirmations(Protocol):
    """What arrives at the hub's sources of what destinations were asked; thread-safe."""

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """The report of a storage commitment that a destination asked for; None: not yet.

        Raises:
            TransientError: it cannot be told now.
        """
        ...


@runtime_checkable
class Confirming(Destination, Protocol):
    """A destination that can be asked later whether it really keeps what it took."""

    def confirm(self, document: Document, awaiting: str) -> Receipt:
        """Ask about a document that ``deliver`` answered with ``Receipt.awaiting``.

        The receipt's own ``awaiting`` is empty when the destination keeps it.

        Raises:
            TransientError: no answer yet; ask again.
            RejectedError: it does not have it (any more): it has to be sent again.
        """
        ...


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


@dataclass(frozen=True, slots=True)
class SendTls:
    """How to connect by TLS to the receiver of files that a person sends."""

    trusted: Path | None = None
    """PEM file: the authorities to trust instead of the system's."""
    verify_host: bool = True
    """Whether the receiver's certificate has to name its host."""
    certificate: Path | None = None
    """PEM file: our certificate, then its chain, for receivers that want one."""
    private_key: Path | None = None
    """PEM file: the certificate's private key; None: it stands in the certificate's file."""
    private_key_password: str | None = field(default=None, repr=False)
    """Of an encrypted private key."""


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
        tls: SendTls | None = None,
    ) -> list[SentFile]:
        """Send files, and all files in folders; one answer per file, in order.

        Raises:
            TransientError: the receiver cannot be reached at all.
            ConfigError: a file of ``tls`` cannot be used.
        """
        ...
