"""Reports, orders and values as those read them who come for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from connectors.fhir.matching import fits
from connectors.fhir.parameters import SEARCHES, Wanted
from hub.domain.order import OrderState
from hub.formats.fhir.bundle_view import objects_in
from hub.formats.fhir.facade import SHOWN, resources_in
from tests.fhir_source import NOW, FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import UID, observation, service_request, task
from tests.unit.connectors.fhir.reports import ISSUERS, another, hold
from tests.unit.formats.fhir_bundles import CASES, PATIENT_SYSTEM

Json = dict[str, Any]


@pytest.fixture
def source() -> Iterator[FhirSource]:
    with fhir_source(issuers={**ISSUERS, "https://hospital.example/patients": "UMR"}) as running:
        yield running


def found(source: FhirSource, query: str) -> list[Json]:
    answer = source.get(query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["type"] == "searchset"
    entries = body.get("entry", [])
    return [one["resource"] for one in entries if one["search"]["mode"] == "match"]


def pages(source: FhirSource, query: str) -> Iterator[list[Json]]:
    url: str | None = f"{source.url}/{query}"
    while url:
        body = source.client.get(url).json()
        yield [one["resource"] for one in body.get("entry", [])]
        links = {link["relation"]: link["url"] for link in body["link"]}
        url = links.get("next")


# --- the facade --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_resource_of_a_report_has_an_id_and_no_reference_leads_out(
    source: FhirSource, case: str
) -> None:
    report = hold(source, case, version=3)
    shown = [one for kind in SHOWN for one in resources_in(report, kind)]
    names = {f"{one['resourceType']}/{one['id']}" for one in shown}
    assert len(names) == len(shown)
    assert "urn:uuid:" not in str([one for one in shown if one["resourceType"] != "Provenance"])
    for one in shown:
        assert one["meta"]["versionId"] == "3"
        inside = {f"#{inner['id']}" for inner in one.get("contained", [])}
        for part in objects_in(one):
            if isinstance(part.get("reference"), str):
                assert part["reference"] in names | inside


def test_the_report_that_is_kept_is_not_changed_by_showing_it(source: FhirSource) -> None:
    report = hold(source, "critical")
    before = str(report.bundle)
    resources_in(report, "DiagnosticReport")
    assert str(report.bundle) == before


def test_the_id_is_the_same_in_every_version(source: FhirSource) -> None:
    first = resources_in(hold(source, "critical"), "DiagnosticReport")
    second = resources_in(hold(source, "accepted", version=2), "DiagnosticReport")
    assert first[0]["id"] == second[0]["id"]
    assert (first[0]["status"], second[0]["status"]) == ("preliminary", "final")


# --- reads -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHOWN)
def test_every_type_is_read_by_its_id(source: FhirSource, kind: str) -> None:
    (expected, *_) = resources_in(hold(source, "critical", version=2), kind)
    answer = source.get(f"{kind}/{expected['id']}")
    assert answer.json() == expected
    assert answer.headers["ETag"] == 'W/"2"'
    assert answer.headers["Last-Modified"] == "Sun, 22 Nov 2026 10:00:02 GMT"
    assert source.get(f"{kind}/{expected['id']}/_history/2").json() == expected
    assert source.get(f"{kind}/{expected['id']}/_history/1").status_code == 404
    other = next(name for name in SHOWN if name != kind)
    assert source.get(f"{other}/{expected['id']}").status_code == 404


def test_each_of_several_is_found_by_its_own_id(source: FhirSource) -> None:
    every = resources_in(hold(source, "critical"), "Observation")
    assert len(every) > 1
    for one in every:
        assert source.get(f"Observation/{one['id']}").json() == one
        assert found(source, f"Observation?_id={one['id']}") == [one]


def test_what_the_client_has_already_is_not_sent(source: FhirSource) -> None:
    (device,) = resources_in(hold(source, "critical"), "Device")
    path = f"Device/{device['id']}"
    assert source.get(path, If_None_Match='W/"1"').status_code == 304
    assert source.get(path, If_None_Match='W/"0", W/"1"').status_code == 304
    assert source.get(path, If_None_Match='W/"0"').status_code == 200


def test_head_has_no_body(source: FhirSource) -> None:
    (device,) = resources_in(hold(source, "critical"), "Device")
    answer = source.client.head(f"{source.url}/Device/{device['id']}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100


# --- orders ------------------------------------------------------------------------------

STATES = {
    OrderState.PLACED: ("accepted", "active"),
    OrderState.WAITING: ("accepted", "active"),
    OrderState.IN_PROGRESS: ("in-progress", "active"),
    OrderState.COMPLETED: ("completed", "completed"),
    OrderState.REJECTED: ("rejected", "revoked"),
    OrderState.FAILED: ("failed", "revoked"),
    OrderState.CANCELLED: ("cancelled", "revoked"),
}


@pytest.mark.parametrize("state", OrderState)
def test_the_status_of_an_order_follows_it(source: FhirSource, state: OrderState) -> None:
    source.post(service_request())
    (order_id,) = source.orders.placed
    placed = source.orders.placed[order_id]
    source.orders.placed[order_id] = replace(placed, state=state, reasons=("because",))
    shown, asked = source.get(f"Task/{order_id}").json(), source.get(f"ServiceRequest/{order_id}")
    assert (shown["status"], asked.json()["status"]) == STATES[state]
    assert shown["statusReason"] == {"text": "because"}
    assert shown["businessStatus"]["text"]


def test_the_version_of_a_task_grows_with_its_order(source: FhirSource) -> None:
    location = source.post(task()).headers["Location"].split("/_history")[0]
    (order_id,) = source.orders.placed
    before, placed = source.client.get(location).headers, source.orders.placed[order_id]
    source.orders.placed[order_id] = replace(placed, changed_at=NOW + timedelta(seconds=1))
    shown = source.client.get(location, headers={"If-None-Match": before["ETag"]})
    assert shown.status_code == 200
    assert shown.headers["ETag"] != before["ETag"]
    assert shown.headers["Last-Modified"] == "Sun, 22 Nov 2026 10:00:01 GMT"


def test_an_order_names_its_reports_when_there_are_some(source: FhirSource) -> None:
    location = source.post(task()).headers["Location"]
    (order_id,) = source.orders.placed
    hold(source, "critical")  # which nobody ordered
    assert "output" not in source.client.get(location).json()
    report = hold(source, "critical", order_id=order_id)
    (made,) = resources_in(report, "DiagnosticReport")
    shown = source.client.get(location).json()
    assert [one["valueReference"]["reference"] for one in shown["output"]] == [
        f"DiagnosticReport/{made['id']}"
    ]
    assert source.get(shown["output"][0]["valueReference"]["reference"]).json() == made
    assert found(source, f"DiagnosticReport?based-on=ServiceRequest/{order_id}") == [made]


def test_what_an_order_was_about_is_shown(source: FhirSource) -> None:
    source.post(
        task(
            priority="stat",
            restriction={"period": {"end": "2026-11-23T00:00:00Z"}},
            input=[{"type": {"text": "route"}, "valueString": "chest"}],
            basedOn=[{"reference": "ServiceRequest/12"}],
        )
    )
    (order_id,) = source.orders.placed
    shown = source.get(f"Task/{order_id}").json()
    assert shown["focus"]["identifier"]["value"] == f"urn:oid:{UID}"
    assert shown["for"]["identifier"]["value"] == "P-7"
    assert (shown["priority"], shown["basedOn"]) == ("stat", [{"reference": "ServiceRequest/12"}])
    assert shown["restriction"]["period"]["end"] == "2026-11-23T00:00:00.000Z"
    assert shown["input"] == [{"type": {"text": "route"}, "valueString": "chest"}]


def test_a_task_is_no_service_request(source: FhirSource) -> None:
    source.post(task())
    (order_id,) = source.orders.placed
    assert source.get(f"ServiceRequest/{order_id}").status_code == 404
    assert found(source, "ServiceRequest") == []


# --- searches ----------------------------------------------------------------------------


def _token(system: str, value: str) -> str:
    return quote(f"{system}|{value}", safe="")


def test_reports_of_a_patient(source: FhirSource) -> None:
    report = hold(source, "critical")
    (made,) = resources_in(report, "DiagnosticReport")
    patient = made["subject"]["identifier"]
    named = _token(patient["system"], patient["value"])
    for name in ("patient:identifier", "patient.identifier", "subject:identifier", "patient"):
        assert found(source, f"DiagnosticReport?{name}={named}") == [made], name
    assert found(source, f"DiagnosticReport?patient:identifier={patient['value']}") == [made]
    other = _token(patient["system"], "nobody")
    assert found(source, f"DiagnosticReport?patient:identifier={other}") == []
    assert found(source, f"Provenance?patient:identifier={named}")


def test_a_patient_of_a_system_that_nobody_knows_is_told(source: FhirSource) -> None:
    hold(source, "critical")
    body = source.get("DiagnosticReport?patient:identifier=urn:elsewhere|P-1").json()
    (told,) = body["entry"]
    assert told["search"]["mode"] == "outcome"
    assert "identifier_systems" in told["resource"]["issue"][0]["details"]["text"]


def test_of_a_system_that_nobody_knows_nothing_is_shown(source: FhirSource) -> None:
    """Also of what names no patient itself."""
    hold(source, "critical")
    for kind, names in SEARCHES.items():
        if "patient" in names:
            assert found(source, f"{kind}?patient:identifier=urn:elsewhere|P-1") == []


def test_what_a_store_gives_too_much_is_not_shown(
    source: FhirSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(source, "critical")
    source.post(task())
    monkeypatch.setattr(source.reports, "_fits", lambda *_: True)
    stranger = f"patient:identifier={_token(PATIENT_SYSTEM, 'stranger')}"
    assert found(source, f"DiagnosticReport?{stranger}") == []
    assert found(source, f"ImagingStudy?{stranger}") == []


def test_reports_by_identifier(source: FhirSource) -> None:
    report = hold(source, "critical")
    (made,) = resources_in(report, "DiagnosticReport")
    own = made["identifier"][0]
    assert found(source, f"DiagnosticReport?identifier={_token(own['system'], own['value'])}") == [
        made
    ]
    assert found(source, f"DiagnosticReport?identifier={_token('urn:other', own['value'])}") == []
    (task_of_request,) = resources_in(report, "Task")
    request = _token("urn:caidx:requests", report.request_id)
    assert found(source, f"Task?identifier={request}") == [task_of_request]


def test_reports_by_the_accession_number_that_they_are_based_on(source: FhirSource) -> None:
    (made,) = resources_in(hold(source, "critical"), "DiagnosticReport")
    named = made["basedOn"][0]["identifier"]
    for query in (_token(named["system"], named["value"]), named["value"]):
        assert found(source, f"DiagnosticReport?based-on:identifier={query}") == [made]
    other = _token("urn:other", named["value"])
    assert found(source, f"DiagnosticReport?based-on:identifier={other}") == []


def test_orders_by_every_identifier_that_they_have(source: FhirSource) -> None:
    source.post(task())
    (order_id,) = source.orders.placed
    for system, value in (
        ("https://ehr.example/tasks", "T-1"),
        ("", "T-1"),
        ("urn:caidx:orders", order_id),
    ):
        query = _token(system, value) if system else value
        assert [one["id"] for one in found(source, f"Task?identifier={query}")] == [order_id]
    assert found(source, f"Task?identifier={_token('urn:other', 'T-1')}") == []
    assert [one["id"] for one in found(source, f"Task?_id={order_id}")] == [order_id]


def test_all_parameters_have_to_fit(source: FhirSource) -> None:
    source.post(task(basedOn=[{"reference": "ServiceRequest/12"}]))
    (order_id,) = source.orders.placed
    (made,) = resources_in(hold(source, "critical", order_id=order_id), "DiagnosticReport")
    for named in (f"_id={order_id}", f"identifier=urn:caidx:orders|{order_id}"):
        assert len(found(source, f"Task?{named}&based-on=ServiceRequest/12")) == 1
        assert found(source, f"Task?{named}&based-on=ServiceRequest/13") == []
    report = f"DiagnosticReport?_id={made['id']}"
    assert found(source, f"{report}&based-on=Task/{order_id}") == [made]
    assert found(source, f"{report}&based-on=ServiceRequest/13") == []
    assert found(source, f"{report}&status=final") == []


def test_by_status_and_code(source: FhirSource) -> None:
    hold(source, "critical")
    source.post(observation())
    assert {o["status"] for o in found(source, "Observation?status=final")} == {"final"}
    assert len(found(source, "Observation?status=final")) == 1
    assert len(found(source, "Observation?status=final,preliminary")) > 1
    (sent,) = found(source, "Observation?code=" + _token("http://loinc.org", "1920-8"))
    assert sent["valueQuantity"]["value"] == 21.9
    assert len(found(source, "Observation?code=1920-8")) == 1
    assert found(source, "Observation?code=" + _token("http://snomed.info/sct", "1920-8")) == []
    assert len(found(source, "DiagnosticReport?status=preliminary")) == 1
    assert found(source, "DiagnosticReport?status=final") == []


def test_the_provenance_of_a_report(source: FhirSource) -> None:
    report = hold(source, "critical")
    (made,) = resources_in(report, "DiagnosticReport")
    expected = resources_in(report, "Provenance")
    assert found(source, f"Provenance?target=DiagnosticReport/{made['id']}") == expected
    assert found(source, f"Provenance?target=DiagnosticReport/{'0' * 8}{made['id'][8:]}") == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_pages_hold_everything_once_and_never_more_than_asked(
    source: FhirSource, count: int
) -> None:
    hold(source, "critical")
    for number in range(1, 6):
        another(source, number)
        source.post(observation(value=float(number)))
    listed = list(pages(source, f"Observation?_count={count}"))
    assert max(map(len, listed)) <= count
    ids = [one["id"] for page in listed for one in page]
    reported = len(resources_in(source.reports.held[0][0], "Observation"))
    assert len(ids) == len(set(ids)) == 5 + 6 * reported
    told = source.get("Observation?_summary=count").json()
    assert (told["total"], "entry" in told) == (len(ids), False)


def test_a_page_goes_on_behind_many_that_do_not_fit(source: FhirSource) -> None:
    hold(source, "critical")
    for number in range(1, 130):
        another(source, number)
    last = resources_in(source.reports.held[-1][0], "Device")[0]
    assert found(source, f"Device?_id={last['id']}") == [last]
    ids = [one["id"] for page in pages(source, "DiagnosticReport?_count=40") for one in page]
    assert len(set(ids)) == 130


def test_the_page_is_as_long_as_the_configuration_allows() -> None:
    with fhir_source(maximum_results=2) as source:
        for number in range(5):
            source.post(observation(value=float(number)))
        assert len(found(source, "Observation?_count=1000")) == 2


def test_links_hold_what_was_used(source: FhirSource) -> None:
    body = source.get("Observation?status=final&colour=red&_count=5").json()
    (link,) = body["link"]
    assert (link["relation"], link["url"]) == (
        "self",
        f"{source.url}/Observation?status=final&_count=5",
    )
    (told,) = body["entry"]
    assert "ignored" in told["resource"]["issue"][0]["details"]["text"]


def test_a_search_can_be_posted(source: FhirSource) -> None:
    source.post(task())
    form = {"identifier": "https://ehr.example/tasks|T-1"}
    answer = source.client.post(f"{source.url}/Task/_search?_count=1", data=form)
    assert len(answer.json()["entry"]) == 1
    assert "T-1" in answer.json()["link"][0]["url"]


def test_a_patient_sees_nothing_of_another(source: FhirSource) -> None:
    """Whatever is asked for besides."""
    report = hold(source, "critical")
    source.post(task())
    source.post(observation())
    (made,) = resources_in(report, "DiagnosticReport")
    stranger = f"patient:identifier={_token(PATIENT_SYSTEM, 'stranger')}"
    more = ["", "&identifier=T-1", "&based-on=ServiceRequest/1"]
    more += [f"&target=DiagnosticReport/{made['id']}"]
    for kind, names in SEARCHES.items():
        if "patient" not in names:
            continue
        shown = resources_in(report, kind) if kind in SHOWN else []
        for also in (*more, *(f"&_id={one['id']}" for one in shown)):
            assert found(source, f"{kind}?{stranger}{also}") == [], (kind, also)


def test_a_patient_of_an_unknown_issuer_is_nobody_elses() -> None:
    """Two hospitals give the same number; of one of them no system is known."""
    subject = {"identifier": {"value": "P-7", "assigner": {"display": "OTHER"}}}
    report = {"resourceType": "DiagnosticReport", "id": "1", "subject": subject}
    ours = Wanted(resource_type="DiagnosticReport", patient=("urn:ours", "P-7"))
    assert not fits(report, ours, "")
    assert fits(report, ours, "OTHER")
    assert fits(report, Wanted(resource_type="DiagnosticReport", patient=("", "P-7")), "")


def test_of_this_issuer_alone_reports_are_shown() -> None:
    with fhir_source(issuers={}, patient_identifier_system="urn:ours") as source:
        report = hold(source, "critical")
        (made,) = resources_in(report, "DiagnosticReport")
        value = made["subject"]["identifier"]["value"]
        asked = f"patient:identifier={_token('urn:ours', value)}"
        assert found(source, f"DiagnosticReport?{asked}") == []


# --- what a search must not pass over ------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "DiagnosticReport?status:not=final",
        "DiagnosticReport?code:in=urn:codes",
        "Observation?code:text=liver",
        "Task?identifier:of-type=urn:x|MR|1",
        "Task?patient:missing=true",
        "Task?patient.name=Canary",
        "Task?_id:above=1",
        "Task?_id=1,2",
        "Task?identifier=urn:x|1,urn:x|2",
        "Task?based-on=ServiceRequest/1,ServiceRequest/2",
        "Task?patient:identifier=urn:x|1,urn:x|2",
    ],
)
def test_what_would_change_the_question_is_refused(source: FhirSource, query: str) -> None:
    """Passing over it would answer another question; so would half of it (R4
    search.html#modifiers)."""
    source.post(task())
    answer = source.get(query)
    assert answer.status_code == 400, answer.text
    (issue,) = answer.json()["issue"]
    assert issue["code"] == "not-supported"


def test_a_comma_may_be_part_of_an_identifier(source: FhirSource) -> None:
    assert source.get(r"Task?identifier=urn:x|1\,2").status_code == 200


def test_a_plus_in_the_format_may_stand_as_it_is(source: FhirSource) -> None:
    assert source.get("Task?_format=application/fhir+json").status_code == 200
    assert source.get("Task?_format=application/fhir%2Bjson").status_code == 200
    assert source.get("Task?_format=application/fhir+xml").status_code == 406


def test_a_count_says_too_what_was_counted(source: FhirSource) -> None:
    body = source.get("Task?status=requested&colour=red&_summary=count").json()
    assert body["total"] == 0
    (link,) = body["link"]
    assert link["relation"] == "self"
    assert link["url"].endswith("/Task?status=requested&_summary=count")


# --- metadata ----------------------------------------------------------------------------


def test_the_statement_says_what_can_be_done(source: FhirSource) -> None:
    statement = source.get("metadata").json()
    assert (statement["resourceType"], statement["fhirVersion"]) == (
        "CapabilityStatement",
        "4.0.1",
    )
    assert statement["implementation"]["url"] == source.url
    assert "key" in statement["rest"][0]["security"]["description"]
    source.post(task())
    (kept,) = found(source, "Task")
    since = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    same = {"If-None-Match": source.get(f"Task/{kept['id']}").headers["ETag"]}
    answers = [source.get(f"Task/{kept['id']}", **told).status_code for told in (since, same)]
    assert answers == [200, 304]
    for resource in statement["rest"][0]["resource"]:
        assert resource["conditionalRead"] == "not-match"
        kind = resource["type"]
        codes = {one["code"] for one in resource["interaction"]}
        answer = source.get(f"{kind}?_count=1")
        assert (answer.status_code == 200) == ("search-type" in codes), kind
        headers = {"Content-Type": "application/fhir+json"}
        created = source.client.post(f"{source.url}/{kind}", content=b"{}", headers=headers)
        assert (created.status_code == 405) == ("create" not in codes), kind
        for parameter in resource.get("searchParam", []):
            query = f"{kind}?{parameter['name']}=urn:x|1"
            judged = source.get(query, Prefer="handling=strict")
            assert judged.status_code == 200, (query, judged.text)


def test_the_first_words_of_an_outcome(source: FhirSource) -> None:
    assert outcome_texts(source.get("Task/1")) == ["there is no Task with this id"]
