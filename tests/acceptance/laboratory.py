"""Patients of Synthea in a real EHR, orders for them, and what becomes of these, as whoever placed
them sees it; with FIB-4 and eGFR by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
from fhir.resources.R4B.bundle import Bundle

from hub.domain.access import Scope
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.running_hub import EHR, RunningHub, wait_for

Json = dict[str, Any]

SYNTHEA = "https://github.com/synthetichealth/synthea"
FHIR_JSON = {"Content-Type": "application/fhir+json"}
ORDERS = "urn:ris:tasks"
FIB4, EGFR = "98488-0", "98979-8"
AST, ALT, PLATELETS, CREATININE = "1920-8", "1742-6", "777-3", "38483-4"
WANTED = (AST, ALT, PLATELETS, CREATININE)
OVER = ("completed", "rejected", "failed", "cancelled")
OUTCOMES = ["assessed", "not-assessable", "unsuitable", "failed"]
"""The EHR hears of those too that get no score."""
SHOWN = ("DiagnosticReport", "Observation", "Device", "Provenance", "Task")
"""The types of a report on measured values."""


# --- the EHR ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """One patient of Synthea, and the bundle that holds everything about the patient."""

    name: str
    patient_id: str
    born: date
    is_female: bool
    bundle: Json

    @property
    def reference(self) -> Json:
        """To the patient, by identifier."""
        return {"identifier": {"system": SYNTHEA, "value": self.patient_id}}

    def values(self, *codes: str) -> list[Json]:
        """The Observations of these LOINC codes, the newest first."""
        resources = [entry["resource"] for entry in self.bundle["entry"]]
        found = [one for one in resources if one["resourceType"] == "Observation"]
        chosen = [one for one in found if code_of(one) in codes]
        return sorted(chosen, key=lambda one: str(one["effectiveDateTime"]), reverse=True)

    def value(self, code: str) -> float:
        """The newest value; platelets in 10*9/L, which are as many as in 10*3/uL."""
        return float(self.values(code)[0]["valueQuantity"]["value"])

    @property
    def measured(self) -> datetime:
        """When the newest of the wanted values was."""
        return datetime.fromisoformat(self.values(*WANTED)[0]["effectiveDateTime"])

    @property
    def fib4(self) -> float:
        """Sterling 2006: age x AST / (platelets x square root of ALT), two digits."""
        divisor = self.value(PLATELETS) * math.sqrt(self.value(ALT))
        return round(self._age * self.value(AST) / divisor, 2)

    @property
    def egfr(self) -> float:
        """Inker 2021 (CKD-EPI, creatinine in mg/dL, without race), whole numbers."""
        kappa, alpha = (0.7, -0.241) if self.is_female else (0.9, -0.302)
        part = self.value(CREATININE) / kappa
        found = 142 * min(part, 1) ** alpha * max(part, 1) ** -1.2 * 0.9938**self._age
        return float(round(found * (1.012 if self.is_female else 1)))

    @property
    def _age(self) -> int:
        at = self.asked_at.date()
        return at.year - self.born.year - ((at.month, at.day) < (self.born.month, self.born.day))

    @property
    def asked_at(self) -> datetime:
        """A day after the last of the values."""
        return (self.measured + timedelta(days=1)).astimezone(UTC)


def as_of(person: Person, now: datetime) -> Person:
    """The same patient, whose values were measured so that the newest is a day old."""
    later = now - timedelta(days=1) - person.measured
    bundle = json.loads(json.dumps(person.bundle))
    for entry in bundle["entry"]:
        resource = entry["resource"]
        if resource["resourceType"] == "Observation":
            moment = datetime.fromisoformat(resource["effectiveDateTime"]) + later
            resource["effectiveDateTime"] = moment.isoformat(timespec="seconds")
    return replace(person, bundle=bundle)


def people(shared_data: Path) -> dict[str, Person]:
    """The five, by first name."""
    found = {}
    for path in sorted((shared_data / "fhir" / "synthea-r4").glob("*.json")):
        bundle = json.loads(path.read_bytes())
        (one,) = (
            e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Patient"
        )
        (patient_id,) = (i["value"] for i in one["identifier"] if i.get("system") == SYNTHEA)
        name = path.name.partition("_")[0]
        born, is_female = date.fromisoformat(one["birthDate"]), one["gender"] == "female"
        found[name] = Person(name, patient_id, born, is_female, bundle)
    assert len(found) == 5
    return found


def load(ehr: FhirServer, persons: Iterable[Person]) -> None:
    """Put everything of these patients into the EHR, as Synthea wrote it."""
    for person in persons:
        answer = httpx.post(ehr.base_url, json=person.bundle, headers=FHIR_JSON, timeout=120)
        told = {e["response"]["status"] for e in answer.raise_for_status().json()["entry"]}
        assert told == {"201"}, told


def code_of(resource: Json) -> str:
    """The first code of an Observation."""
    return str(resource["code"]["coding"][0]["code"])


# --- the hub ---------------------------------------------------------------------------------


def sections(ehr: FhirServer, trigger: str = "order", **more: Any) -> Json:
    """A hub that has the liver and kidney scores, asks the EHR for values and sends reports
    there."""
    # on a loaded machine this server takes long for a search
    record = {"name": "record", "kind": "fhir", "url": ehr.base_url, "timeout": 120}
    there = {"name": EHR, "kind": "fhir", "url": ehr.base_url, "outcomes": OUTCOMES}
    return {
        "destinations": [there],
        "site": {"patient_identifier_system": SYNTHEA},
        "health_records": [record],
        "models": [{"package": "builtin:liver-kidney-scores"}],
        "routes": [laboratory_route(trigger)],
        **more,
    }


def laboratory_route(trigger: str = "order", name: str = "laboratory", **more: Any) -> Json:
    return {
        "name": name,
        "when": "study.is_case",
        "model": "liver-kidney-scores",
        "trigger": trigger,
        "deliver_to": [EHR],
        **more,
    }


SOURCE = {"name": "fhir", "kind": "fhir"}


def task_of_values(number: str, person: Person, **more: Any) -> Json:
    """A Task that asks for AI on values that the EHR has."""
    return {
        "resourceType": "Task",
        "identifier": [{"system": ORDERS, "value": number}],
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "urn:caidx:task-codes", "code": "ai-analysis"}]},
        "for": person.reference,
        "authoredOn": person.asked_at.isoformat(),
        **more,
    }


@dataclass(frozen=True)
class FhirClient:
    """Whoever places orders and reads reports: every answer is judged."""

    hub: RunningHub
    validators: FhirValidators

    @property
    def headers(self) -> dict[str, str]:
        """What opens the door."""
        return self.hub.headers(Scope.SYSTEM)

    def post(self, resource: Json) -> httpx.Response:
        kind = resource["resourceType"]
        path = "/fhir" if kind == "Bundle" else f"/fhir/{kind}"
        return self._judged("POST", path, resource)

    def place(self, resource: Json) -> str:
        """Post an order; the id of the hub's Task."""
        answer = self.post(resource)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> Json:
        """A resource, or the Bundle of a search."""
        answer = self._judged("GET", f"/fhir/{path}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def found(self, query: str) -> list[Json]:
        """The resources that a search finds, on all its pages."""
        resources: list[Json] = []
        path = query
        while path:
            bundle = self.get(path)
            entries = bundle.get("entry", [])
            resources += [e["resource"] for e in entries if e["search"]["mode"] == "match"]
            links = {link["relation"]: link["url"] for link in bundle["link"]}
            path = links.get("next", "").partition("/fhir/")[2]
        return resources

    def task(self, order_id: str) -> Json:
        return self.get(f"Task/{order_id}")

    def over(self, order_id: str) -> Json:
        """Wait until the order is over; its Task."""
        wait_for(
            lambda: self._status(order_id) in OVER,
            f"order {order_id} to be over",
            explain=lambda: f"{self._status(order_id)}\n{self.hub.log_text()[-20_000:]}",
        )
        return self.task(order_id)

    def reports_of(self, task: Json) -> list[Json]:
        """What the outputs of a Task lead to."""
        named = [one["valueReference"]["reference"] for one in task.get("output", [])]
        return [self.get(one) for one in named if one.startswith("DiagnosticReport/")]

    def _status(self, order_id: str) -> str:
        answer = self.hub.get(f"/fhir/Task/{order_id}", Scope.SYSTEM)
        return str(answer.raise_for_status().json()["status"])

    def _judged(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        headers = {**self.headers, **(FHIR_JSON if body else {})}
        url = f"{self.hub.http_url}{path}"
        answer = httpx.request(method, url, json=body, headers=headers, timeout=120)
        self.judge(answer.json())
        return answer

    def judge(self, resource: Json) -> None:
        """Three validators that share no code have nothing against it."""
        if resource["resourceType"] == "Bundle":
            Bundle.model_validate(resource)
        assert self.validators.errors(resource) == []


def delivered(hub: RunningHub, order_id: str) -> None:
    """Wait until the EHR confirmed every report of an order."""
    asked = (
        "SELECT d.state FROM deliveries d JOIN order_requests o ON o.request_id = d.request_id"
        " WHERE o.order_id = :order"
    )

    def states() -> list[str]:
        return [row["state"] for row in hub.rows(asked, order=order_id)]

    wait_for(
        lambda: set(states()) == {"delivered"},
        f"the report of order {order_id} to be delivered",
        explain=lambda: f"{states()}\n{hub.log_text()[-20_000:]}",
    )


def sent_bundles(hub: RunningHub) -> list[Json]:
    """Every transaction that the hub made of a report."""
    rows = hub.rows("SELECT sha256 FROM documents WHERE kind = 'fhir'")
    files = [path for row in rows for path in (hub.data / "documents").rglob(f"*{row['sha256']}*")]
    assert len(files) == len(rows) > 0
    return [orjson.loads(path.read_bytes()) for path in files]


# --- the same on both sides ------------------------------------------------------------------


def device_of(report: Json) -> str:
    """The reference to the AI that made a report: an extension, for in R4 no Device may be its
    performer."""
    (found,) = (
        extension["valueReference"]["reference"]
        for one in report["performer"]
        for extension in one.get("extension", [])
    )
    return str(found)


def same_everywhere(resources: Iterable[Json], base_url: str) -> list[Json]:
    """Resources without what each server gives them itself: ids and versions; references to each
    other lead to identifiers instead, and those to the EHR's are relative. Sorted."""
    listed: list[Json] = json.loads(json.dumps(list(resources)).replace(f'"{base_url}/', '"'))
    names = {f"{one['resourceType']}/{one['id']}": _lasting(one) for one in listed}
    plain = [_renamed({**one, "id": "", "meta": _lasting_meta(one)}, names) for one in listed]
    return sorted(plain, key=lambda one: json.dumps(one, sort_keys=True))


def _lasting(resource: Json) -> str:
    """What a resource is called by all; a Provenance is told by what it is about."""
    kind, identifiers = resource["resourceType"], resource.get("identifier", [])
    named = [f"{one.get('system')}|{one['value']}" for one in identifiers]
    return f"{kind} {' '.join(named)}"


def _lasting_meta(resource: Json) -> Json:
    # the tag is put there with the delivery, to see later whether a person changed the report
    own = ("versionId", "lastUpdated", "tag")
    return {name: value for name, value in resource.get("meta", {}).items() if name not in own}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: names.get(inner, inner) if name == "reference" else _renamed(inner, names)
        for name, inner in value.items()
    }
