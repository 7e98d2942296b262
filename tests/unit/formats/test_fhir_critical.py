"""A critical finding is told where nobody has opened the report yet, and taken back with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hub.domain.critical import CriticalRule, marked
from hub.domain.finding import Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import ReportStatus, ReportVersion
from hub.formats.fhir.observations import critical_interpretation
from tests import builders
from tests.unit.formats.fhir_bundles import CASES, Case, Json, card, report, resources


def alerts(bundle: Json) -> tuple[Json, Json]:
    (flag,), (request,) = (resources(bundle, kind) for kind in ("Flag", "CommunicationRequest"))
    return flag, request


def harmless(request: InferenceRequest) -> InferenceResult:
    result = builders.located(request)
    return replace(result, findings=tuple(replace(f, critical=False) for f in result.findings))


def test_nothing_critical_raises_no_alert() -> None:
    bundle = Case(harmless).bundle()
    assert not resources(bundle, "Flag")
    assert not resources(bundle, "CommunicationRequest")
    assert "CRITICAL" not in report(bundle)["conclusion"]


def test_an_alert_leads_to_the_finding_and_to_the_report() -> None:
    bundle = CASES["critical"].bundle()
    flag, request = alerts(bundle)
    urls = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    (detail,) = flag["extension"]
    assert urls[detail["valueReference"]["reference"]]["code"]["text"] == "Nodule"
    assert (flag["status"], flag["category"][0]["coding"][0]["code"]) == ("active", "clinical")
    assert urls[request["about"][0]["reference"]] is report(bundle)
    assert (request["status"], request["priority"]) == ("active", "stat")
    assert flag["subject"] == request["subject"] == report(bundle)["subject"]


def test_an_alert_says_that_an_ai_made_it_and_names_nobody() -> None:
    for alert in alerts(CASES["critical"].bundle()):
        assert alert["meta"]["security"][0]["code"] == "AIAST"
        assert "not verified" in json.dumps(alert)
        assert not any(name in json.dumps(alert, ensure_ascii=False) for name in ("Müller", "1958"))


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("critical", ("active", "active")),
        ("accepted", ("active", "active")),
        ("rejected", ("entered-in-error", "entered-in-error")),
        ("late-images", ("inactive", "revoked")),
        ("late-and-failed", ("inactive", "revoked")),
    ],
)
def test_an_alert_stands_as_long_as_its_finding(name: str, states: tuple[str, str]) -> None:
    flag, request = alerts(CASES[name].bundle())
    assert (flag["status"], request["status"]) == states
    assert ("extension" in flag) == (states[0] == "active")


def test_every_version_updates_the_same_alert() -> None:
    names = ("critical", "accepted", "rejected", "late-images")
    found = [
        [
            e["request"]["url"]
            for e in CASES[name].bundle()["entry"]
            if "Flag" in e["request"]["url"]
        ]
        for name in names
    ]
    assert len({tuple(urls) for urls in found}) == 1
    assert all(len(urls) == 1 for urls in found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rejected", "WITHDRAWN: this AI result must not be used"),
        ("late-images", "No longer critical: "),
        ("late-and-failed", "No longer critical: "),
    ],
)
def test_an_alert_that_does_not_hold_says_so_where_only_its_text_is_shown(
    name: str, words: str
) -> None:
    flag, request = alerts(CASES[name].bundle())
    texts = (flag["code"]["text"], request["payload"][0]["contentString"])
    assert all(text.startswith(words) for text in texts)
    assert not any("Critical finding" in text for text in texts)


def test_a_verified_alert_says_who_verified_it() -> None:
    flag, request = alerts(CASES["accepted"].bundle())
    assert "verified by Beispiel, Dr. Änne" in flag["code"]["text"]
    assert "verified by Beispiel, Dr. Änne" in request["payload"][0]["contentString"]


def measured(value: float) -> Finding:
    return Finding(
        tracking_uid="2.25.1",
        tracking_identifier="Potassium",
        code=builders.DIAMETER,
        value=value,
        unit=builders.MILLIMETRE,
    )


@pytest.mark.parametrize(("value", "code"), [(9.0, "HH"), (1.0, "LL"), (5.0, None)])
def test_a_critical_value_is_high_or_low_by_its_rule(value: float, code: str | None) -> None:
    rules = (CriticalRule(finding="Potassium", above=6.0, below=2.0),)
    model = card()
    model = replace(model, output=replace(model.output, critical=rules))
    (finding,) = marked([measured(value)], rules)
    assert finding.critical == (code is not None)
    if code:
        assert critical_interpretation(finding, model) == code


def test_a_critical_finding_without_a_rule_of_the_model_is_abnormal() -> None:
    of_a_route = replace(measured(5.0), critical=True)
    assert critical_interpretation(of_a_route, card()) == "AA"


def test_the_observation_is_judged_critical_beside_its_answer() -> None:
    found = resources(CASES["critical"].bundle(), "Observation")
    codes = {
        o["identifier"][1]["value"]: [i["coding"][0]["code"] for i in o.get("interpretation", [])]
        for o in found
    }
    assert list(codes.values()) == [[], ["POS", "AA"], ["NEG"]]


def test_a_finding_that_is_critical_no_more_takes_its_flag_down() -> None:
    request = builders.request_for(builders.chest_ct_study())
    version = ReportVersion(
        number=2,
        status=ReportStatus.AMENDED,
        replaced_findings=builders.located(request).findings,
    )
    flag, asked = alerts(Case(harmless, version).bundle())
    assert (flag["status"], asked["status"]) == ("inactive", "revoked")
    assert "end" in flag["period"]
    assert "No longer critical" in asked["payload"][0]["contentString"]
    assert {f.presence for f in harmless(request).findings} >= {Presence.PRESENT}
