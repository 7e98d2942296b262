"""A FHIR R4 Task or ServiceRequest as an order: somebody asks for AI on a study or on values.

The patient is looked at from every side: whom the Task is for, and whom study, values and request
are about, has to be one patient, or the order is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any

import orjson

from hub.domain.identity import PatientIdentity, derived_uid
from hub.domain.inference import Priority
from hub.domain.order import Order, OrderSubject
from hub.errors import RejectedError
from hub.formats.fhir.imaging_study import expectation_of
from hub.formats.fhir.intake import (
    Json,
    Located,
    Message,
    Patients,
    Subject,
    identifier_in,
    type_in,
)
from hub.formats.fhir.order_inputs import InputReader, OrderInputs, endpoint_of
from hub.formats.fhir.outcome import unprocessable

TASK_CODES = "urn:caidx:task-codes"
AI_ANALYSIS = "ai-analysis"
ORDER_SYSTEM = "urn:caidx:orders"
ROUTE = "route"

_HL7_TASK_CODES = "http://hl7.org/fhir/CodeSystem/task-code"
_FULFIL = "fulfill"
_PRIORITIES = {
    "": Priority.ROUTINE,
    "routine": Priority.ROUTINE,
    "urgent": Priority.URGENT,
    "asap": Priority.URGENT,
    "stat": Priority.STAT,
}
_ORDERS = ("order", "original-order", "reflex-order", "filler-order", "instance-order")
"""R4 request-intent: ``order`` and its kinds."""
_BASES = frozenset(("ServiceRequest", "CarePlan", "MedicationRequest", "NutritionOrder"))
"""What a DiagnosticReport can be based on in R4."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_LONGEST_NUMBER = 64


