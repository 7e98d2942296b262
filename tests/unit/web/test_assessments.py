"""Assessing reports by HTTP: who may, what is refused, and that once is once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx import Response

from hub.domain.report import ReportStatus
from hub.store import audit
from hub.store.report_ledger import ReportLedger
from hub.web.app import create_app
from hub.web.context import WebContext
from tests.unit.test_corrections import Bench, answered, make_corrections_bench, versions
from tests.unit.web.keys import client_with_key

PERSON = {"name": "Weiß^Änne", "identifier": "12345", "identifier_system": "urn:oid:1.2.276"}
ACCEPT: dict[str, Any] = {"assessment": "accept", "person": PERSON}
MODIFY: dict[str, Any] = {
    "assessment": "modify",
    "person": PERSON,
    "reason": "the trachea was counted, too",
    "changes": [{"tracking_uid": "2.25.7", "value": 3900}],
}
REJECT: dict[str, Any] = {"assessment": "reject", "person": PERSON, "reason": "not a lung"}


class Api:
    """The API over a bench."""

    def __init__(self, bench: Bench) -> None:
        context = WebContext(
            database=bench.pipeline.database,
            models=(),
            clock=bench.clock,
            version="1.2.3",
            heartbeat_seconds=2.0,
            jobs=lambda: bench.jobs,
        )
        self.client = client_with_key(create_app(context))

    def assess(self, request_id: str, body: object, key: str | None = "operator") -> Response:
        headers = {"Authorization": "" if key is None else f"Bearer {key}"}
        path = f"/api/v1/results/{request_id}/assessments"
        return self.client.post(path, json=body, headers=headers)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_corrections_bench(tmp_path)
    yield made
    made.store.close()
    made.pipeline.database.close()


@pytest.fixture
def api(bench: Bench) -> Api:
    return Api(bench)


@pytest.mark.parametrize(
    ("key", "status"),
    [(None, 401), ("", 401), ("operatorx", 401), ("auditor", 403), ("vendor", 403)],
)
def test_only_an_operator_may(api: Api, bench: Bench, key: str | None, status: int) -> None:
    request_id = answered(bench)
    answer = api.assess(request_id, ACCEPT, key)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(versions(bench, request_id)) == 1


def test_an_assessment_makes_a_version_once(api: Api, bench: Bench) -> None:
    request_id = answered(bench)
    first = api.assess(request_id, ACCEPT)
    assert first.status_code == 201
    assert first.json() | {"made_at": ""} == {
        "request_id": request_id,
        "version": 2,
        "status": "final",
        "state": "asked",
        "made_at": "",
    }
    bench.finish()
    again = api.assess(request_id, ACCEPT)
    assert again.status_code == 200
    assert (again.json()["version"], again.json()["state"]) == (2, "made")
    assert len(versions(bench, request_id)) == 2
    events = [e for e in audit.events(bench.pipeline.database) if e.action == "result.assessed"]
    assert [(event.actor, event.detail["by"]) for event in events] == [
        ("key:test-operator", "Weiß^Änne")
    ]


def test_a_report_is_modified_and_shown_with_its_versions(api: Api, bench: Bench) -> None:
    request_id = answered(bench)
    assert api.assess(request_id, MODIFY).json()["status"] == "amended"
    bench.finish()
    shown = api.client.get(f"/api/v1/results/{request_id}").json()
    assert [(row["version"], row["status"]) for row in shown["versions"]] == [
        (1, "preliminary"),
        (2, "amended"),
    ]
    assert shown["findings"][0]["value"] == 4200.0
    assert shown["versions"][1]["changes"][0]["value"] == 3900.0
    assert shown["versions"][1]["person"]["name"] == "Weiß^Änne"


def test_a_rejected_report_stays_withdrawn(api: Api, bench: Bench) -> None:
    request_id = answered(bench)
    assert api.assess(request_id, REJECT).status_code == 201
    answer = api.assess(request_id, ACCEPT)
    assert answer.status_code == 409
    assert "withdrawn" in answer.json()["detail"]
    assert versions(bench, request_id)[-1].status is ReportStatus.ENTERED_IN_ERROR


BAD: dict[str, tuple[object, int]] = {
    "no person": ({"assessment": "accept"}, 422),
    "a person without a name": ({**ACCEPT, "person": {"name": " "}}, 422),
    "no such word": ({**ACCEPT, "assessment": "ignore"}, 422),
    "a field too many": ({**ACCEPT, "assesment": "x"}, 422),
    "no reason": ({**REJECT, "reason": ""}, 422),
    "a reason of two lines": ({**REJECT, "reason": "a\nb"}, 422),
    "changes where there are none": ({**ACCEPT, "changes": MODIFY["changes"]}, 422),
    "modify without changes": ({**MODIFY, "changes": []}, 422),
    "no such finding": ({**MODIFY, "changes": [{"tracking_uid": "9.9", "value": 1}]}, 422),
    "another kind of answer": (
        {**MODIFY, "changes": [{"tracking_uid": "2.25.7", "presence": "absent"}]},
        422,
    ),
    "no finding is left": ({**MODIFY, "changes": [{"tracking_uid": "2.25.7", "drop": True}]}, 422),
    "nothing is changed": ({**MODIFY, "changes": [{"tracking_uid": "2.25.7", "value": 4200}]}, 422),
    "a change with a field too many": (
        {**MODIFY, "changes": [{"tracking_uid": "2.25.7", "volume": 1}]},
        422,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_a_problem_and_changes_nothing(api: Api, bench: Bench, what: str) -> None:
    body, status = BAD[what]
    request_id = answered(bench)
    answer = api.assess(request_id, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(versions(bench, request_id)) == 1


def test_a_request_that_does_not_exist_is_not_found(api: Api, bench: Bench) -> None:
    assert api.assess("0" * 32, ACCEPT).status_code == 404
    assert api.client.get(f"/api/v1/results/{'0' * 32}").status_code == 404
    assert api.assess("DOE", ACCEPT).status_code == 400


def test_a_fault_of_the_hub_is_not_said_of_the_assessment(
    api: Api, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = answered(bench)

    def mistaken(*_: object) -> None:
        raise ValueError("Meier^Anna is not in list")

    monkeypatch.setattr(ReportLedger, "_enqueue", mistaken)
    answer = api.assess(request_id, ACCEPT)
    assert answer.status_code == 500
    assert "Meier" not in answer.text


def test_no_answer_holds_the_patient(api: Api, bench: Bench) -> None:
    request_id = answered(bench)
    api.assess(request_id, ACCEPT)
    patient = bench.adapter.asked[0].study.patient
    shown = api.client.get(f"/api/v1/results/{request_id}").text
    assert patient.patient_name not in shown
    assert patient.patient_id not in shown
