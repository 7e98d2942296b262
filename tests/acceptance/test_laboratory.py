"""Laboratory values of an EHR become a report in it: the whole hub, a real FHIR server with the
patients of Synthea, and formulas that are computed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.laboratory import (
    ALT,
    AST,
    CREATININE,
    EGFR,
    FIB4,
    PLATELETS,
    SHOWN,
    SOURCE,
    SYNTHEA,
    FhirClient,
    Json,
    Person,
    code_of,
    delivered,
    device_of,
    load,
    people,
    same_everywhere,
    sections,
    sent_bundles,
    task_of_values,
)
from tests.peers.fhir_server import FhirServer, FhirValidators
from tests.running_hub import RunningHub, launch_hub

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

ANSWERED = ("Cathryn", "Martina")
REFUSED = {
    "Chet": ("AST", "ALT", "creatinine"),
    "Michele": ("platelets", "631 days old", "365"),
    "Tom": ("creatinine",),
}
"""Whose values do not do, and what they are told of; none is told of anything else."""
NAMES = ("AST", "ALT", "platelets", "creatinine")


@dataclass(frozen=True)
class Ward:
    """An EHR with five patients, a hub, and an order for each of them that is over."""

    ehr: FhirServer
    hub: RunningHub
    client: FhirClient
    people: dict[str, Person]
    tasks: dict[str, Json]

    def held(self, kind: str, name: str) -> list[Json]:
        """What the hub's report of a patient is made of, at the EHR."""
        report = self.report(name)
        match kind:
            case "DiagnosticReport":
                return [report]
            case "Observation":
                return [self.ehr.read(one["reference"]) for one in report["result"]]
            case "Device":
                return [self.ehr.read(device_of(report))]
            case "Task":
                return [t for t in self.ehr.search("Task") if _leads_to(t, report)]
            case _:
                made = self.ehr.search("Provenance")
                return [p for p in made if _is_about(p, report)]

    def report(self, name: str) -> Json:
        """The hub's report of a patient, at the EHR."""
        (ours,) = self.client.reports_of(self.tasks[name])
        (identifier,) = ours["identifier"]
        token = f"{identifier['system']}|{identifier['value']}"
        (report,) = self.ehr.search("DiagnosticReport", identifier=token)
        return report


@pytest.fixture(scope="module")
def ward(
    module_fhir_server: FhirServer,
    fhir_validators: FhirValidators,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ward]:
    five = people(shared_data)
    load(module_fhir_server, five.values())
    hub = launch_hub(
        tmp_path_factory.mktemp("ward"),
        fhir_server=module_fhir_server,
        further_sources=[SOURCE],
        sections=sections(module_fhir_server),
    )
    try:
        client = FhirClient(hub, fhir_validators)
        placed = {
            name: client.place(task_of_values(f"T-{name}", person)) for name, person in five.items()
        }
        for order_id in placed.values():
            client.over(order_id)
            delivered(hub, order_id)
        # when all reports are there: each Task has to name its own
        tasks = {name: client.task(order_id) for name, order_id in placed.items()}
        yield Ward(module_fhir_server, hub, client, five, tasks)
    finally:
        hub.close()


@pytest.mark.parametrize("name", ANSWERED)
def test_the_scores_are_those_that_are_computed_by_hand(ward: Ward, name: str) -> None:
    assert ward.tasks[name]["status"] == "completed"
    person, report = ward.people[name], ward.report(name)
    assert report["subject"]["identifier"]["value"] == person.patient_id
    assert report["subject"]["identifier"]["system"] == SYNTHEA
    values = {
        code_of(one): (one["valueQuantity"]["value"], one["valueQuantity"]["code"])
        for one in ward.held("Observation", name)
        if "valueQuantity" in one
    }
    assert values == {
        FIB4: (person.fib4, "{score}"),
        EGFR: (person.egfr, "mL/min/{1.73_m2}"),
    }
    assert f"FIB-4 {person.fib4}" in report["conclusion"].replace("FIB-4: ", "FIB-4 ")


