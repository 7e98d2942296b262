"""The statements on FHIR, HL7 v2 and webhooks list what the code sends and takes; what they show
as an example is right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.hl7v2.config import Hl7v2SourceConfig
from connectors.webhook.config import WebhookDestinationConfig
from hub.config.settings import DestinationSettings
from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import ReportCause
from hub.formats import escalation, notice
from hub.formats.encoding import EncodingContext
from hub.formats.fhir import r5 as fhir_r5
from hub.formats.fhir import report as fhir_report
from hub.formats.hl7v2 import report as hl7v2_report
from hub.formats.hl7v2.patient import EVENTS
from hub.formats.printed import pdf as report_pdf
from hub.transport.webhook_signature import key_of, signed_headers
from tests import builders
from tests.unit.documents import blocks, section, spans, table, text_of
from tests.unit.formats.encoded import CONTEXT
from tests.unit.formats.report_states import RESULTS, version_after

FHIR, HL7, WEBHOOKS = (
    text_of(f"{name}.md") for name in ("fhir-conformance", "hl7v2-conformance", "webhooks")
)
CARD = builders.model_card()
State = tuple[str, InferenceRequest, InferenceResult, EncodingContext]


ORDERED = (
    '{"type": "ServiceRequest", "identifier": {"type": {"coding": [{"system":'
    ' "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC"}]},'
    ' "system": "urn:test:orders", "value": "4711"}}'
)
"""What an order is based on, with its placer's number."""


def states() -> Iterator[State]:
    """Each outcome, late images, and each cause of a version, by the names of the tables."""
    request = builders.request_for(builders.chest_ct_study())
    for name, answer in RESULTS.items():
        known = name in ("not assessable", "unsuitable", "failed")
        yield name if known else "model", request, answer(request), CONTEXT
    result = builders.located(request)
    yield "amended", replace(request, amends_revision=1), result, CONTEXT
    yield "model", replace(request, based_on=(ORDERED,)), result, CONTEXT
    for cause in ReportCause:
        if cause not in (ReportCause.MODEL, ReportCause.RELEASED):
            yield _NAMES[cause], request, result, version_after({}, cause)


_NAMES = {
    ReportCause.ACCEPTED: "accepted",
    ReportCause.MODIFIED: "changed",
    ReportCause.REJECTED: "withdrawn",
    ReportCause.RETRACTED: "withdrawn",
    ReportCause.PATIENT_CHANGED: "amended",
}


# --- FHIR -----------------------------------------------------------------------------------


def bundle(state: State, encode: Any = fhir_report.encode) -> dict[str, Any]:
    _, request, result, context = state
    page = report_pdf.encode(request, result, CARD, context, {})
    document = encode(request, result, CARD, context, {DocumentKind.PDF: page})
    assert document is not None
    read: dict[str, Any] = json.loads(document.content)
    return read


def entries(state: State) -> Iterator[tuple[str, str]]:
    """Type of each resource, and how it is written."""
    for entry in bundle(state)["entry"]:
        request = entry["request"]
        how = f"{request['method']} {'ifNoneExist ' * ('ifNoneExist' in request)}"
        yield entry["resource"]["resourceType"], how + request["url"]


def test_every_resource_is_listed_with_the_way_it_is_written() -> None:
    listed = {
        name: row[1]
        for row in table(section(FHIR, "Sending again changes nothing"), "resource | entry")
        for name in row[0].split(", ")
    }
    written = {one for state in states() for one in entries(state)}
    assert {name for name, _ in written} == set(listed)
    for name, how in written:
        if "ifNoneExist" in how:
            assert listed[name].startswith("`POST` with `ifNoneExist"), name
        elif "?identifier=" in how:
            assert re.match(rf"`PUT ({name}|\.\.\.)\?identifier=", listed[name]), name
        else:
            assert listed[name].startswith(f"`PUT {name}/<id>`"), name


FHIR_ROWS = {
    "a model's answer": "model",
    "the same": "amended",
    "accepted by a person": "accepted",
    "changed by a person": "changed",
    "rejected or withdrawn": "withdrawn",
    "not assessable": "not assessable",
    "unsuitable": "unsuitable",
    "failed": "failed",
}


def test_the_states_of_a_fhir_report_are_those_of_the_table() -> None:
    said: dict[str, list[str]] = {}
    for row in table(section(FHIR, "States"), "the report"):
        name = FHIR_ROWS[re.split(r" in place of|, in place", row[0])[0]]
        said[name] = [" ".join(row[1:]), *row[1:]]
    assert set(said) == {state[0] for state in states()}
    for state in states():
        everything, report_cell, task_cell, activity = said[state[0]]
        resources = {e["resource"]["resourceType"]: e["resource"] for e in bundle(state)["entry"]}
        status = resources["DiagnosticReport"]["status"]
        task = resources["Task"]
        if state[0] != "not assessable":
            assert spans(report_cell)[0] == status, state[0]
        if "as above" not in task_cell:
            business = task["businessStatus"]["text"]
            ends = ("...", "not verified"), ("...", "verified")
            words = {task_cell.replace(*end) for end in ends} | {task_cell}
            assert any(f"*{business}*" in one for one in words), state[0]
        if state[2].outcome is not Outcome.ASSESSED:
            assert f"`{task['status']}`" in task_cell, state[0]
            reasons = [
                e["resource"]["dataAbsentReason"]["coding"][0]["code"]
                for e in bundle(state)["entry"]
                if "dataAbsentReason" in e["resource"]
            ]
            assert all(f"`{reason}`" in report_cell for reason in reasons), state[0]
            issues = [i["code"] for o in task.get("contained", []) for i in o["issue"]]
            assert all(f"`{issue}`" in everything for issue in issues)
        if activity != "as above":
            assert resources["Provenance"]["activity"]["coding"][0]["code"] == activity, state[0]


