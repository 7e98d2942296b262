"""DIMSE-N requests, as the acceptor hands them to the services behind it (PS3.7 chapter 10).

The acceptor (``acceptor.py``) owns the association and knows no SOP class but Verification and
Storage; what else it offers is a `Services`. Data sets stay encoded on this side: only the
services decode them, and load what they need for that when they are first called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class CommandField(IntEnum):
    """Command Field (0000,0100) of the requests (PS3.7 E.1)."""

    N_EVENT_REPORT = 0x0100
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140


@dataclass(frozen=True, slots=True)
class NormalizedRequest:
    """One request of a peer."""

    command: CommandField
    sop_class_uid: str
    """Affected or Requested SOP Class UID."""
    sop_instance_uid: str
    """Affected or Requested SOP Instance UID; empty where an N-CREATE leaves it to us."""
    action_type_id: int | None
    transfer_syntax_uid: str
    data_set: bytes
    """Encoded; empty where there is none."""
    calling_ae_title: str
    address: str
    event_type_id: int | None = None
    """Of an N-EVENT-REPORT."""


@dataclass(frozen=True, slots=True)
class EventReport:
    """An N-EVENT-REPORT-RQ that we want to send."""

    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int
    data_set: bytes
    """Encoded in the transfer syntax of the presentation context that the request came on."""


@dataclass(frozen=True, slots=True)
class NormalizedResponse:
    """Our answer."""

    status: int
    """PS3.7 annex C."""
    sop_instance_uid: str = ""
    error_comment: str = ""
    after: Callable[[ReportOnAssociation], None] | None = None
    """Called on a thread of its own once the response is sent."""


ReportOnAssociation = Callable[[EventReport], int | None]
"""Sends an event report on the same association, while it is open, and gives the peer's status;
None where it could not be sent or was not answered."""


class Services(Protocol):
    """The SOP classes beside Verification and Storage that a source offers."""

    @property
    def sop_classes(self) -> Mapping[str, tuple[str, ...]]:
        """Abstract syntax -> transfer syntaxes, of those that we provide."""
        ...

    @property
    def used_sop_classes(self) -> Mapping[str, tuple[str, ...]]:
        """The same of those that the peer provides: it reports to us (PS3.7 D.3.3.4)."""
        ...

    def handle(self, request: NormalizedRequest) -> NormalizedResponse:
        """Answer; every failure is a status, never an exception."""
        ...

    def close(self) -> None:
        """The source stops: send nothing more of their own accord."""
        ...
