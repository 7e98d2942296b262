"""No patient data where it does not belong: orders and values by FHIR, and what vendors are sent.

As in `test_privacy`, with values that occur nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hub.domain.access import Scope
from tests.acceptance.studies import StudyFiles, changed, phantom
from tests.acceptance.test_privacy import (
    BELONGS_IN_FOLDERS,
    BELONGS_IN_TABLES,
    CANARIES,
    DATABASE,
    NEEDLES,
    _in_files,
    _in_names,
    _rows,
    found,
    with_canaries,
)
from tests.acceptance.vendors import Misbehaving, sections, vendor
from tests.running_hub import RunningHub, launch_hub, wait_for

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

Json = dict[str, Any]
PATIENTS = "urn:oid:1.2.276.0.76.3.1"
SUBJECT = {
    "identifier": {"system": PATIENTS, "value": CANARIES["PatientID"]},
    "display": "Kanarienvogel Zitrone",
}
NOTE = [{"text": "Kanarienkommentar von Bedienerin Kanaria"}]
FHIR_JSON = {"Content-Type": "application/fhir+json"}
ORDERED_TABLES = BELONGS_IN_TABLES | {"orders", "observations", "case_observations"}
VENDORS = ("ok", "poll", "late-webhook", "garbage", "http-500", "wrong-study")
LABORATORY = {
    "name": "laboratory",
    "trigger": "order",
    "when": "study.is_case",
    "model": "liver-kidney-scores",
}
VALUES = {"1920-8": "U/L", "1742-6": "U/L", "777-3": "10*3/uL", "2160-0": "mg/dL"}
"""AST, ALT, platelets, creatinine by LOINC."""
NUMBERS = {"1920-8": 31.0, "1742-6": 28.0, "777-3": 240.0, "2160-0": 0.9}


@dataclass
class Aftermath:
    hub: RunningHub
    vendors: list[Misbehaving]
    study: StudyFiles
    orders: list[str] = field(default_factory=list)
    refused: list[httpx.Response] = field(default_factory=list)
    """The hub's answers to messages with all that can be wrong."""


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    folder = tmp_path_factory.mktemp("privacy-fhir")
    with ExitStack() as stack:
        vendors = [stack.enter_context(vendor(name)) for name in VENDORS]
        (folder / "hub").mkdir()
        chosen = sections(folder, vendors)
        chosen["models"].append({"package": "builtin:liver-kidney-scores"})
        chosen["routes"].append(LABORATORY)
        chosen["site"] = {"patient_identifier_system": PATIENTS}
        fhir = {"name": "ris", "kind": "fhir"}
        hub = launch_hub(folder / "hub", sections=chosen, further_sources=[fhir])
        stack.callback(hub.close)
        made = phantom(folder / "plain", slices=2)
        files = changed(made, folder / "study", with_canaries)
        after = Aftermath(hub, vendors, StudyFiles(made.study_instance_uid, files))
        hub.send(list(files))
        hub.wait_for_study(made.study_instance_uid, timeout=180)
        _order(after)
        _go_wrong(after)
        yield after


def _post(after: Aftermath, path: str, content: Any, **headers: str) -> httpx.Response:
    given = {**FHIR_JSON, **after.hub.headers(Scope.SYSTEM), **headers}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpx.post(f"{after.hub.http_url}/fhir{path}", content=body, headers=given, timeout=60)


def _patient() -> Json:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": PATIENTS, "value": CANARIES["PatientID"]}],
        "name": [{"family": "Kanarienvogel", "given": ["Zitrone"]}],
        "birthDate": "1947-11-13",
        "gender": "female",
        "address": [{"line": [CANARIES["PatientAddress"]]}],
    }


def _value(code: str, patient: Json) -> Json:
    unit = VALUES[code]
    quantity = {"value": NUMBERS[code], "system": "http://unitsofmeasure.org", "code": unit}
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": patient,
        "effectiveDateTime": (datetime.now(UTC) - timedelta(days=2)).isoformat(),
        "valueQuantity": {**quantity, "unit": unit},
        "note": NOTE,
    }


def _values_order() -> Json:
    """A transaction: a patient, four values, and a Task that asks for the scores."""
    patient = {"reference": "urn:uuid:00000000-0000-4000-8000-000000000001"}
    resources = [_patient(), *(_value(code, patient) for code in VALUES)]
    names = [f"urn:uuid:00000000-0000-4000-8000-{n:012d}" for n in range(1, 7)]
    task = {
        "resourceType": "Task",
        "identifier": [{"system": "urn:ris:tasks", "value": "values-1"}],
        "status": "requested",
        "intent": "order",
        "for": patient,
        "description": "Verdacht bei Kanarienvogel",
        "note": NOTE,
        "input": [
            {"type": {"text": "value"}, "valueReference": {"reference": name}}
            for name in names[1:5]
        ],
    }
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": name,
                "resource": one,
                "request": {"method": "POST", "url": one["resourceType"]},
            }
            for name, one in zip(names, [*resources, task], strict=True)
        ],
    }