@dataclass(frozen=True, slots=True)
class OrderReader:
    """Reads the orders of one message."""

    message: Message
    patients: Patients
    inputs: InputReader
    now: datetime
    """UTC."""

    def order_of(self, located: Located, fresh: str) -> Order:
        """The order that a Task or ServiceRequest is.

        Args:
            located: where it stands.
            fresh: names it where the sender gave no identifier of its own.

        Raises:
            Refused: it asks for nothing, or for something else, or about two patients.
        """
        _check_wish(located)
        found = self.inputs.inputs_of(located)
        patient = self._patient(located, found)
        if len(found.study_instance_uids) > 1:
            raise unprocessable("one order is about one study", located.place)
        if located.kind == "ServiceRequest" and not is_wish(located.resource, found):
            text = "no order for AI: it names no study, no value, and no code of the hub's"
            raise unprocessable(text, located.place, "not-supported")
        order_id = order_id_of(located.resource, self.inputs.source, fresh)
        is_study = bool(found.study_instance_uids)
        numbers = [located.resource, *(one.resource for one in found.requests)]
        accession = _accession(
            [*numbers, *(one.resource for one in found.studies)], self.patients, located
        )
        return Order(
            order_id=order_id,
            source=self.inputs.source,
            subject=OrderSubject.STUDY if is_study else OrderSubject.OBSERVATIONS,
            patient=patient,
            study_instance_uid=found.study_instance_uids[0]
            if is_study
            else derived_uid("case", order_id),
            route=_route(located),
            priority=_PRIORITIES[str(located.resource.get("priority", ""))],
            accession_number=accession[0],
            issuer_of_accession_number=accession[1],
            placer_order_number=_number(numbers, "PLAC"),
            filler_order_number=_number(numbers, "FILL"),
            based_on=tuple(self._based_on(located)),
            resource=orjson.dumps(located.resource).decode(),
            endpoint=next(filter(None, (endpoint_of(s, self.message) for s in found.studies)), ""),
            number_of_instances=_number_of_instances(found),
            # shown above to be the same patient, perhaps by another identifier
            observations=tuple(replace(one, patient=patient) for one in found.observations),
            ordered_at=self._ordered_at(located),
            deadline=self._deadline(located),
        )

    def _patient(self, located: Located, found: OrderInputs) -> PatientIdentity:
        """The one patient of the order."""
        element = "for" if located.kind == "Task" else "subject"
        stated: list[tuple[str, Subject]] = []
        if located.kind != "Task" or "for" in located.resource:
            subject = self.patients.of(located.resource.get(element), located, element)
            stated.append((f"{located.place}.{element}", subject))
        stated += found.subjects
        known = next((one for _, one in stated if one.identities), None)
        if known is None:
            text = "whose it is cannot be told: send the Patient, or put an identifier beside"
            raise unprocessable(text, f"{located.place}.{element}", "not-found")
        for place, subject in stated:
            # of a mere reference nobody knows whom it means, unless the patient was named by it
            if not any(subject.is_same(other) for _, other in stated if other.identities):
                text = "order, study and values are not shown to be of the same patient"
                raise unprocessable(text, place, "conflict")
            if subject.identities and not subject.is_same(known):
                raise unprocessable("the order is about two patients", place, "conflict")
        return known.identities[0]

    def _based_on(self, located: Located) -> Iterable[str]:
        references = [located.resource.get("focus"), *_list(located.resource, "basedOn")]
        if located.kind == "ServiceRequest":
            references = [*_list(located.resource, "basedOn")]
            yield from _text_of(_named(located))
        for reference in references:
            if not isinstance(reference, dict):
                continue
            leads_to = self.message.lead(reference, located)
            if leads_to is not None:
                yield from _text_of(_named(leads_to)) if leads_to.kind in _BASES else ()
            elif type_in(reference) in _BASES:
                yield from _text_of(_bare(reference))

    def _ordered_at(self, located: Located) -> datetime:
        """``authoredOn``: the moment from which the age of values is counted back. One that is
        no full moment, or still to come, tells nothing."""
        try:
            said = datetime.fromisoformat(str(located.resource.get("authoredOn", "")))
        except ValueError:
            return self.now
        return self.now if said.tzinfo is None else min(self.now, said.astimezone(UTC))

    def _deadline(self, located: Located) -> datetime | None:
        restriction = located.resource.get("restriction", {})
        period = restriction.get("period", {}) if isinstance(restriction, dict) else {}
        end = period.get("end") if isinstance(period, dict) else None
        if end is None:
            return None
        place = f"{located.place}.restriction.period.end"
        try:
            deadline = _end_of(str(end))
        except (ValueError, OverflowError):
            raise unprocessable("the deadline is no moment", place, "value") from None
        if deadline <= self.now:
            raise unprocessable("the deadline has passed already", place)
        return deadline


