"""Reading and searching: reports as resources of their own, orders, and values that were sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from connectors.fhir.matching import fits, names
from connectors.fhir.parameters import Wanted, identity_of, token
from hub.domain.identity import PatientIdentity, derived_uuid
from hub.domain.observation import Observation
from hub.formats.fhir.facade import SHOWN, resources_in
from hub.formats.fhir.order import ORDER_SYSTEM
from hub.formats.fhir.order_task import (
    came_as,
    order_service_request,
    order_task,
    sent_observation,
)
from hub.formats.fhir.outcome import Issue, Refused, malformed, operation_outcome
from hub.formats.fhir.resources import DICOM_UID, MODEL_SYSTEM
from hub.formats.fhir.task import REQUEST_SYSTEM
from hub.ports import Orders, PlacedOrder, ReportBundle, ReportQuery, Reports

Json = dict[str, Any]
Stage = Callable[[int, int], Sequence[Sequence[Json]]]
"""(limit, offset) -> items, each of which is some resources."""

_AT_ONCE = 50
_MOST_COUNTED = 10_000
_MOST_LOOKED_AT = 2_000
"""Reports for one page: the next page goes on behind them."""
_CURSOR = re.compile(r"(\d{1,2})-(\d{1,9})-(\d{1,6})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ORDER_ID = re.compile(r"[0-9a-f]{32}")
_OID = "urn:oid:"


@dataclass(frozen=True, slots=True)
class Page:
    resources: tuple[Json, ...]
    next_cursor: str
    """Empty: this was the last one."""


class Reader:
    """Answers reads and searches of one hub. Thread-safe.

    Args:
        orders, reports: of the hub.
        issuers: system of an identifier -> issuer as in the images.
    """

    def __init__(self, orders: Orders, reports: Reports, issuers: Mapping[str, str]) -> None:
        self._orders = orders
        self._reports = reports
        self._issuers = issuers
        self._systems = {issuer: system for system, issuer in issuers.items() if system}

    # --- one resource --------------------------------------------------------------------

    def read(self, resource_type: str, resource_id: str) -> Json:
        """The resource as it stands.

        Raises:
            Refused: 404.
        """
        wanted = Wanted(resource_type=resource_type, resource_id=resource_id, count=1)
        page = self.page(wanted)
        if not page.resources:
            text = f"there is no {resource_type} with this id"
            raise Refused(HTTPStatus.NOT_FOUND, Issue("not-found", text))
        return page.resources[0]

    def task_of(self, placed: PlacedOrder) -> Json:
        """The Task of an order, with the reports that it led to."""
        found = self._reports.find(ReportQuery(order_id=placed.order.order_id), _AT_ONCE)
        shown = [one for report in found for one in resources_in(report, "DiagnosticReport")]
        return order_task(placed, self._systems, [str(one["id"]) for one in shown])

    def order_as(self, resource_type: str, placed: PlacedOrder) -> Json:
        """An order as a resource of a type: Task or ServiceRequest."""
        if resource_type == "ServiceRequest":
            return order_service_request(placed, self._systems)
        return self.task_of(placed)

    def observation_as(self, observation: Observation) -> Json:
        """A value that was sent."""
        return sent_observation(observation, self._systems)

    # --- many ----------------------------------------------------------------------------

    def searchset(self, wanted: Wanted, base_url: str) -> Json:
        """A Bundle of type searchset with links to itself and to the next page (R4 http.html,
        "Paging"); ``total`` is told only where it is asked for."""
        root, kind = f"{base_url}/{wanted.resource_type}", wanted.resource_type
        bundle: Json = {"resourceType": "Bundle", "type": "searchset"}
        if wanted.only_counted:
            links = [_link("self", root, wanted.used)]
            return bundle | {"total": self._total(wanted), "link": links}
        page = self.page(wanted)
        cursor = (("_cursor", wanted.cursor),) if wanted.cursor else ()
        links = [_link("self", root, (*wanted.used, *cursor))]
        if page.next_cursor:
            links.append(_link("next", root, (*wanted.used, ("_cursor", page.next_cursor))))
        entries = [
            {
                "fullUrl": f"{base_url}/{kind}/{one['id']}",
                "resource": one,
                "search": {"mode": "match"},
            }
            for one in page.resources
        ]
        entries += [
            {"resource": outcome, "search": {"mode": "outcome"}} for outcome in self._told(wanted)
        ]
        bundle["link"] = links
        return bundle | ({"entry": entries} if entries else {})

    def page(self, wanted: Wanted) -> Page:
        """The resources of one page, the newest first."""
        stages = list(self._stages(wanted))
        issuer = self._issuers.get(wanted.patient[0]) if wanted.patient else None
        stage, offset, skipped = _cursor(wanted.cursor)
        found: list[Json] = []
        seen: set[str] = set()
        looked_at = 0
        while stage < len(stages):
            items = stages[stage](_AT_ONCE, offset)
            for number, item in enumerate(items):
                fitting = [one for one in item if fits(one, wanted, issuer)]
                for position, one in enumerate(fitting[skipped:], skipped):
                    if len(found) == wanted.count:
                        return Page(tuple(found), f"{stage}-{offset + number}-{position}")
                    if one["id"] not in seen:
                        seen.add(one["id"])
                        found.append(one)
                skipped = 0
            offset, looked_at = offset + len(items), looked_at + len(items)
            if len(items) < _AT_ONCE:
                stage, offset = stage + 1, 0
            elif looked_at >= _MOST_LOOKED_AT:
                return Page(tuple(found), f"{stage}-{offset}-0")
        return Page(tuple(found), "")

    def _total(self, wanted: Wanted) -> int:
        counted, cursor = 0, ""
        while True:
            page = self.page(
                Wanted(
                    resource_type=wanted.resource_type,
                    resource_id=wanted.resource_id,
                    identifier=wanted.identifier,
                    patient=wanted.patient,
                    based_on=wanted.based_on,
                    target=wanted.target,
                    tokens=wanted.tokens,
                    count=1000,
                    cursor=cursor,
                )
            )
            counted, cursor = counted + len(page.resources), page.next_cursor
            if not cursor:
                return counted
            if counted > _MOST_COUNTED:
                raise malformed("there are too many to be counted", code="too-costly")

    def _told(self, wanted: Wanted) -> list[Json]:
        issues = []
        if wanted.patient and identity_of(wanted.patient, self._issuers) is None:
            text = "no patient can have an identifier of this system: see site.identifier_systems"
            issues.append(Issue("not-found", text, severity="warning"))
        if wanted.ignored:
            text = "parameters that are not known were ignored: the self link has the others"
            issues.append(Issue("not-supported", text, severity="warning"))
        return [operation_outcome(issues)] if issues else []

    # --- where they come from ------------------------------------------------------------

    def _stages(self, wanted: Wanted) -> Iterator[Stage]:
        """Orders and sent values first, then what stands in reports."""
        patient: PatientIdentity | None = None
        if wanted.patient is not None:
            patient = identity_of(wanted.patient, self._issuers)
            if patient is None:
                return
        kind = wanted.resource_type
        if kind in ("Task", "ServiceRequest"):
            yield partial(self._orders_of, wanted, patient)
        if kind == "Observation" and not wanted.based_on:
            yield partial(self._values_of, wanted, patient)
        if kind in SHOWN:
            for query in self._queries(wanted, patient):
                yield partial(self._resources_of, query, wanted)

    def _orders_of(
        self, wanted: Wanted, patient: PatientIdentity | None, limit: int, offset: int
    ) -> Sequence[Sequence[Json]]:
        kind, named, identifier = wanted.resource_type, wanted.resource_id, wanted.identifier
        if identifier and identifier[0] == ORDER_SYSTEM:
            named, identifier = identifier[1], None
        if named and not wanted.based_on:  # which only the store can judge
            placed = self._orders.find(named) if _ORDER_ID.fullmatch(named) else None
            listed = [placed] if placed is not None and offset == 0 else []
        else:
            listed = list(
                self._orders.search(
                    patient=patient,
                    identifier=identifier,
                    based_on=wanted.based_on,
                    limit=limit,
                    offset=offset,
                )
            )
        return [
            [self.order_as(kind, one)] if kind in ("Task", came_as(one.order)) else []
            for one in listed
        ]

    def _values_of(
        self, wanted: Wanted, patient: PatientIdentity | None, limit: int, offset: int
    ) -> Sequence[Sequence[Json]]:
        if wanted.resource_id and not _ORDER_ID.fullmatch(wanted.resource_id):
            return []
        found = self._orders.observations(
            observation_id=wanted.resource_id,
            patient=patient,
            identifier=wanted.identifier,
            limit=limit,
            offset=offset,
        )
        return [[self.observation_as(one)] for one in found]

    def _resources_of(
        self, query: ReportQuery, wanted: Wanted, limit: int, offset: int
    ) -> Sequence[Sequence[Json]]:
        return [
            resources_in(one, wanted.resource_type)
            if not query.accession_number or _is_based_on(one, wanted.based_on)
            else []
            for one in self._reports.find(query, limit, offset)
        ]

    def _queries(self, wanted: Wanted, patient: PatientIdentity | None) -> Iterator[ReportQuery]:
        """Which reports hold what is looked for."""
        kind = wanted.resource_type
        if wanted.based_on:
            yield from self._based_on(wanted.based_on, patient)
        elif wanted.resource_id:
            if _UUID.fullmatch(wanted.resource_id):
                yield ReportQuery(patient=patient, resource=(kind, wanted.resource_id))
        elif wanted.target:
            target, _, name = wanted.target.partition("/")
            yield ReportQuery(patient=patient, resource=(target, name))
        elif wanted.identifier:
            yield from _identified(kind, *wanted.identifier, patient)
        else:
            yield ReportQuery(patient=patient)

    def _based_on(self, text: str, patient: PatientIdentity | None) -> Iterator[ReportQuery]:
        """Reports of orders that name it, or that are it; and of an accession number."""
        name = text.rpartition("/")[2]
        if _ORDER_ID.fullmatch(name):
            yield ReportQuery(patient=patient, order_id=name)
        for placed in self._orders.search(based_on=text, limit=_AT_ONCE):
            yield ReportQuery(patient=patient, order_id=placed.order.order_id)
        if "/" not in text or "|" in text:
            yield ReportQuery(patient=patient, accession_number=text.rpartition("|")[2])


def _is_based_on(report: ReportBundle, text: str) -> bool:
    """Whether a report names the order by this identifier: the store knows accession numbers
    without their systems."""
    wanted = token(text)
    return any(
        names(reference, wanted)
        for one in resources_in(report, "DiagnosticReport")
        for reference in one.get("basedOn", [])
    )


def _identified(
    kind: str, system: str, value: str, patient: PatientIdentity | None
) -> Iterator[ReportQuery]:
    """Reports in which something of a type has an identifier that the hub gives."""
    if _UUID.fullmatch(value):
        yield ReportQuery(patient=patient, resource=(kind, value))
        return
    if system in ("", REQUEST_SYSTEM) and kind == "Task":
        yield ReportQuery(patient=patient, request_id=value)
    if system in ("", MODEL_SYSTEM) and kind == "Device" and "|" in value:
        model_id, _, version = value.partition("|")
        yield ReportQuery(model=(model_id, version))
    if system not in ("", DICOM_UID):
        return
    uid = value.removeprefix(_OID)
    match kind:
        case "DiagnosticReport":
            yield ReportQuery(patient=patient, sop_instance_uid=uid)
        case "ImagingStudy":
            yield ReportQuery(patient=patient, study_instance_uid=uid)
        case "Device":
            yield ReportQuery(resource=(kind, str(derived_uuid("fhir", "Device", uid))))
        case _:
            return


def _cursor(text: str) -> tuple[int, int, int]:
    matched = _CURSOR.fullmatch(text) if text else None
    if text and matched is None:
        raise malformed("_cursor is none of this server's", code="value")
    return (0, 0, 0) if matched is None else (int(matched[1]), int(matched[2]), int(matched[3]))


def _link(relation: str, root: str, query: tuple[tuple[str, str], ...]) -> Json:
    return {"relation": relation, "url": f"{root}?{urlencode(query)}" if query else root}
