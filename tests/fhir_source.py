"""A FHIR source on a real HTTP server, over orders, reports and knowledge that live in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from connectors.fhir import CONNECTOR
from connectors.fhir.config import FhirSourceConfig
from hub.domain.identity import PatientIdentity
from hub.domain.observation import Observation
from hub.domain.order import OPEN_ORDERS, Order, OrderState
from hub.domain.patient import PatientChange
from hub.errors import CaidxError, RejectedError
from hub.formats.fhir.order_task import sent_resource
from hub.ports import (
    Expectation,
    Orders,
    PlacedOrder,
    ReportBundle,
    ReportQuery,
    Reports,
    SourceContext,
    Taken,
)
from tests.contracts.recording import NoKnowledge, RecordingIntake
from tests.dicomweb_server import MemoryHoldings, serving

Json = dict[str, Any]

PATIENTS = "https://hospital.example/patients"
ISSUERS = {PATIENTS: "UMR", "http://hospital.smarthealthit.org": "SYNTHEA"}
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
FHIR = {"Content-Type": "application/fhir+json"}


class StillClock:
    """hub.ports.Clock."""

    def now(self) -> datetime:
        return NOW


@dataclass
class MemoryOrders:
    """hub.ports.Orders."""

    placed: dict[str, PlacedOrder] = field(default_factory=dict)
    values: dict[str, Observation] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    error: CaidxError | None = None
    unknown_route: str = "no-such-route"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, order: Order) -> PlacedOrder:
        return self.take([order], [], "").placed[0]

    def observed(self, observations: Sequence[Observation], transaction: str) -> Sequence[str]:
        return self.take([], observations, transaction).new_observations

    def take(
        self, orders: Sequence[Order], observations: Sequence[Observation], transaction: str
    ) -> Taken:
        with self._lock:
            if self.error is not None:
                raise self.error
            if any(order.route == self.unknown_route for order in orders):
                raise RejectedError("there is no such route")
            self.messages.append(transaction)
            return Taken(
                placed=tuple(self._placed(order) for order in orders),
                new_observations=tuple(
                    one.observation_id for one in observations if self._keep(one)
                ),
            )

    def _placed(self, order: Order) -> PlacedOrder:
        known = self.placed.get(order.order_id)
        if known is not None:
            return known
        new = PlacedOrder(order=order, state=OrderState.PLACED, changed_at=NOW)
        self.placed[order.order_id] = new
        return replace(new, is_new=True)

    def _keep(self, one: Observation) -> bool:
        is_new = one.observation_id not in self.values
        self.values[one.observation_id] = one
        return is_new

    def observations(
        self,
        *,
        observation_id: str = "",
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[Observation]:
        found = [
            one
            for one in reversed(self.values.values())
            if observation_id in ("", one.observation_id)
            and (patient is None or patient.key == one.patient.key)
            and (identifier is None or _is(one.identifier, identifier))
        ]
        return found[offset : offset + limit]

    def find(self, order_id: str) -> PlacedOrder | None:
        return self.placed.get(order_id)

    def search(
        self,
        *,
        patient: PatientIdentity | None = None,
        identifier: tuple[str, str] | None = None,
        based_on: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[PlacedOrder]:
        found = [
            one
            for one in reversed(self.placed.values())
            if (patient is None or patient.key == one.order.patient.key)
            and (identifier is None or _has(one.order, identifier))
            and (not based_on or any(based_on in text for text in one.order.based_on))
        ]
        return found[offset : offset + limit]

    def cancel(self, order_id: str, reason: str) -> PlacedOrder:
        known = self.placed[order_id]
        if known.state not in OPEN_ORDERS:
            raise RejectedError("it is over")
        self.placed[order_id] = replace(known, state=OrderState.CANCELLED, reasons=(reason,))
        return self.placed[order_id]


def _is(identifier: tuple[str, str] | None, wanted: tuple[str, str]) -> bool:
    """Without a system any one fits, as in the store."""
    return (
        identifier is not None and wanted[0] in ("", identifier[0]) and wanted[1] == identifier[1]
    )


def _has(order: Order, wanted: tuple[str, str]) -> bool:
    listed = sent_resource(order).get("identifier", [])
    pairs = [(one.get("system", ""), one.get("value")) for one in listed]
    return any(wanted[0] in ("", system) and wanted[1] == value for system, value in pairs)


@dataclass
class MemoryReports:
    """hub.ports.Reports."""

    held: list[tuple[ReportBundle, PatientIdentity]] = field(default_factory=list)

    def find(self, query: ReportQuery, limit: int, offset: int = 0) -> Sequence[ReportBundle]:
        found = [one for one, patient in self.held if self._fits(one, patient, query)]
        return found[offset : offset + limit]

    def _fits(self, one: ReportBundle, patient: PatientIdentity, query: ReportQuery) -> bool:
        names = {
            (e["resource"]["resourceType"], e["fullUrl"].removeprefix("urn:uuid:"))
            for e in one.bundle["entry"]
        }
        return (
            (query.patient is None or query.patient.patient_id == patient.patient_id)
            and query.order_id in ("", one.order_id)
            and query.request_id in ("", one.request_id)
            and (query.resource is None or query.resource in names)
            and query.accession_number in ("", *_accessions(one))
            and not (query.study_instance_uid or query.sop_instance_uid or query.model)
        )


def _accessions(report: ReportBundle) -> list[str]:
    """Without their systems, as the store knows them."""
    based_on = [o for e in report.bundle["entry"] for o in e["resource"].get("basedOn", [])]
    return [one["identifier"]["value"] for one in based_on if "identifier" in one]


@dataclass
class RecordedKnowledge(NoKnowledge):
    """hub.ports.Knowledge."""

    expectations: list[Expectation] = field(default_factory=list)
    changes: list[PatientChange] = field(default_factory=list)

    def expect(self, expectation: Expectation) -> None:
        self.expectations.append(expectation)

    def patient_changed(self, change: PatientChange) -> None:
        self.changes.append(change)


@dataclass
class FhirSource:
    """A running service, and what it was told."""

    url: str
    orders: MemoryOrders
    reports: MemoryReports
    knowledge: RecordedKnowledge
    client: httpx.Client

    def post(self, resource: Json, path: str = "", **headers: str) -> httpx.Response:
        """Post a resource to its type, or a Bundle to the root."""
        kind = "" if resource.get("resourceType") == "Bundle" else f"/{resource['resourceType']}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"{self.url}{path or kind}", json=resource, headers=FHIR | named)

    def raw(self, body: bytes, path: str = "", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"{self.url}{path}", content=body, headers=FHIR | named)

    def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(f"{self.url}/{path}", headers=named)


@contextmanager
def fhir_source(
    *,
    name: str = "ehr",
    issuers: Mapping[str, str] = ISSUERS,
    private_networks: tuple[str, ...] = (),
    stored: tuple[Orders, Reports] | None = None,
    **options: Any,
) -> Iterator[FhirSource]:
    """Serve on a free port of the loopback interface, in a thread of this process; over the
    store's orders and reports where they are given."""
    intake = RecordingIntake()
    orders, reports, knowledge = MemoryOrders(), MemoryReports(), RecordedKnowledge()
    context = SourceContext(
        name=name,
        intake=intake,
        clock=StillClock(),
        knowledge=knowledge,  # type: ignore[arg-type]
        orders=stored[0] if stored else orders,
        reports=stored[1] if stored else reports,
        issuers=issuers,
        private_networks=private_networks,
    )
    assert CONNECTOR.build_endpoint is not None
    config = FhirSourceConfig(**options)
    endpoint = CONNECTOR.build_endpoint(config, context, MemoryHoldings(intake))
    with serving(endpoint.application) as port, httpx.Client(timeout=30) as client:
        url = f"http://127.0.0.1:{port}{endpoint.path}"
        yield FhirSource(url, orders, reports, knowledge, client)


def outcome_texts(answer: httpx.Response) -> list[str]:
    """What an OperationOutcome tells."""
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome", body
    return [issue["details"]["text"] for issue in body["issue"]]
