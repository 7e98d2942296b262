"""Orders: what a source may ask the hub to do, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.order import Order, OrderState


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedRequest:
    """A question to a model that an order led to."""

    request_id: str
    route: str
    model: str
    state: str
    """`hub.store.results.RequestState`"""
    outcome: str = ""
    """`hub.domain.inference.Outcome`; empty: there is no answer yet."""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedOrder:
    """An order, and what became of it."""

    order: Order
    state: OrderState
    reasons: tuple[str, ...] = ()
    """Why it is rejected, failed or waiting, for people."""
    requests: tuple[OrderedRequest, ...] = ()
    changed_at: datetime
    is_new: bool = False
    """It was not on record before (``Orders.place``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a message with orders and values."""

    placed: tuple[PlacedOrder, ...] = ()
    """In the order of the message."""
    new_observations: tuple[str, ...] = ()
    """`Observation.observation_id` of those that were not on record."""


class Orders(Protocol):
    """Thread-safe; every call may raise ``TransientError``: not now."""

    def place(self, order: Order) -> PlacedOrder:
        """Record an order and have it worked on, once for its ``order_id``.

        Raises:
            RejectedError: it can never be: another order has its identifiers, no such route.
        """
        ...

    def observed(self, observations: Sequence[Observation], transaction: str) -> Sequence[str]:
        """Keep values that a source sent; routes that start with values are applied to each
        patient's, once for each ``transaction`` (an identifier of the sender's message).
        Returns the identifiers that were new."""
        ...

    def take(
        self, orders: Sequence[Order], observations: Sequence[Observation], transaction: str
    ) -> Taken:
        """``observed`` and ``place`` of a whole message: all of it, or nothing.

        Raises:
            RejectedError: as ``place``, of any of them; nothing was recorded.
        """
        ...

    def observations(
        self,
        *,
        observation_id: str = "",
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[Observation]:
        """Values that sources sent, as they stand now (not those that were replaced, but for the
        one with this ``observation_id``), the newest first; every argument that is set has to
        fit."""
        ...

    def find(self, order_id: str) -> PlacedOrder | None:
        """An order by its identifier."""
        ...

    def search(
        self,
        *,
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        based_on: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[PlacedOrder]:
        """Orders, the newest first. ``identifier``: of the order, or its placer's or filler's;
        ``based_on``: a reference (``ServiceRequest/1``) or an identifier (``system|value``)."""
        ...

    def cancel(self, order_id: str, reason: str) -> PlacedOrder:
        """Whoever placed it takes it back: requests that did not begin do not begin.

        Raises:
            RejectedError: there is none, or it is over.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """Which reports are wanted; every field that is set has to fit."""

    patient: PatientIdentity | None = None
    """By its ID, and its issuer where it has one."""
    study_instance_uid: str = ""
    accession_number: str = ""
    request_id: str = ""
    order_id: str = ""
    sop_instance_uid: str = ""
    """Of a DICOM document of the report."""
    resource: tuple[str, str] | None = None
    """FHIR type and id of a resource of the report."""
    model: tuple[str, str] | None = None
    """Id and version of the model that was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBundle:
    """The last version of a report as FHIR: the transaction Bundle that servers are sent."""

    request_id: str
    order_id: str
    bundle: Any
    """JSON object (R4 Bundle of type transaction)."""
    version: int
    made_at: datetime


class Reports(Protocol):
    """The reports that the hub has made; thread-safe. May raise ``TransientError``."""

    def find(self, query: ReportQuery, limit: int, offset: int = 0) -> Sequence[ReportBundle]:
        """The newest first."""
        ...


class HealthRecord(Protocol):
    """Where measured values of patients are kept: an EHR's FHIR server. Thread-safe."""

    def observations(
        self, patient: PatientIdentity, codes: Sequence[Code], not_before: datetime | None
    ) -> Sequence[Observation]:
        """The patient's values of any of these codes, the newest first.

        Raises:
            TransientError: it cannot be asked now, or does not let the hub ask.
            RejectedError: its answer cannot be used, or several patients are meant.
        """
        ...

    def patient(self, patient: PatientIdentity) -> PatientIdentity:
        """The same patient with name, birth date and sex as the record has them.

        Raises:
            TransientError: it cannot be asked now, or does not let the hub ask.
            RejectedError: it knows no such patient, or several.
        """
        ...

    def check(self) -> str:
        """As ``Destination.check``."""
        ...

    def close(self) -> None: ...
