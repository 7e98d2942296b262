"""What a source hands its objects to, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hub.domain.study import Location
from hub.ports.process import Buffer, Health


class ObjectStore(Protocol):
    """Where the bytes of received instances lie. Implementations can be pickled, so that
    worker processes read for themselves."""

    def read(self, location: Location) -> bytes:
        """The Part 10 file at a location.

        Raises:
            IntegrityError: the store no longer holds what the index promises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is sending."""

    source: str
    """Name of the source in the configuration."""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    address: str = ""
    announced_bytes: int = 0
    """How much the whole transfer will carry, where the protocol says so: room is made for it.
    Nothing relies on it; 0: nobody knows."""


class EndOfTransfer(StrEnum):
    RELEASED = "released"
    """The sender said that it is done (A-RELEASE, end of a STOW request)."""
    ABORTED = "aborted"
    """The connection broke; what was acknowledged stays."""


@dataclass(frozen=True, slots=True)
class ReceivedObject:
    """One object as a source received it, undecoded."""

    sop_class_uid: str
    sop_instance_uid: str
    """As the protocol named it; must be the data set's own."""
    transfer_syntax_uid: str
    data_set: Buffer
    """The encoded data set without preamble and file meta information. The store is done with it
    when ``Reception.store`` returns, so that a source can use the same memory again."""


class Spool(Protocol):
    """One object that is too large to be held in memory, on its way to the disk."""

    def write(self, chunk: Buffer) -> None:
        """The next bytes of the data set.

        Raises:
            RejectedError: it is longer than the hub takes.
            TransientError: out of resources.
        """
        ...

    def store(self) -> None:
        """That was all of it: as ``Reception.store``."""
        ...

    def discard(self) -> None:
        """It broke off: nothing of it stays. Calling it after ``store`` does nothing."""
        ...


class Reception(Protocol):
    """One association, STOW request or drop of files; used by one thread at a time."""

    def store(self, received: ReceivedObject) -> None:
        """Store durably; when this returns, an instant power cut loses nothing.

        Whether the object is new, there already, or there with other bytes, shows when it is
        indexed, a moment later: all three are acknowledged.

        Raises:
            RejectedError: the object itself is wrong; the sender must not try again.
            TransientError: out of resources; the sender may try again.
        """
        ...

    def spool(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Spool:
        """Begin a large object, as the protocol named it; at most one at a time."""
        ...

    def close(self, end: EndOfTransfer) -> None:
        """The transfer ended; called exactly once."""
        ...


class Intake(Protocol):
    """What a source hands its objects to."""

    def open(self, sender: Sender) -> Reception:
        """Begin a transfer; nothing is written before its first object."""
        ...


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