def _study_order(after: Aftermath, number: str, uid: str, **more: Any) -> Json:
    study = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "status": "available",
        "subject": SUBJECT,
    }
    return {
        "resourceType": "Task",
        "contained": [study],
        "identifier": [{"system": "urn:ris:tasks", "value": number}],
        "status": "requested",
        "intent": "order",
        "for": SUBJECT,
        "focus": {"reference": "#study"},
        "note": NOTE,
        **more,
    }


def _order(after: Aftermath) -> None:
    """An order of values that is answered, and one of images of another patient."""
    answer = _post(after, "", _values_order())
    assert answer.status_code == 200, answer.text
    other = _study_order(after, "study-1", after.study.study_instance_uid)
    other["for"] = {"identifier": {"system": PATIENTS, "value": f"{CANARIES['PatientID']}X"}}
    other["contained"][0]["subject"] = other["for"]
    answer = _post(after, "/Task", other)
    assert answer.status_code == 201, answer.text

    def over() -> bool:
        states = [row["state"] for row in after.hub.rows("SELECT state FROM orders")]
        return len(states) == 2 and not {"placed", "waiting"} & set(states)

    def tasks() -> list[Json]:
        listed = after.hub.get("/fhir/Task?identifier=urn:ris:tasks|values-1", Scope.SYSTEM).json()
        return [one["resource"] for one in listed.get("entry", [])]

    wait_for(over, "both orders to be worked on", 120, after.hub.log_text)
    wait_for(
        lambda: [one["status"] for one in tasks()] == ["completed"],
        "the scores",
        120,
        lambda: f"{tasks()}\n{after.hub.log_text()}",
    )


def _go_wrong(after: Aftermath) -> None:
    """Messages with the patient's data wherever a message can be wrong; not as the name of an
    element or of a type: which one is not known is told."""
    uid, bird = after.study.study_instance_uid, "Kanarienvogel"
    bad_value = _value("1920-8", SUBJECT)
    messages: list[tuple[str, Any]] = [
        ("", b'{"resourceType": "Kanarienvogel Zitrone"'),
        ("", {"resourceType": bird}),
        ("", {"resourceType": "Bundle", "type": bird}),
        ("/Observation", bad_value | {"status": bird}),
        ("/Observation", bad_value | {"effectiveDateTime": "19471113"}),
        ("/Observation", bad_value | {"valueQuantity": {"value": bird}}),
        ("/Observation", bad_value | {"valueQuantity": {"value": 1, "unit": [bird]}}),
        ("/Observation", bad_value | {"subject": {"reference": f"Patient/{bird}"}}),
        ("/Task", _study_order(after, "w1", bird)),
        ("/Task", _study_order(after, "w2", uid, status=bird)),
        ("/Task", _study_order(after, "w3", uid, intent=bird)),
        ("/Task", _study_order(after, "w4", uid, focus={"reference": f"#{bird}"})),
        ("/Task", _study_order(after, "w5", uid, priority=bird)),
        ("/Task", _study_order(after, "w6", uid, authoredOn=bird)),
        ("/Task", _study_order(after, "w7", uid, input=[{"type": bird, "valueString": bird}])),
        ("/ServiceRequest", {"resourceType": "ServiceRequest", "subject": SUBJECT, "note": NOTE}),
        ("/Patient", _patient() | {"birthDate": "Kanarienvogel", "link": [{"type": bird}]}),
        (f"/{bird}.Zitrone", {"resourceType": f"{bird}.Zitrone"}),
    ]
    after.refused += [_post(after, path, content) for path, content in messages]
    after.refused.append(_post(after, "/Task", b"<Task>Kanarienvogel</Task>"))
    for query in (
        f"Task?patient={CANARIES['PatientID']}",
        f"DiagnosticReport?_summary={bird}",
        f"Observation?_cursor={bird}",
        f"Task/{bird}",
    ):
        after.refused.append(after.hub.get(f"/fhir/{query}", Scope.SYSTEM))
    callback = f"{after.hub.http_url}/api/v1/callbacks/{'0' * 32}"
    signed = {"webhook-id": bird, "webhook-timestamp": "1", "webhook-signature": "v1,Zitrone"}
    after.refused.append(httpx.post(callback, content=bird.encode(), headers=signed, timeout=60))


def test_all_of_it_has_happened(aftermath: Aftermath) -> None:
    rows = aftermath.hub.rows("SELECT model_id, state FROM requests")
    ends = {row["model_id"]: row["state"] for row in rows}
    assert ends["liver-kidney-scores"] == "done"
    for name in ("ok", "poll", "late-webhook"):
        assert ends[f"v-{name}"] == "done"
    assert ends["v-garbage"] == ends["v-http-500"] == "failed"
    statuses = [answer.status_code for answer in aftermath.refused]
    assert all(400 <= status < 500 for status in statuses), statuses
    for table in ("orders", "observations", "case_observations"):
        assert found(table, _rows(aftermath.hub, table)), table


