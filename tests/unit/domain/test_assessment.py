"""What people may decide about a report, and how they change findings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from hub.domain.assessment import Decision, FindingChange, changed
from hub.domain.coding import Code
from hub.domain.finding import Finding, Presence
from hub.domain.report import Person, ReportCause, ReportStatus

ANNA = Person("Weiß^Änne")
VOLUME = Finding(
    tracking_uid="2.25.1",
    tracking_identifier="Lungs",
    code=Code("118565006", "SCT", "Volume"),
    value=4200.0,
    unit=Code("mL", "UCUM", "mL"),
    statement="The lungs have 4200 mL.",
)
DENSITY = replace(VOLUME, code=Code("112031", "DCM", "Attenuation"), value=-861.0, statement="")
PNEUMOTHORAX = Finding(
    tracking_uid="2.25.2",
    tracking_identifier="Pneumothorax",
    code=Code("36118008", "SCT", "Pneumothorax"),
    presence=Presence.PRESENT,
    probability=0.93,
    statement="A pneumothorax is likely.",
)
RHYTHM = Finding(
    tracking_uid="2.25.3",
    tracking_identifier="ECG",
    code=Code("106068003", "SCT", "Cardiac rhythm finding"),
    coded_value=Code("64730000", "SCT", "Normal sinus rhythm"),
)
FINDINGS = (VOLUME, DENSITY, PNEUMOTHORAX, RHYTHM)
FLUTTER = Code("5370000", "SCT", "Atrial flutter")


def test_an_answer_is_changed_and_loses_the_models_probability_and_sentence() -> None:
    found = changed(FINDINGS, [FindingChange(tracking_uid="2.25.2", presence=Presence.ABSENT)])
    assert found[:2] == FINDINGS[:2]
    assert found[2] == replace(
        PNEUMOTHORAX, presence=Presence.ABSENT, probability=None, statement=""
    )


def test_several_changes_at_once() -> None:
    found = changed(
        FINDINGS,
        [
            FindingChange(tracking_uid="2.25.1", code_value="118565006", value=3900.0),
            FindingChange(tracking_uid="2.25.1", code_value="112031", drop=True),
            FindingChange(tracking_uid="2.25.2", statement="Small, at the apex."),
            FindingChange(tracking_uid="2.25.3", coded_value=FLUTTER, statement="Flutter."),
        ],
    )
    assert [(f.value, f.presence, f.coded_value, f.statement) for f in found] == [
        (3900.0, None, None, ""),
        (None, Presence.PRESENT, None, "Small, at the apex."),
        (None, None, FLUTTER, "Flutter."),
    ]
    assert found[1].probability == 0.93  # the answer is the model's


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such finding": ({"tracking_uid": "2.25.9", "drop": True}, "no finding"),
    "several findings": ({"tracking_uid": "2.25.1", "value": 1.0}, "name the code_value"),
    "another code": ({"tracking_uid": "2.25.2", "code_value": "1", "drop": True}, "no finding"),
    "a value of a presence": ({"tracking_uid": "2.25.2", "value": 1.0}, "by a presence"),
    "a presence of a code": (
        {"tracking_uid": "2.25.3", "presence": Presence.ABSENT},
        "by a coded value",
    ),
    "two answers": (
        {"tracking_uid": "2.25.2", "presence": Presence.ABSENT, "coded_value": FLUTTER},
        "nothing else",
    ),
    "no number": (
        {"tracking_uid": "2.25.1", "code_value": "112031", "value": math.nan},
        "no number",
    ),
    "no code": ({"tracking_uid": "2.25.3", "coded_value": Code("", "SCT", "x")}, "no code"),
    "two lines": ({"tracking_uid": "2.25.2", "statement": "a\nb"}, "one line"),
    "a long text": ({"tracking_uid": "2.25.2", "statement": "a" * 1001}, "one line"),
    "dropped and changed": (
        {"tracking_uid": "2.25.2", "drop": True, "presence": Presence.ABSENT},
        "nothing else of it",
    ),
    "no change": ({"tracking_uid": "2.25.2"}, "changes nothing"),
    "the same answer": (
        {"tracking_uid": "2.25.2", "presence": Presence.PRESENT},
        "accept the report",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused(what: str) -> None:
    change, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        changed(FINDINGS, [FindingChange(**change)])


def test_a_report_without_findings_is_rejected_and_not_modified() -> None:
    with pytest.raises(ValueError, match="reject the report"):
        changed((PNEUMOTHORAX,), [FindingChange(tracking_uid="2.25.2", drop=True)])


CHANGE = (FindingChange(tracking_uid="2.25.2", drop=True),)


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (ReportCause.ACCEPTED, ReportStatus.FINAL),
        (ReportCause.MODIFIED, ReportStatus.AMENDED),
        (ReportCause.REJECTED, ReportStatus.ENTERED_IN_ERROR),
        (ReportCause.RETRACTED, ReportStatus.ENTERED_IN_ERROR),
    ],
)
def test_each_decision_has_its_status(cause: ReportCause, status: ReportStatus) -> None:
    changes = CHANGE if cause is ReportCause.MODIFIED else ()
    assert Decision(cause, ANNA, "because", changes).status is status


@pytest.mark.parametrize(
    "fields",
    [
        {"cause": ReportCause.MODEL},
        {"cause": ReportCause.PATIENT_CHANGED},
        {"person": Person(" ")},
        {"person": Person("Weiß", identifier_system="urn:oid:1")},
        {"person": Person("Weiß\nÄnne")},
        {"cause": ReportCause.REJECTED, "reason": " "},
        {"cause": ReportCause.RETRACTED, "reason": ""},
        {"cause": ReportCause.MODIFIED, "changes": ()},
        {"cause": ReportCause.ACCEPTED, "changes": CHANGE},
        {"reason": "a" * 1001},
    ],
)
def test_a_decision_that_says_too_little_or_too_much_is_none(fields: dict[str, Any]) -> None:
    values = {"cause": ReportCause.ACCEPTED, "person": ANNA, "reason": "because"}
    with pytest.raises(ValueError, match=r"."):
        Decision(**{**values, **fields})
