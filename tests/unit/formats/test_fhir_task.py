"""Whoever waits for an answer reads from the Task what became of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.domain.inference import Priority
from hub.formats.fhir.task import task
from tests import builders
from tests.unit.formats.fhir_bundles import CASES, Json, card, context, resources


def task_of(name: str) -> Json:
    (found,) = resources(CASES[name].bundle(), "Task")
    return found


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("assessed", "completed", "Assessed, not verified"),
        ("not-assessable", "completed", "Not assessable, not verified"),
        ("unsuitable", "rejected", "Not analysed: outside intended use, not verified"),
        ("failed", "failed", "Processing failed, not verified"),
        ("accepted", "completed", "Assessed, verified"),
        ("rejected", "completed", "Withdrawn: the report must not be used"),
    ],
)
def test_the_task_tells_the_outcome(name: str, status: str, words: str) -> None:
    found = task_of(name)
    assert (found["status"], found["businessStatus"]["text"]) == (status, words)
    assert found["intent"] == "order"


@pytest.mark.parametrize(
    ("name", "severity", "code"),
    [("failed", "fatal", "exception"), ("unsuitable", "error", "not-supported")],
)
def test_a_failure_has_its_reasons(name: str, severity: str, code: str) -> None:
    found = task_of(name)
    (outcome,) = found["contained"]
    (issue,) = outcome["issue"]
    reason = CASES[name].result.reasons[0]
    assert (issue["severity"], issue["code"]) == (severity, code)
    assert issue["details"]["text"] == reason == found["statusReason"]["text"]
    assert {"reference": f"#{outcome['id']}"} in [o["valueReference"] for o in found["output"]]


def test_an_answer_has_no_operation_outcome() -> None:
    assert "contained" not in task_of("assessed")
    assert len(task_of("assessed")["output"]) == 1


def test_the_task_leads_to_study_model_order_and_report() -> None:
    bundle = CASES["assessed"].bundle()
    urls = {entry["fullUrl"]: entry["resource"]["resourceType"] for entry in bundle["entry"]}
    (found,) = resources(bundle, "Task")
    led = [found["focus"], found["owner"], found["output"][0]["valueReference"]]
    kinds = [urls[reference["reference"]] for reference in led]
    assert kinds == ["ImagingStudy", "Device", "DiagnosticReport"]
    assert found["basedOn"][0]["identifier"]["value"] == "A-2026-0042"
    assert found["for"]["identifier"]["value"] == "CAIDX-4711"


def test_a_task_is_found_by_its_request() -> None:
    identifiers = task_of("assessed")["identifier"]
    assert identifiers[1] == {
        "system": "urn:caidx:requests",
        "value": CASES["assessed"].request.request_id,
    }
    again = task_of("accepted")["identifier"]
    assert identifiers == again, "every version updates the same Task"


@pytest.mark.parametrize(
    ("priority", "word"),
    [(Priority.STAT, "stat"), (Priority.URGENT, "urgent"), (Priority.ROUTINE, "routine")],
)
def test_the_priority_is_that_of_the_request(priority: Priority, word: str) -> None:
    request = replace(CASES["assessed"].request, priority=priority)
    made = task(request, builders.assessed(request), card(), context(), "urn:uuid:1")
    assert made["priority"] == word
