"""What the hub expects of every health record (hub.ports.HealthRecord), of the FHIR client before
a real server, and of the same client before servers that answer wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from connectors.fhir import CONNECTOR
from connectors.fhir.record import FhirRecord
from connectors.fhir.record_config import FhirRecordConfig
from hub.domain.coding import Code
from hub.domain.identity import PatientIdentity
from hub.errors import CaidxError, RejectedError, TransientError
from hub.ports import HealthRecord, RecordContext
from tests.fakes import FrozenClock
from tests.peers import free_port
from tests.peers.fhir_server import FhirServer
from tests.peers.http_script import HttpScript, Reply, scripted

__all__ = ["scripted"]  # a fixture

SYSTEM = "urn:oid:1.2.3.4"
AST, ALT = Code("1920-8", "LN", "AST"), Code("1742-6", "LN", "ALT")
PATIENT = PatientIdentity("P-1", "UMR")
Json = dict[str, Any]


def client(url: str, **fields: Any) -> FhirRecord:
    assert CONNECTOR.build_record is not None
    context = RecordContext("ehr", FrozenClock(), {"UMR": SYSTEM})
    record = CONNECTOR.build_record(FhirRecordConfig(url=url, timeout=10, **fields), context)
    assert isinstance(record, FhirRecord)
    return record


def patient(patient_id: str = "p1", value: str = PATIENT.patient_id, **fields: Any) -> Json:
    return {
        "resourceType": "Patient",
        "id": patient_id,
        "identifier": [{"system": SYSTEM, "value": value}],
        "birthDate": "1960-02-03",
        "gender": "female",
    } | fields


def observation(number: int, code: Code = AST, subject: str = "p1", **fields: Any) -> Json:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code.code_value}]},
        "subject": {"reference": f"Patient/{subject}"},
        "effectiveDateTime": f"2025-01-{number % 28 + 1:02d}T08:00:00Z",
        "valueQuantity": {
            "value": number,
            "unit": "U/L",
            "system": "http://unitsofmeasure.org",
            "code": "U/L",
        },
    } | fields


# --- a real server ---------------------------------------------------------------------------


@dataclass
class Ehr:
    """A FHIR server with one patient, the same under another number, and a stranger."""

    server: FhirServer
    record: HealthRecord
    ids: dict[str, str]

    def add(self, resource: Json) -> str:
        return posted(self.server, resource)


def posted(server: FhirServer, resource: Json) -> str:
    resource = {name: value for name, value in resource.items() if name != "id"}
    url = f"{server.base_url}/{resource['resourceType']}"
    headers = {"Content-Type": "application/fhir+json"}
    answer = httpx.post(url, json=resource, headers=headers, timeout=30)
    return str(answer.raise_for_status().json()["id"])


@pytest.fixture
def ehr(fhir_server: FhirServer) -> Iterator[Ehr]:
    ids = {name: posted(fhir_server, patient(value=name)) for name in (PATIENT.patient_id, "P-2")}
    record = client(fhir_server.base_url)
    yield Ehr(fhir_server, record, ids)
    record.close()


@pytest.mark.peers
def test_a_real_server_tells_who_the_patient_is(ehr: Ehr) -> None:
    assert ehr.record.patient(PATIENT) == PatientIdentity(
        PATIENT.patient_id, "UMR", "", "19600203", "F"
    )
    assert ehr.record.check().startswith("FHIR 4.0")


@pytest.mark.peers
def test_a_real_server_gives_the_values_of_the_patient_and_no_others(ehr: Ehr) -> None:
    mine, other = ehr.ids[PATIENT.patient_id], ehr.ids["P-2"]
    names = {ehr.add(observation(n, AST if n % 2 else ALT, mine)) for n in range(1, 6)}
    ehr.add(observation(6, AST, other))
    ehr.add(observation(7, Code("777-3", "LN", "platelets"), mine))
    found = ehr.record.observations(PATIENT, (AST, ALT), None)
    base = ehr.server.base_url
    assert {o.reference for o in found} == {f"{base}/Observation/{name}" for name in names}
    assert {o.value for o in found} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert {o.patient for o in found} == {PATIENT}
    since = datetime(2025, 1, 5, tzinfo=UTC)
    assert {o.value for o in ehr.record.observations(PATIENT, (AST, ALT), since)} == {4.0, 5.0}
    assert ehr.record.observations(PatientIdentity("P-2", "UMR"), (ALT,), None) == ()
    short = client(base, page_size=2)  # this server has no next page
    with pytest.raises(RejectedError, match="2 of 5 resources and no further page"):
        short.observations(PATIENT, (AST, ALT), None)
    short.close()


@pytest.mark.peers
def test_a_real_server_that_does_not_know_the_patient_is_no_empty_record(ehr: Ehr) -> None:
    for ask in (ehr.record.patient, lambda p: ehr.record.observations(p, (AST,), None)):
        with pytest.raises(RejectedError, match="knows no patient"):
            ask(PatientIdentity("P-3", "UMR"))
    posted(ehr.server, patient(value="P-2"))
    with pytest.raises(RejectedError, match="several of its patients"):
        ehr.record.patient(PatientIdentity("P-2", "UMR"))


@pytest.mark.peers
def test_a_real_server_that_is_away_is_asked_later(ehr: Ehr) -> None:
    away = client(f"http://127.0.0.1:{free_port()}/fhir")
    with pytest.raises(TransientError):
        away.observations(PATIENT, (AST,), None)
    with pytest.raises(TransientError):
        away.check()
    away.close()


# --- servers that answer wrongly ---------------------------------------------------------------


def searchset(*resources: Json, following: str = "", **fields: Any) -> Reply:
    link = [{"relation": "next", "url": following}] if following else []
    bundle = {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": one} for one in resources],
        "link": link,
    } | fields
    return (200, json.dumps(bundle).encode(), {"Content-Type": "application/fhir+json"})


def outcome(severity: str) -> Json:
    issue = {"severity": severity, "code": "processing", "diagnostics": "about Jane Doe"}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


WRONG: dict[str, tuple[tuple[Reply, ...], type[CaidxError], str]] = {
    "a stranger's value": (
        (searchset(patient()), searchset(observation(1, AST, "p2"))),
        RejectedError,
        "another patient",
    ),
    "a value without a subject": (
        (searchset(patient()), searchset(observation(1) | {"subject": None})),
        RejectedError,
        "another patient",
    ),
    "a patient who was not asked about": (
        (searchset(patient(value="P-9")),),
        RejectedError,
        "knows no patient",
    ),
    "a patient of another system": (
        (searchset(patient(identifier=[{"system": "urn:x", "value": PATIENT.patient_id}])),),
        RejectedError,
        "knows no patient",
    ),
    "a merged patient": (
        (searchset(patient(link=[{"type": "replaced-by", "other": {}}])),),
        RejectedError,
        "not active",
    ),
    "a next page elsewhere": (
        (searchset(patient()), searchset(following="http://169.254.169.254/latest")),
        RejectedError,
        "another server",
    ),
    "an outcome among the matches": (
        (searchset(patient()), searchset(outcome("error"))),
        RejectedError,
        "went wrong",
    ),
    "too many": (
        (searchset(patient()), searchset(*(observation(n) for n in range(1, 9)))),
        RejectedError,
        "more than 5",
    ),
    "an entry without a resource": (
        (searchset(patient()), searchset(entry=[{"fullUrl": "x"}])),
        TransientError,
        "no resource",
    ),
    "no bundle": ((searchset(patient()), (200, b"[]", {})), TransientError, "no Bundle"),
    "no searchset": (
        (searchset(patient()), searchset(type="collection")),
        TransientError,
        "no searchset",
    ),
    "a refusal": (
        (searchset(patient()), (403, json.dumps(outcome("error")).encode(), {})),
        TransientError,
        "HTTP 403",
    ),
    "a refusal to look for the patient": (
        ((401, json.dumps(outcome("error")).encode(), {}),),
        TransientError,
        "HTTP 401",
    ),
    "an overload": (
        (searchset(patient()), (503, b"", {"Retry-After": "7"})),
        TransientError,
        "HTTP 503",
    ),
    "a redirect": (
        (searchset(patient()), (302, b"", {"Location": "http://169.254.169.254/"})),
        TransientError,
        "HTTP 302",
    ),
    "a value that is none": (
        (searchset(patient()), searchset(observation(1, valueQuantity={"value": "Doe"}))),
        RejectedError,
        "no number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_never_no_value(scripted: Callable[..., HttpScript], name: str) -> None:
    answers, error, words = WRONG[name]
    record = client(scripted(*answers).url, most_values=5)
    with pytest.raises(error, match=words) as caught:
        record.observations(PATIENT, (AST,), None)
    assert "Doe" not in str(caught.value)
    assert PATIENT.patient_id not in str(caught.value)
    record.close()


def test_all_pages_are_read(scripted: Callable[..., HttpScript]) -> None:
    first = searchset(observation(1), observation(2), following="Observation?page=2", total=3)
    script = scripted(searchset(patient()), first, searchset(observation(3), total=3))
    record = client(script.url)
    assert [o.value for o in record.observations(PATIENT, (AST,), None)] == [1.0, 2.0, 3.0]
    assert script.requests[-1][":path"] == "/base/Observation?page=2"
    record.close()


def test_pages_that_lead_in_a_circle_end(scripted: Callable[..., HttpScript]) -> None:
    script = scripted(searchset(patient()), searchset(observation(1), following="Observation?p=2"))
    record = client(script.url)
    with pytest.raises(TransientError, match="circle"):
        record.observations(PATIENT, (AST,), None)
    record.close()


def test_empty_pages_that_never_end_are_not_read_for_ever(
    scripted: Callable[..., HttpScript],
) -> None:
    pages = [searchset(following=f"Observation?p={n}") for n in range(40)]
    record = client(scripted(searchset(patient()), *pages).url, most_values=5)
    with pytest.raises(RejectedError, match="more than 5 pages"):
        record.observations(PATIENT, (AST,), None)
    record.close()


def test_what_is_asked_is_escaped_and_names_the_codes(
    scripted: Callable[..., HttpScript],
) -> None:
    odd = PatientIdentity("P|1,$", "UMR")
    script = scripted(searchset(patient(value=odd.patient_id)), searchset())
    record = client(script.url)
    assert record.observations(odd, (AST, ALT), None) == ()
    who, what = (httpx.URL(one[":path"]).params for one in script.requests)
    assert who["identifier"] == rf"{SYSTEM}|P\|1\,\$"
    assert what["code"] == "http://loinc.org|1920-8,http://loinc.org|1742-6"
    assert what["patient"] == "p1"
    record.close()


def test_without_the_system_of_the_identifier_nobody_is_asked(
    scripted: Callable[..., HttpScript],
) -> None:
    script = scripted(searchset())
    record = client(script.url)
    with pytest.raises(RejectedError, match="identifier_systems"):
        record.patient(PatientIdentity("P-1", "OTHER"))
    assert script.requests == []
    record.close()