def test_the_differences_of_r5_are_listed() -> None:
    differing = set()
    for state in states():
        pairs = zip(bundle(state)["entry"], bundle(state, fhir_r5.encode)["entry"], strict=True)
        differing |= {
            a["resource"]["resourceType"] for a, b in pairs if a["resource"] != b["resource"]
        }
    assert differing == {row[0] for row in table(section(FHIR, "R5"), "resource")}


# --- HL7 v2 -----------------------------------------------------------------------------------

FIELD = re.compile(r"\b([A-Z][A-Z0-9]{2})-(\d+)\b")
SET_BY_THE_DESTINATION = {("MSH", 5), ("MSH", 6)}
NUMBERED = ("PID", "PV1", "OBR", "NTE", "TQ1", "OBX")
"""Their first field is a number."""


def message(state: State) -> list[list[str]]:
    """The segments; index and number of a field are the same."""
    _, request, result, context = state
    page = report_pdf.encode(request, result, CARD, context, {})
    document = hl7v2_report.encode(request, result, CARD, context, {DocumentKind.PDF: page})
    assert document is not None
    lines = document.content.decode().split("\r")[:-1]
    return [_numbered(line.split("|")) for line in lines]


def _numbered(parts: list[str]) -> list[str]:
    return ["MSH", "|", *parts[1:]] if parts[0] == "MSH" else parts


def test_every_segment_and_field_of_a_result_is_listed() -> None:
    results = section(HL7, "1. Results: ORU^R01")
    names = {segment[0] for state in states() for segment in message(state)}
    assert names == set(re.findall(r"[A-Z][A-Z0-9]{2}", blocks(results, "")[0]))
    used = {
        (segment[0], number)
        for state in states()
        for segment in message(state)
        for number, value in enumerate(segment[1:], start=1)
        if value and segment[0] not in ("SFT", "NTE")
        if not (number == 1 and segment[0] in NUMBERED)
        if not (number <= 2 and segment[0] == "MSH")
    }
    listed = section(results, "1.1 Segments") + section(results, "1.2 Observations (OBX)")
    rows = re.findall(r"^\| ([^|]+) \|", listed, re.MULTILINE)
    named = {(name, int(number)) for row in rows for name, number in FIELD.findall(row)}
    named |= {("OBX", number) for number in (2, 3)}  # the head of their own table
    assert used == named - SET_BY_THE_DESTINATION


HL7_ROWS = {
    "preliminary": ["model"],
    "final": ["accepted"],
    "amended": ["amended", "changed"],
    "rejected or withdrawn": ["withdrawn"],
    "not assessable": ["not assessable"],
    "unsuitable, failed": ["unsuitable", "failed"],
}


def test_the_statuses_of_a_result_are_those_of_the_table() -> None:
    said = {}
    for row in table(section(HL7, "1.3 States"), "the report"):
        for name in HL7_ROWS.get(row[0].partition(":")[0], []):
            said[name] = row[1:4]
    assert set(said) == {state[0] for state in states()}
    for state in states():
        whole, text, finding = said[state[0]]
        segments = message(state)
        (obr,) = [one for one in segments if one[0] == "OBR"]
        rows = {one[3].split("^")[0]: one[11] for one in segments if one[0] == "OBX"}
        codes = [f.code.code_value for f in state[2].findings] or [
            spec.code.code_value for spec in CARD.output.findings
        ]
        if whole != "as above":
            assert (obr[25], rows["ai-outcome"]) == (whole, text[0]), state[0]
        open_ones = {f.code.code_value for f in state[2].findings if f.presence == "not-assessable"}
        told = {rows[code] for code in codes if code not in open_ones}
        assert told == {finding}, state[0]


def test_the_events_of_a_patient_are_listed() -> None:
    rows = table(section(HL7, "2. Patient changes: ADT"), "event")
    assert {event for row in rows for event in row[0].split(", ")} == set(EVENTS)
    in_the_overview = re.findall(r"\bA\d\d\b", HL7.partition("## 1.")[0])
    assert set(in_the_overview) == set(EVENTS)


