"""A Bundle that is wrong does not leave, whichever way it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from hub.domain.report import ReportVersion
from hub.errors import IntegrityError
from hub.formats.fhir.bundle_view import BundleView
from hub.formats.fhir.checks import RULES, check_bundle, check_rules
from hub.formats.fhir.report import encode
from tests import builders
from tests.unit.formats.case_reports import CaseReport
from tests.unit.formats.fhir_bundles import (
    CASES,
    Answer,
    Json,
    card,
    context,
    provenance,
    report,
    resources,
)

Damage = Callable[[Json], Any]
NOWHERE = "urn:uuid:00000000-0000-0000-0000-000000000000"


def observation(bundle: Json) -> Json:
    return resources(bundle, "Observation")[0]


def only(bundle: Json, resource_type: str) -> Json:
    (found,) = resources(bundle, resource_type)
    return found


def entry_of(bundle: Json, resource_type: str) -> Json:
    found = [e for e in bundle["entry"] if e["resource"]["resourceType"] == resource_type]
    return dict(found[0])


def without(bundle: Json, resource_type: str) -> None:
    bundle["entry"] = [e for e in bundle["entry"] if e["resource"]["resourceType"] != resource_type]


def unmarked(resource: Json) -> None:
    resource["meta"]["security"] = []


def of_another_patient(resource: Json) -> None:
    resource["subject"]["identifier"]["value"] = "CAIDX-0815"


def both_same(bundle: Json) -> None:
    first, second = resources(bundle, "Observation")[:2]
    second["identifier"][0] = first["identifier"][0]


def given_a_value(resource: Json) -> None:
    resource.pop("dataAbsentReason", None)
    resource["valueCodeableConcept"] = {"text": "Absent"}


def measured(bundle: Json) -> Json:
    return next(o for o in resources(bundle, "Observation") if "valueQuantity" in o)


def as_device(bundle: Json) -> None:
    report(bundle)["resultsInterpreter"] = [{"type": "Device", "display": "an AI"}]


def two_answers(bundle: Json) -> None:
    observation(bundle)["dataAbsentReason"] = {"text": "unknown"}


def leading(resource: Json, name: str, url: str) -> None:
    field = resource[name][0] if isinstance(resource[name], list) else resource[name]
    field["reference"] = url


def study_url(bundle: Json) -> str:
    return str(entry_of(bundle, "ImagingStudy")["fullUrl"])


BROKEN: dict[str, tuple[str, Damage, str]] = {
    # name: (case, damage, what the check says)
    "no status": ("presence", lambda b: report(b).pop("status"), "not valid FHIR R4"),
    "unknown field": ("presence", lambda b: observation(b).update(unknown=1), "not valid FHIR R4"),
    "value of a wrong type": (
        "presence",
        lambda b: observation(b).update(issued="Müller"),
        "not valid FHIR R4",
    ),
    "an entry twice": (
        "presence",
        lambda b: b["entry"].append(b["entry"][2]),
        "claim the same identity",
    ),
    "two with one identifier": ("presence", both_same, "claim the same identity"),
    "a reference that leads nowhere": (
        "presence",
        lambda b: leading(report(b), "imagingStudy", NOWHERE),
        "leads to no entry",
    ),
    "a contained resource that is not there": (
        "failed",
        lambda b: only(b, "Task").pop("contained"),
        "leads to no entry",
    ),
    "a contained resource that nobody names": (
        "failed",
        lambda b: only(b, "Task")["output"].pop(),
        "contains what it does not refer to",
    ),
    "a result that is no Observation": (
        "presence",
        lambda b: leading(report(b), "result", study_url(b)),
        "DiagnosticReport.result leads to a ImagingStudy",
    ),
    "a device that is a study": (
        "presence",
        lambda b: leading(observation(b), "device", study_url(b)),
        "Observation.device leads to a ImagingStudy",
    ),
    "an order that is not named": (
        "accepted",
        lambda b: report(b).update(basedOn=[{"type": "ServiceRequest"}]),
        "refers to a ServiceRequest without naming it",
    ),
    "made again by every sending": (
        "presence",
        lambda b: entry_of(b, "Device")["request"].pop("ifNoneExist"),
        "would be made again",
    ),
    "created by every sending": (
        "presence",
        lambda b: entry_of(b, "Observation")["request"].update(url="Observation"),
        "would be made again",
    ),
    "another patient's Observation": (
        "presence",
        lambda b: of_another_patient(observation(b)),
        "two patients",
    ),
    "another patient's Flag": (
        "critical",
        lambda b: of_another_patient(only(b, "Flag")),
        "two patients",
    ),
    "a study with two UIDs": (
        "presence",
        lambda b: only(b, "ImagingStudy")["identifier"].append(
            {"system": "urn:dicom:uid", "value": "urn:oid:2.25.99"}
        ),
        "exactly one Study Instance UID",
    ),
    "a UID that is none": (
        "presence",
        lambda b: only(b, "ImagingStudy")["identifier"][0].update(value="urn:oid:2.25.01"),
        "no DICOM UID",
    ),
    "a source of another study": (
        "presence",
        lambda b: provenance(b)["entity"][1]["what"]["identifier"].update(value="urn:oid:2.25.9.9"),
        "a source that is not in the study",
    ),
    "a unit that UCUM does not know": (
        "assessed",
        lambda b: measured(b)["valueQuantity"].update(code="millilitres"),
        "whose unit is not UCUM",
    ),
    "a unit of another system": (
        "assessed",
        lambda b: measured(b)["valueQuantity"].update(system="http://snomed.info/sct"),
        "whose unit is not UCUM",
    ),
    "a code with a wrong check digit": (
        "presence",
        lambda b: observation(b)["code"]["coding"][0].update(code="36118009"),
        "a code that SCT cannot have",
    ),
    "no Task": (
        "presence",
        lambda b: without(b, "Task"),
        "not exactly one Task",
    ),
    "no provenance": (
        "presence",
        lambda b: without(b, "Provenance"),
        "not exactly one Provenance",
    ),
    "a report without a result": (
        "not-assessable",
        lambda b: report(b).pop("result"),
        "silence is no negative finding",
    ),
    "an Observation without its mark": (
        "presence",
        lambda b: unmarked(observation(b)),
        "Observation without AIAST",
    ),
    "a report without its mark": (
        "accepted",
        lambda b: unmarked(report(b)),
        "DiagnosticReport without AIAST",
    ),
    "a provenance without its mark": (
        "presence",
        lambda b: provenance(b).update(reason=[{"text": "why"}]),
        "Provenance without AIAST",
    ),
    "one Observation is final": (
        "presence",
        lambda b: observation(b).update(status="final"),
        "another status than its report",
    ),
    "one Observation of a rejected report stands": (
        "rejected",
        lambda b: observation(b).update(status="preliminary"),
        "another status than its report",
    ),
    "an Observation that no report names": (
        "presence",
        lambda b: report(b)["result"].pop(),
        "that no report names stands",
    ),
    "a withdrawn value": (
        "rejected",
        lambda b: given_a_value(observation(b)),
        "a withdrawn Observation has a value",
    ),
    "a withdrawn diagnosis": (
        "rejected",
        lambda b: report(b).update(conclusionCode=[{"text": "Nodule"}]),
        "coded conclusion",
    ),
    "a withdrawn report that does not say so": (
        "rejected",
        lambda b: report(b).update(conclusion="AI result, not verified. No nodule."),
        "does not say so",
    ),
    "the Flag of a withdrawn report": (
        "rejected",
        lambda b: only(b, "Flag").update(status="active"),
        "the alert of a withdrawn report stands",
    ),
    "a cancelled report with an answer": (
        "failed",
        lambda b: given_a_value(observation(b)),
        "a cancelled Observation has a value",
    ),
    "a cancelled Observation without a reason": (
        "unsuitable",
        lambda b: observation(b).pop("dataAbsentReason"),
        "gives no reason",
    ),
    "an Observation with two answers": ("presence", two_answers, "without exactly one answer"),
    "an Observation without an answer": (
        "presence",
        lambda b: observation(b).pop("valueCodeableConcept"),
        "without exactly one answer",
    ),
    "final, and nobody verified it": (
        "accepted",
        lambda b: report(b).pop("resultsInterpreter"),
        "a final report that nobody verified",
    ),
    "unverified, and does not say so": (
        "presence",
        lambda b: report(b).update(conclusion="No pneumothorax."),
        "an unverified report does not say so",
    ),
    "verified, and says that it is not": (
        "accepted",
        lambda b: report(b).update(conclusion="AI result, not verified."),
        "a verified report says that it is not",
    ),
    "preliminary, and verified": (
        "presence",
        lambda b: report(b).update(resultsInterpreter=[{"display": "Dr. B"}]),
        "neither final nor amended",
    ),
    "verified by a device": ("modified", as_device, "a device verifies a report"),
    "verified by somebody else": (
        "accepted",
        lambda b: provenance(b)["agent"][-1]["who"].update(display="Dr. B"),
        "does not name who verified",
    ),
    "a Task that succeeded without an answer": (
        "failed",
        lambda b: only(b, "Task").update(status="completed"),
        "Task and report disagree",
    ),
    "a Task that failed with an answer": (
        "presence",
        lambda b: only(b, "Task").update(status="failed"),
        "Task and report disagree",
    ),
    "a Task that failed without a reason": (
        "failed",
        lambda b: only(b, "Task").pop("statusReason"),
        "does not say why",
    ),
    "a Task without its report": (
        "presence",
        lambda b: only(b, "Task").pop("output"),
        "does not lead to its report",
    ),
    "critical, and nobody is told": (
        "critical",
        lambda b: without(b, "Flag"),
        "without an active Flag",
    ),
    "critical, and the alert is withdrawn": (
        "critical",
        lambda b: only(b, "CommunicationRequest").update(status="revoked"),
        "without an active CommunicationRequest",
    ),
    "an alert without a finding": (
        "critical",
        lambda b: [o.pop("interpretation", None) for o in resources(b, "Observation")],
        "an active Flag without a critical finding",
    ),
    "an alert without haste": (
        "critical",
        lambda b: only(b, "CommunicationRequest").update(priority="routine"),
        "not stat",
    ),
    "a page that was cut": (
        "presence",
        lambda b: report(b)["presentedForm"][0].update(size=3),
        "another size",
    ),
    "a page that was changed": (
        "presence",
        lambda b: report(b)["presentedForm"][0].update(hash="AAAA"),
        "another hash",
    ),
}


@pytest.mark.parametrize(("case", "damage", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_bundle_does_not_leave(case: str, damage: Damage, words: str) -> None:
    bundle = CASES[case].bundle()
    check_bundle(bundle)
    broken = deepcopy(bundle)
    damage(broken)
    with pytest.raises(IntegrityError, match=words) as caught:
        check_bundle(broken)
    told = str(caught.value)
    assert "CAIDX-" not in told
    assert "Müller" not in told


def test_every_rule_has_a_bundle_that_only_it_catches() -> None:
    caught = set()
    for case, damage, _ in BROKEN.values():
        bundle = CASES[case].bundle()
        damage(bundle)
        caught |= _broken_rules(bundle)
    values = CaseReport().bundle()
    for one in resources(values, "Observation"):
        one.pop("derivedFrom")
    caught |= _broken_rules(values)
    assert caught >= {rule.__name__ for rule in RULES}


def _broken_rules(bundle: Json) -> set[str]:
    """The rule, where it is the only one that is broken."""
    try:
        broken = {rule.__name__ for rule in RULES if list(rule(BundleView(bundle)))}
    except (KeyError, TypeError):  # its shape is wrong, which is checked first
        return set()
    return broken if len(broken) == 1 else set()


@pytest.mark.parametrize("answer", [builders.failed, builders.unsuitable, builders.assessed])
def test_a_model_without_declared_findings_can_fail_too(answer: Answer) -> None:
    model = card(output=replace(card().output, findings=()))
    request = builders.request_for(builders.chest_ct_study())
    for version in (ReportVersion(), CASES["retracted"].version):
        made = encode(request, answer(request), model, context(report=version), {})
        assert made is not None
        check_bundle(json.loads(made.content))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_does_not_leave(value: float) -> None:
    bundle = CASES["assessed"].bundle()
    measured(bundle)["valueQuantity"]["value"] = value
    with pytest.raises(IntegrityError, match="finite"):
        check_rules(bundle)


def test_every_problem_is_told_at_once() -> None:
    bundle = CASES["presence"].bundle()
    unmarked(observation(bundle))
    without(bundle, "Task")
    with pytest.raises(IntegrityError, match=r"exactly one Task.*AIAST"):
        check_bundle(bundle)