def order_id_of(resource: Json, source: str, fresh: str) -> str:
    """32 hexadecimal digits, of the source and the sender's first identifier (the placer's, if
    it is told apart), or of ``fresh`` where there is none."""
    identifiers = [one for one in _list(resource, "identifier") if isinstance(one, dict)]
    named = [one for one in identifiers if one.get("value")]
    placer = [one for one in named if _is_of_type(one, "PLAC")]
    parts = ["fresh", fresh]
    if named:
        first = (placer or named)[0]
        parts = [str(first.get("system", "")), str(first["value"])]
    text = "\x1f".join([source, str(resource.get("resourceType")), *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_wish(resource: Json, found: OrderInputs) -> bool:
    """Whether a ServiceRequest asks a model: it names what to look at, or says so by its code."""
    asked = (TASK_CODES, AI_ANALYSIS) in _codes(resource)
    return asked or bool(found.study_instance_uids or found.observations)


def _check_wish(located: Located) -> None:
    """Is it an order that can be worked on?"""
    resource, place, kind = located.resource, located.place, located.kind
    wanted = "requested" if kind == "Task" else "active"
    if resource.get("status") != wanted:
        text = f"{kind}.status of an order that is placed is {wanted}"
        raise unprocessable(text, f"{place}.status")
    if resource.get("intent") not in _ORDERS:
        raise unprocessable(f"{kind}.intent must be order", f"{place}.intent")
    for system, code in _codes(resource):
        ours = system == TASK_CODES and code != AI_ANALYSIS
        if ours or (system == _HL7_TASK_CODES and code != _FULFIL):
            text = f"{kind}.code asks for something else than {AI_ANALYSIS}"
            raise unprocessable(text, f"{place}.code", "not-supported")


def _codes(resource: Json) -> list[tuple[str, str]]:
    concept = resource.get("code")
    codings = _list(concept, "coding") if isinstance(concept, dict) else []
    return [
        (str(one.get("system", "")), str(one.get("code", "")))
        for one in codings
        if isinstance(one, dict)
    ]


def _route(located: Located) -> str:
    """Task.input of type ``route``: the name of a route of the hub's."""
    found = set()
    for one in _list(located.resource, "input"):
        kind = one.get("type") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(kind, dict):
            continue
        codes = [c.get("code") for c in _list(kind, "coding") if isinstance(c, dict)]
        if ROUTE in (*codes, kind.get("text")):
            found.add(str(one.get("valueString") or one.get("valueCode") or ""))
    if len(found) > 1 or "" in found:
        text = "Task.input of type route must name one route, as valueString"
        raise unprocessable(text, f"{located.place}.input", "value")
    return found.pop() if found else ""


# --- numbers of the order ----------------------------------------------------------------


def _accession(resources: list[Json], patients: Patients, located: Located) -> tuple[str, str]:
    """Accession number and its issuer."""
    identifiers = [_numbered(one, "ACSN") for one in resources]
    found = {(system, value) for listed in identifiers for system, value in listed}
    if len({value for _, value in found}) > 1:
        raise unprocessable("study and request have different accession numbers", located.place)
    if not found:
        return "", ""
    system, value = max(found)
    return value, patients.issuers.get(system, "") if system else ""


def _number(resources: list[Json], kind: str) -> tuple[str, str] | None:
    return next((pair for one in resources for pair in _numbered(one, kind)), None)


def _numbered(resource: Json, kind: str) -> list[tuple[str, str]]:
    """(system, value) of the identifiers of a type (HL7 v2-0203)."""
    return [
        (str(one.get("system", "")), str(one["value"]))
        for one in _list(resource, "identifier")
        if isinstance(one, dict)
        and _is_of_type(one, kind)
        and 0 < len(str(one.get("value", ""))) <= _LONGEST_NUMBER
    ]


def _is_of_type(identifier: Json, kind: str) -> bool:
    stated = identifier.get("type")
    codings = _list(stated, "coding") if isinstance(stated, dict) else []
    return any(isinstance(one, dict) and one.get("code") == kind for one in codings)


def _number_of_instances(found: OrderInputs) -> int | None:
    for study in found.studies:
        try:
            return expectation_of(study.resource).number_of_instances
        except RejectedError:
            continue  # it does not tell: then nobody waits for a number
    return None


# --- references and time -----------------------------------------------------------------


def _named(located: Located) -> Json | None:
    """A resource of the message as those outside of it can refer to it."""
    identifiers = [one for one in _list(located.resource, "identifier") if isinstance(one, dict)]
    first = next((one for one in identifiers if one.get("value")), None)
    if first is not None:
        kept = {name: first[name] for name in ("type", "system", "value") if name in first}
        return {"type": located.kind, "identifier": kept}
    if located.full_url.startswith(("http://", "https://")):
        return {"type": located.kind, "reference": located.full_url}
    return None


def _bare(reference: Json) -> Json | None:
    """A reference to something outside, without the words beside it."""
    kept: Json = {name: reference[name] for name in ("reference", "type") if name in reference}
    identifier = identifier_in(reference)
    if identifier is not None:
        kept = {"type": type_in(reference), "identifier": identifier}
    return kept or None


def _text_of(reference: Json | None) -> Iterable[str]:
    if reference is not None:
        yield orjson.dumps(reference, option=orjson.OPT_SORT_KEYS).decode()


def _end_of(text: str) -> datetime:
    """The end of a FHIR dateTime: of a day its last second (UTC)."""
    if _DAY.fullmatch(text):
        day = datetime.fromisoformat(text).date()
        return datetime.combine(day, time(23, 59, 59), UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(UTC)


def _list(resource: Any, name: str) -> list[Any]:
    value = resource.get(name, [])
    return value if isinstance(value, list) else []