@pytest.mark.parametrize("name", ANSWERED)
def test_each_score_leads_to_the_very_values_in_the_ehr(ward: Ward, name: str) -> None:
    person = ward.people[name]
    for made, codes in ((FIB4, (AST, ALT, PLATELETS)), (EGFR, (CREATININE,))):
        (score,) = [o for o in ward.held("Observation", name) if code_of(o) == made]
        sources = [ward.ehr.read(one["reference"]) for one in score["derivedFrom"]]
        assert sorted(map(code_of, sources)) == sorted(codes)
        for source in sources:
            newest = person.values(code_of(source))[0]
            assert source["effectiveDateTime"] == newest["effectiveDateTime"]
            assert source["valueQuantity"] == newest["valueQuantity"]
            patient = ward.ehr.read(source["subject"]["reference"])
            assert person.patient_id in {i["value"] for i in patient["identifier"]}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_do_not_do_are_told_by_name(ward: Ward, name: str) -> None:
    task = ward.tasks[name]
    assert task["status"] == "rejected"
    at_the_ehr = ward.held("Task", name)
    assert [one["status"] for one in at_the_ehr] == ["rejected"]
    report = ward.report(name)
    assert report["status"] in ("cancelled", "preliminary")
    said = (
        json.dumps(task["statusReason"]),
        json.dumps(at_the_ehr),
        json.dumps(report["conclusion"]),
        json.dumps(ward.client.reports_of(task)),
    )
    for text in said:
        assert [word for word in REFUSED[name] if word not in text] == [], text
    others = [one for one in NAMES if one not in REFUSED[name]]
    assert [one for one in others if f"{one}:" in said[0]] == []
    (row,) = ward.hub.rows(
        "SELECT r.outcome FROM results r JOIN order_requests o ON o.request_id = r.request_id"
        " WHERE o.order_id = :order",
        order=task["id"],
    )
    assert row["outcome"] == "unsuitable"
    for one in ward.held("Observation", name):
        assert "dataAbsentReason" in one
        assert [element for element in one if element.startswith("value")] == []


@pytest.mark.parametrize("name", [*ANSWERED, *REFUSED])
def test_the_hub_shows_what_the_ehr_has(ward: Ward, name: str) -> None:
    person, (ours,) = ward.people[name], ward.client.reports_of(ward.tasks[name])
    patient = f"patient:identifier={SYNTHEA}|{person.patient_id}"
    report_id = f"{ours['identifier'][0]['system']}|{ours['identifier'][0]['value']}"
    for query in (
        patient,
        f"patient={SYNTHEA}|{person.patient_id}",
        f"_id={ours['id']}",
        f"identifier={report_id}",
        f"based-on=Task/{ward.tasks[name]['id']}",
    ):
        assert ward.client.found(f"DiagnosticReport?{query}") == [ours], query
    shown = {
        "DiagnosticReport": [ours],
        "Observation": ward.client.found(f"Observation?{patient}"),
        "Device": [ward.client.get(device_of(ours))],
        "Provenance": ward.client.found(f"Provenance?target=DiagnosticReport/{ours['id']}"),
        "Task": [
            one
            for one in ward.client.found(f"Task?{patient}")
            if one["id"] != ward.tasks[name]["id"]
        ],
    }
    url = ward.ehr.base_url
    ours_of_all = [one for kind in SHOWN for one in shown[kind]]
    theirs = [one for kind in SHOWN for one in ward.held(kind, name)]
    assert {kind: len(shown[kind]) for kind in SHOWN} == {
        kind: len(ward.held(kind, name)) for kind in SHOWN
    }
    pairs = zip(same_everywhere(ours_of_all, url), same_everywhere(theirs, url), strict=True)
    for mine, other in pairs:
        both = {name: (mine.get(name), other.get(name)) for name in mine | other}
        assert {name: pair for name, pair in both.items() if pair[0] != pair[1]} == {}
    for one in ours_of_all:
        assert ward.client.get(f"{one['resourceType']}/{one['id']}") == one


def test_what_went_to_the_ehr_is_valid(ward: Ward) -> None:
    bundles = sent_bundles(ward.hub)
    assert len(bundles) == len(ward.people)
    for bundle in bundles:
        ward.client.judge(bundle)
        assert ward.people.keys() & set(json.dumps(bundle).split()) == set()


def test_nobody_reads_of_patients_in_the_log_or_the_audit(ward: Ward) -> None:
    told = ward.hub.log_text() + ward.hub.caidx("audit", "list").stdout
    assert len(told) > 1000
    for name, person in ward.people.items():
        assert name not in told
        assert person.patient_id not in told


def _leads_to(task: Json, report: Json) -> bool:
    outputs = [one.get("valueReference", {}).get("reference") for one in task.get("output", [])]
    return f"DiagnosticReport/{report['id']}" in outputs


def _is_about(provenance: Json, report: Json) -> bool:
    targets = [one.get("reference") for one in provenance["target"]]
    return f"DiagnosticReport/{report['id']}" in targets