def test_errors_repeat_nothing_of_the_patient(aftermath: Aftermath) -> None:
    for answer in aftermath.refused:
        assert answer.content
        told = found(f"the answer to {answer.request.method}", answer.content)
        assert told == [], answer.text


def test_vendors_are_told_neither_names_nor_identifiers(aftermath: Aftermath) -> None:
    """The images themselves are another matter: they go out as they are stored."""
    for one in aftermath.vendors:
        received = json.dumps(one.vendor.everything_received()).encode()
        if one.model_id in ("v-ok", "v-poll", "v-late-webhook"):
            assert aftermath.study.study_instance_uid.encode() in received
        told = {
            keyword for needle, keyword in NEEDLES.items() if needle.lower() in received.lower()
        }
        assert told <= {"StudyDescription"}, one.model_id


def test_the_log_holds_no_patient_data(aftermath: Aftermath) -> None:
    text = aftermath.hub.log_text()
    assert "callback.refused" in text
    assert found("the log", text.encode()) == []


def test_no_token_and_no_secret_is_in_the_log_or_in_a_table(aftermath: Aftermath) -> None:
    received = [one for each in aftermath.vendors for one in each.vendor.everything_received()]
    tokens = {token for one in received for token in _tokens(one)}
    assert tokens, "the vendors were given tokens"
    secrets = {*tokens, aftermath.hub.key(Scope.SYSTEM), "whsec_"}
    text = aftermath.hub.log_text()
    names = sa.inspect(aftermath.hub.database.engine).get_table_names()
    tables = {name: _rows(aftermath.hub, name).decode() for name in names}
    for secret in secrets:
        assert secret not in text
        assert [name for name, rows in tables.items() if secret in rows] == []


def _tokens(message: Any) -> Iterator[str]:
    if isinstance(message, dict):
        for name, value in message.items():
            if name == "authorization" and isinstance(value, str):
                yield value.removeprefix("Bearer ")
            else:
                yield from _tokens(value)
    elif isinstance(message, list | tuple):
        for value in message:
            yield from _tokens(value)


def test_the_tables_hold_patient_data_only_where_it_belongs(aftermath: Aftermath) -> None:
    names = set(sa.inspect(aftermath.hub.database.engine).get_table_names())
    assert names > ORDERED_TABLES | {"requests", "audit_log", "callbacks", "deferred_answers"}
    for name in sorted(names - ORDERED_TABLES):
        assert found(name, _rows(aftermath.hub, name)) == []


def test_files_and_their_names_hold_it_only_where_it_belongs(aftermath: Aftermath) -> None:
    hub = aftermath.hub
    assert _in_files(hub.temporary) == []
    others = [
        path
        for path in hub.data.iterdir()
        if path.name not in BELONGS_IN_FOLDERS and not path.name.startswith(DATABASE)
    ]
    assert [hit for path in others for hit in _in_files(path)] == []
    assert _in_names(hub.data) == _in_names(hub.temporary) == []


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/health/ready",
        "/api/v1/studies",
        "/api/v1/requests",
        "/api/v1/results",
        "/api/v1/deliveries",
        "/api/v1/models",
        "/api/v1/audit",
        "/api/v1/alerts",
    ],
)
def test_the_web_role_tells_nothing_about_patients(aftermath: Aftermath, path: str) -> None:
    answer = aftermath.hub.get(path)
    assert answer.status_code == 200, answer.text
    assert found(path, answer.content) == []


def test_the_command_line_tells_nothing_about_patients(aftermath: Aftermath) -> None:
    for arguments in (["study", "list"], ["order", "list"], ["audit", "list"]):
        done = aftermath.hub.caidx(*arguments)
        assert found(" ".join(arguments), (done.stdout + done.stderr).encode()) == []


def test_a_vendors_key_sees_its_own_calls_and_nothing_else(aftermath: Aftermath) -> None:
    hub, own = aftermath.hub, "v-garbage"
    key = hub.key(Scope.VENDOR, f"Vendor of {own}")
    headers = {"Authorization": f"Bearer {key}"}

    def asked(path: str) -> httpx.Response:
        return httpx.get(f"{hub.http_url}{path}", headers=headers, timeout=60)

    everything = hub.get("/api/v1/requests?limit=500").json()["items"]
    others = [one for one in everything if one["model_id"] != own]
    assert others
    for path in ("/api/v1/requests", "/api/v1/results", "/api/v1/models"):
        text = asked(path).text
        for one in others:
            assert one["request_id"] not in text
            assert f'"{one["model_id"]}"' not in text
    listed = asked("/api/v1/requests").json()
    assert [one["model_id"] for one in listed["items"]] == [own]
    assert listed["total"] == 1
    for one in everything:
        assert asked(f"/api/v1/results/{one['request_id']}").status_code == 403
    for path in ("/metrics", "/api/v1/audit", "/api/v1/alerts", "/api/v1/deliveries", "/fhir/Task"):
        assert asked(path).status_code == 403
    assert asked("/api/v1/studies").status_code == 403
    for one in others:
        assert asked(f"/api/v1/models/{one['model_id']}").status_code == 404
