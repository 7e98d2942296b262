"""What each entry of a message would do, found out before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import orjson

from connectors.fhir.config import FhirSourceConfig
from connectors.fhir.parameters import token_of
from hub.domain.observation import Observation
from hub.domain.order import OPEN_ORDERS, Order
from hub.domain.patient import PatientChange, PatientChangeKind
from hub.errors import RejectedError
from hub.formats.fhir.imaging_study import expectations_in
from hub.formats.fhir.input_checks import input_problems
from hub.formats.fhir.intake import Entry, Located, Message, Patients, type_in
from hub.formats.fhir.order import OrderReader
from hub.formats.fhir.order_inputs import InputReader
from hub.formats.fhir.order_task import came_as
from hub.formats.fhir.outcome import Issue, Refused, malformed, unprocessable
from hub.formats.fhir.patient import identities_in, read_patient_changes
from hub.ports import Expectation, Orders, PlacedOrder, SourceContext
from hub.transport.address_guard import AddressGuard

Json = dict[str, Any]

ORDERS = ("Task", "ServiceRequest")
READ = (*ORDERS, "Observation", "ImagingStudy", "Patient")
"""The types that the hub understands when they are sent."""
_LINKED = ("replaced-by", "replaces")
_MOST_OF_A_NAME = 50
"""Orders with one identifier that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an entry means for the hub."""

    entry: Entry
    order: Order | None = None
    observation: Observation | None = None
    expectations: tuple[Expectation, ...] = ()
    changes: tuple[PatientChange, ...] = ()
    cancels: str = ""
    """Identifier of the order that it takes back."""
    existing: PlacedOrder | Observation | None = None
    """What a conditional create found: nothing is to be done."""
    reads: bool = False
    """It is answered when all else is done."""
    remark: str = ""
    """What the hub does not do with it."""


class Planner:
    """Reads the entries of one message."""

    def __init__(
        self,
        entries: Sequence[Entry],
        config: FhirSourceConfig,
        context: SourceContext,
        orders: Orders,
    ) -> None:
        self._config = config
        self._context = context
        self._orders = orders
        self._now: datetime = context.clock.now()
        self._message = Message(entries)
        issuers = {**context.issuers, config.patient_identifier_system: ""}
        self._patients = Patients(self._message, issuers)
        self._inputs = InputReader(self._message, self._patients, context.name, self._known)
        self._reader = OrderReader(self._message, self._patients, self._inputs, self._now)
        self._guard = AddressGuard(context.private_networks)
        self._fulfilled = self._requests_of_tasks(entries)

    def plan(self, entry: Entry, fresh: str) -> Plan:
        """What an entry means.

        Args:
            entry: the entry.
            fresh: names an order whose sender gave it no identifier.

        Raises:
            Refused: it cannot be taken.
        """
        match entry.method:
            case "GET" | "HEAD":
                return Plan(entry=entry, reads=True)
            case "POST" | "PUT":
                return self._written(entry, fresh)
            case _:
                text = f"{entry.method} is not offered"
                raise Refused(
                    HTTPStatus.METHOD_NOT_ALLOWED, Issue("not-supported", text, entry.where)
                )

    def _written(self, entry: Entry, fresh: str) -> Plan:
        if entry.resource_type not in READ:
            return self._unknown(entry)
        _check_shape(entry)
        if entry.method == "PUT" and entry.resource_type in ORDERS:
            return self._cancellation(entry)
        existing = self._existing(entry)
        if existing is not None:
            return Plan(entry=entry, existing=existing)
        return self._new(entry, fresh)

    def _new(self, entry: Entry, fresh: str) -> Plan:
        located = self._located(entry)
        match entry.resource_type:
            case "Observation":
                return Plan(entry=entry, observation=self._inputs.value_of(located))
            case "ImagingStudy":
                return self._study(entry)
            case "Patient":
                return self._patient(entry)
            case _:
                return self._order(entry, located, fresh)

    def _unknown(self, entry: Entry) -> Plan:
        kind = type_in({"type": entry.resource_type}) if entry.resource_type.isalpha() else ""
        text = f"the hub keeps no {kind or 'resource of such a type'}"
        if not entry.where:
            raise Refused(HTTPStatus.NOT_FOUND, Issue("not-supported", text))
        if self._config.unknown_resources == "refuse":
            raise unprocessable(text, entry.where, "not-supported")
        return Plan(entry=entry, remark=f"not kept: {text}")

    def _order(self, entry: Entry, located: Located, fresh: str) -> Plan:
        if id(entry.resource) in self._fulfilled:
            return Plan(entry=entry, remark="read as part of the Task that names it")
        try:
            order = self._reader.order_of(located, entry.full_url or fresh)
        except Refused as refused:
            plain = entry.resource_type == "ServiceRequest" and entry.where
            is_other = all(issue.code == "not-supported" for issue in refused.issues)
            if plain and is_other and self._config.unknown_resources == "ignore":
                return Plan(entry=entry, remark=f"not kept: {refused}")
            raise
        if order.endpoint:
            try:
                self._guard.check_url(order.endpoint)
            except RejectedError as error:
                text = f"Endpoint.address: {error}"
                raise unprocessable(text, entry.place, "security") from None
        return Plan(entry=entry, order=order)

    def _study(self, entry: Entry) -> Plan:
        try:
            expected = tuple(expectations_in(entry.resource))
        except RejectedError as error:
            if not entry.where:
                raise unprocessable(str(error), entry.place) from None
            return Plan(entry=entry, remark=f"nothing is expected: {error}")
        numbers = " and ".join(str(one.number_of_instances) for one in expected)
        remark = f"{numbers} instances are expected; the ImagingStudy itself is not kept"
        return Plan(entry=entry, expectations=expected, remark=remark)

    def _patient(self, entry: Entry) -> Plan:
        """One that is linked, or updated, says who somebody is now. Any other is only the subject
        of the rest: it may name a part of the person's data."""
        links = entry.resource.get("link", [])
        linked = any(link.get("type") in _LINKED for link in links)
        if not linked and entry.method != "PUT":
            return Plan(entry=entry, remark="read as the subject of others; no Patient is kept")
        bundle = {"resourceType": "Bundle", "entry": self._linked(entry, links)}
        issuers, source = self._patients.issuers, self._context.name
        try:
            said = read_patient_changes(orjson.dumps(bundle), issuers, source, self._now)
        except RejectedError as error:
            raise unprocessable(str(error), entry.place) from None
        own = {one.key for one in identities_in(entry.resource, issuers)}
        changes = tuple(
            one
            for one in said
            if one.kind is PatientChangeKind.MERGED
            or (one.patient_id, one.issuer_of_patient_id) in own
        )
        return Plan(entry=entry, changes=changes, remark="told to the results; no Patient is kept")

    def _linked(self, entry: Entry, links: Sequence[Json]) -> list[Json]:
        """A Patient and those that it is linked with, as a Bundle of their own."""
        partners: list[Json] = []
        own_links: list[Json] = []
        for link in links:
            other = self._message.lead(link["other"], self._located(entry))
            if other is None:
                own_links.append(link)
                continue
            name, back = f"other-{len(partners)}", self._links_back(other, entry)
            partners.append({**other.resource, "id": name, "link": back})
            own_links.append({**link, "other": {"reference": f"Patient/{name}"}})
        own = {**entry.resource, "id": "own", "link": own_links}
        return [{"resource": one} for one in (own, *partners)]

    def _links_back(self, other: Located, entry: Entry) -> list[Json]:
        """The links of the other Patient that lead to this one."""
        found = []
        links = other.resource.get("link", [])
        for link in links if isinstance(links, list) else []:
            reference = link.get("other") if isinstance(link, dict) else None
            led = self._message.lead(reference, other) if isinstance(reference, dict) else None
            if led is not None and led.resource is entry.resource:
                found.append({**link, "other": {"reference": "Patient/own"}})
        return found

    # --- orders that are taken back -------------------------------------------------------

    def _cancellation(self, entry: Entry) -> Plan:
        """An update of a Task or ServiceRequest: it can only take the order back."""
        wanted = "cancelled" if entry.resource_type == "Task" else "revoked"
        if entry.resource.get("status") != wanted:
            text = f"an order can only be taken back: status {wanted}"
            raise unprocessable(text, f"{entry.place}.status", "not-supported")
        placed = self._addressed(entry)
        is_other = entry.resource_type != "Task" and placed is not None
        if placed is None or (is_other and came_as(placed.order) != entry.resource_type):
            issue = Issue("not-found", "there is no such order", entry.where)
            raise Refused(HTTPStatus.NOT_FOUND, issue)
        if placed.state not in OPEN_ORDERS:
            issue = Issue("conflict", f"the order is over: {placed.state}", entry.where)
            raise Refused(HTTPStatus.CONFLICT, issue)
        return Plan(entry=entry, cancels=placed.order.order_id)

    def _addressed(self, entry: Entry) -> PlacedOrder | None:
        if entry.resource_id:
            return self._orders.find(entry.resource_id)
        kind = "" if entry.resource_type == "Task" else entry.resource_type
        found = self._placed_by(entry.query, f"{entry.where}.request.url", kind)
        return found[0] if found else None

    # --- what is there already ------------------------------------------------------------

    def _existing(self, entry: Entry) -> PlacedOrder | Observation | None:
        """Conditional create (R4 http.html#ccreate)."""
        if entry.if_none_exist is None:
            return None
        place = f"{entry.where}.request.ifNoneExist" if entry.where else "If-None-Exist"
        if entry.resource_type in ORDERS:
            placed = self._placed_by(entry.if_none_exist, place, entry.resource_type)
            return placed[0] if placed else None
        if entry.resource_type != "Observation":
            return None  # what is not kept is never there
        identifier = token_of(entry.if_none_exist, place)
        found = self._orders.observations(identifier=identifier, limit=2)
        _check_single(found, place)
        return found[0] if found else None

    def _placed_by(
        self, query: Sequence[tuple[str, str]], place: str, kind: str
    ) -> Sequence[PlacedOrder]:
        """The one order of an identifier that came as ``kind``; empty: as either."""
        named = self._orders.search(identifier=token_of(query, place), limit=_MOST_OF_A_NAME)
        found = [one for one in named if kind in ("", came_as(one.order))]
        _check_single(found, place)
        return found

    def _known(self, reference: Json) -> Observation | None:
        """A value that was sent before, by the id that it got or by its identifier."""
        _, _, observation_id = str(reference.get("reference", "")).rpartition("Observation/")
        found: Sequence[Observation] = ()
        if observation_id:
            found = self._orders.observations(observation_id=observation_id, limit=1)
        identifier = reference.get("identifier")
        if not found and isinstance(identifier, dict) and identifier.get("value"):
            pair = (str(identifier.get("system", "")), str(identifier["value"]))
            found = self._orders.observations(identifier=pair, limit=2)
            _check_single(found, "")
        return found[0] if found else None

    def _requests_of_tasks(self, entries: Sequence[Entry]) -> set[int]:
        """The ServiceRequests that a Task of the message fulfils: they are its order's."""
        found: set[int] = set()
        for entry in entries:
            if entry.resource.get("resourceType") != "Task":
                continue
            based_on = entry.resource.get("basedOn", [])
            named = [entry.resource.get("focus"), *(based_on if isinstance(based_on, list) else [])]
            for reference in named:
                if isinstance(reference, dict):
                    led = self._message.lead(reference, self._located(entry))
                    found |= {id(led.resource)} if led is not None else set()
        return found

    @staticmethod
    def _located(entry: Entry) -> Located:
        return Located(entry.resource, entry.full_url, entry.place)


def _check_shape(entry: Entry) -> None:
    """Is it the resource that its URL says, of R4, at a place that the server gives?"""
    kind = entry.resource_type
    if entry.resource.get("resourceType") != kind:
        raise malformed(f"the resource is no {kind}", f"{entry.place}.resourceType")
    problems = input_problems(entry.resource, entry.place)
    if problems:
        raise Refused(HTTPStatus.BAD_REQUEST, *problems)
    if entry.method == "PUT" and kind == "Observation" and entry.resource_id:
        text = "ids are given by this server: POST the Observation, or PUT it by identifier"
        issue, allowed = Issue("not-supported", text, entry.where), {"Allow": "GET, HEAD"}
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, issue, headers=allowed)


def _check_single(found: Sequence[object], place: str) -> None:
    if len(found) > 1:
        issue = Issue("multiple-matches", "several resources have this identifier", place)
        raise Refused(HTTPStatus.PRECONDITION_FAILED, issue)