def test_the_limits_of_a_patient_source_are_those_of_its_configuration() -> None:
    source = section(HL7, "2. Patient changes: ADT")
    named = {name for name in spans(source) if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    assert named <= set(Hl7v2SourceConfig.model_fields)


# --- webhooks -----------------------------------------------------------------------------------


def shown_request() -> tuple[Mapping[str, str], str, bytes]:
    """Headers, secret and body of the example."""
    lines = blocks(WEBHOOKS, "")[0].splitlines()[1:]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    secret, body = (spans(row[1])[0] for row in table(section(WEBHOOKS, "The signature"), "| |"))
    return headers, secret, body.encode()


def test_the_example_is_signed_as_the_hub_signs() -> None:
    headers, secret, body = shown_request()
    now = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signed = signed_headers(headers["webhook-id"], now, body, [key_of(secret)])
    assert {name: headers[name] for name in signed} == signed
    assert f"({len(body)} bytes" in WEBHOOKS


def test_the_code_of_the_guide_verifies_what_the_hub_signs() -> None:
    (example,) = blocks(WEBHOOKS, "python")
    names: dict[str, Any] = {}
    exec(compile(example, "webhooks.md", "exec"), names)  # noqa: S102 - our own document
    headers, secret, body = shown_request()
    genuine, sent_at = names["is_genuine"], int(headers["webhook-timestamp"])
    other = "whsec_" + "A" * 32
    now = datetime.fromtimestamp(sent_at, UTC)
    both = signed_headers(headers["webhook-id"], now, body, [key_of(other), key_of(secret)])
    assert genuine(headers, body, secret, sent_at + 299)
    assert genuine(both, body, secret, sent_at)
    assert not genuine(headers, body, secret, sent_at + 301)
    assert not genuine(headers, body, other, sent_at)
    assert not genuine(headers, body + b" ", secret, sent_at)
    assert not genuine({**headers, "webhook-id": "another"}, body, secret, sent_at)


def shape(value: Any) -> Any:
    """The names of the fields, and the types of what they hold."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else type(value)


def test_the_notice_that_is_shown_is_one() -> None:
    study = builders.chest_ct_study()
    lacking = replace(study.completeness, complete=False, received=3, expected=5)
    request = builders.request_for(replace(study, completeness=lacking))
    sr = Document("2.25.7", DocumentKind.SR, request.request_id, study.identity, b"")
    context = EncodingContext(made_at=builders.MADE_AT, institution_name="", software_version="1")
    result = builders.assessed(request)
    made = notice.encode(request, result, CARD, context, {DocumentKind.SR: sr})
    assert made is not None
    told = json.loads(made.content)
    shown = json.loads(blocks(section(WEBHOOKS, "The notice, version 1"), "json")[0])
    assert shape(shown) == shape(told)
    assert shown["findings"] == told["findings"][:1]
    rows = table(section(WEBHOOKS, "The notice, version 1"), "field")
    named = {name.partition(".")[0] for row in rows for name in spans(row[0])}
    assert named == set(told)


def test_every_field_of_a_finding_is_described() -> None:
    (words,) = [
        row[1]
        for row in table(section(WEBHOOKS, "The notice, version 1"), "field")
        if spans(row[0]) == ["findings"]
    ]
    request = builders.request_for(builders.chest_ct_study())
    answers = (builders.located, builders.presence, builders.ecg_assessed)
    requests = (request, request, builders.request_for(builders.ecg_study()))
    for one, answer in zip(requests, answers, strict=True):
        document = notice.encode(one, answer(one), CARD, CONTEXT, {})
        assert document is not None
        for finding in json.loads(document.content)["findings"]:
            assert set(finding) <= set(spans(words))


def test_every_event_is_listed() -> None:
    causes = {f"report.{cause.value}" for cause in ReportCause if cause is not ReportCause.MODEL}
    rows = table(section(WEBHOOKS, "The notice, version 1"), "`event` | when")
    listed = {event for row in rows for event in spans(row[0])}
    assert listed == causes | {"report.made", "report.amended", "escalation"}


def test_the_escalation_that_is_shown_is_one() -> None:
    shown = json.loads(blocks(section(WEBHOOKS, "Critical findings and the escalation"), "json")[0])
    made = escalation.escalation(
        request_id=shown["request_id"],
        identity=builders.chest_ct_study().identity,
        route=shown["route"],
        model=shown["model"],
        in_last_hour=shown["critical_in_last_hour"],
        alerts_per_hour=shown["alerts_per_hour"],
        at=builders.MADE_AT,
    )
    assert json.loads(made.content) == shown


def test_the_fields_of_a_webhook_are_those_of_its_configuration() -> None:
    known = {*WebhookDestinationConfig.model_fields, *DestinationSettings.model_fields}
    named = [name for row in table(WEBHOOKS, "field") for name in spans(row[0])]
    assert set(named) <= known
    assert set(WebhookDestinationConfig.model_fields) <= set(spans(WEBHOOKS))


@pytest.mark.parametrize("kind", [DocumentKind.NOTICE, DocumentKind.PDF, DocumentKind.ORU])
def test_the_media_types_are_named(kind: DocumentKind) -> None:
    identity = builders.chest_ct_study().identity
    assert f"`{Document('', kind, '', identity, b'').media_type}`" in WEBHOOKS
