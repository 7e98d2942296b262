"""What has to hold between the resources of one report: status, marking, verification, alerts.

Each rule yields a sentence for each way in which it is broken, and never a value.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Iterator

from hub.formats.encoding import AI_MARK
from hub.formats.fhir.bundle_view import BundleView, Json, first_codes
from hub.formats.fhir.status import AMENDED, CANCELLED, ENTERED_IN_ERROR, FINAL

_MARKED = ("DiagnosticReport", "Observation", "Flag", "CommunicationRequest")
_CRITICAL = frozenset({"AA", "HH", "LL"})
_BROKE = ("rejected", "failed")
_NOTHING_TO_SAY = (CANCELLED, ENTERED_IN_ERROR)
_SINGLE = ("DiagnosticReport", "Device", "Task", "Provenance")
_LABORATORY = "LAB"


def one_report(view: BundleView) -> Iterator[str]:
    """A transaction is one version of one report of one study; one on measured values has none."""
    for resource_type in _SINGLE:
        if len(view.of_type(resource_type)) != 1:
            yield f"not exactly one {resource_type}"
    studies = view.of_type("ImagingStudy")
    if not _is_on_values(view) and len(studies) != 1:
        yield "not exactly one ImagingStudy"
    if _is_on_values(view) and studies:
        yield "an ImagingStudy of measured values"
    silent = [report for report in view.reports if not report.get("result")]
    if any(report["status"] not in _NOTHING_TO_SAY for report in silent):
        yield "a report without an Observation: silence is no negative finding"


def values_are_named(view: BundleView) -> Iterator[str]:
    """What was computed from measured values says from which; a value stands for nothing else."""
    if not _is_on_values(view):
        return
    for observation in view.named_observations:
        if _says_something(observation) and not observation.get("derivedFrom"):
            yield "an Observation on measured values does not say on which"


def _is_on_values(view: BundleView) -> bool:
    categories = [c for report in view.reports for c in report.get("category", [])]
    return _LABORATORY in first_codes(categories)


def ai_is_marked(view: BundleView) -> Iterator[str]:
    """Everything that an AI asserted has the label AIAST."""
    for resource in view.of_type(*_MARKED):
        labels = [label.get("code") for label in resource.get("meta", {}).get("security", [])]
        if "AIAST" not in labels:
            yield f"{resource['resourceType']} without AIAST"
    for provenance in view.of_type("Provenance"):
        if "AIAST" not in first_codes(provenance.get("reason", [])):
            yield "Provenance without AIAST"


def statuses_agree(view: BundleView) -> Iterator[str]:
    """Report and named Observations have one status; what a report does not name is withdrawn."""
    named = view.named_observations
    for report in view.reports:
        if any(observation["status"] != report["status"] for observation in named):
            yield "an Observation has another status than its report"
    known = {id(observation) for observation in named}
    for observation in view.observations:
        if id(observation) not in known and observation["status"] != ENTERED_IN_ERROR:
            yield "an Observation that no report names stands"


def withdrawn_says_nothing(view: BundleView) -> Iterator[str]:
    """What is withdrawn has no value, no code and no verifier any more."""
    for observation in view.observations:
        if observation["status"] == ENTERED_IN_ERROR and _says_something(observation):
            yield "a withdrawn Observation has a value"
    for report in view.reports:
        if report["status"] != ENTERED_IN_ERROR:
            continue
        if report.get("conclusionCode"):
            yield "a withdrawn report has a coded conclusion"
        if "WITHDRAWN" not in report.get("conclusion", ""):
            yield "a withdrawn report does not say so"
        states = [one["status"] for one in view.of_type("Flag", "CommunicationRequest")]
        if any(state != ENTERED_IN_ERROR for state in states):
            yield "the alert of a withdrawn report stands"


def cancelled_has_no_answer(view: BundleView) -> Iterator[str]:
    """Where there was no examination, there is no answer, not even "absent"."""
    for observation in view.observations:
        if observation["status"] == CANCELLED:
            if _says_something(observation):
                yield "a cancelled Observation has a value"
            if not _is_group(observation) and "dataAbsentReason" not in observation:
                yield "a cancelled Observation gives no reason"


def observations_answer(view: BundleView) -> Iterator[str]:
    """Each has a value, or the reason why it has none, or members; never two of these."""
    for observation in view.observations:
        if observation["status"] == ENTERED_IN_ERROR:
            continue
        has_value = any(name.startswith("value") for name in observation)
        answers = [has_value, "dataAbsentReason" in observation, _is_group(observation)]
        if sum(answers) != 1:
            yield "an Observation without exactly one answer"
        if "interpretation" in observation and not has_value:
            yield "an Observation judges what it has no value for"


def verified_by_a_person(view: BundleView) -> Iterator[str]:
    """Only a person makes a report final, and nothing else calls it verified."""
    verifiers = {
        agent["who"].get("display")
        for provenance in view.of_type("Provenance")
        for agent in provenance.get("agent", [])
        if "verifier" in first_codes([agent.get("type", {})])
    }
    for report in view.reports:
        interpreters = {one.get("display") for one in report.get("resultsInterpreter", [])}
        if not interpreters:
            if report["status"] == FINAL:
                yield "a final report that nobody verified"
            if AI_MARK not in report.get("conclusion", ""):
                yield "an unverified report does not say so"
        elif report["status"] not in (FINAL, AMENDED, CANCELLED):
            yield "a verified report that is neither final nor amended"
        elif AI_MARK in report.get("conclusion", ""):
            yield "a verified report says that it is not"
        if interpreters and "Device" in {r.get("type") for r in report["resultsInterpreter"]}:
            yield "a device verifies a report"
        if not interpreters <= verifiers and report["status"] == FINAL:
            yield "the Provenance does not name who verified the report"


def task_tells_the_outcome(view: BundleView) -> Iterator[str]:
    """The Task of a request that failed has failed, with its reasons; it leads to the report."""
    cancelled = any(report["status"] == CANCELLED for report in view.reports)
    withdrawn = any(report["status"] == ENTERED_IN_ERROR for report in view.reports)
    for task in view.of_type("Task"):
        broke = task["status"] in _BROKE
        if broke != cancelled and not withdrawn:
            yield "Task and report disagree whether there is an answer"
        contained = [one["resourceType"] for one in task.get("contained", [])]
        if broke and ("OperationOutcome" not in contained or "statusReason" not in task):
            yield "a Task that failed does not say why"
        outputs = [one.get("valueReference", {}).get("reference") for one in task.get("output", [])]
        led_to = [view.by_url.get(url, {}).get("resourceType") for url in outputs]
        if "DiagnosticReport" not in led_to:
            yield "a Task that does not lead to its report"


def critical_is_told(view: BundleView) -> Iterator[str]:
    """An active Flag and CommunicationRequest where, and only where, a finding is critical."""
    critical = any(
        _CRITICAL.intersection(first_codes(observation.get("interpretation", [])))
        for observation in view.named_observations
    )
    for resource_type in ("Flag", "CommunicationRequest"):
        states = [resource["status"] for resource in view.of_type(resource_type)]
        if critical and states != ["active"]:
            yield f"a critical finding without an active {resource_type}"
        if not critical and "active" in states:
            yield f"an active {resource_type} without a critical finding"
    for alert in view.of_type("CommunicationRequest"):
        if alert.get("priority") != "stat":
            yield "an alert that is not stat"


def attachments_are_whole(view: BundleView) -> Iterator[str]:
    """Size and SHA-1 of what a report carries (R4 Attachment)."""
    for report in view.reports:
        for form in report.get("presentedForm", []):
            content = b64decode(form.get("data", ""))
            digest = hashlib.sha1(content, usedforsecurity=False).digest()
            if len(content) != int(form.get("size", -1)):
                yield "presentedForm has another size than it says"
            if b64decode(form.get("hash", "")) != digest:
                yield "presentedForm has another hash than it says"


def _says_something(observation: Json) -> bool:
    return any(name.startswith(("value", "interpretation")) for name in observation)


def _is_group(observation: Json) -> bool:
    return "hasMember" in observation


RULES = (
    one_report,
    values_are_named,
    ai_is_marked,
    statuses_agree,
    withdrawn_says_nothing,
    cancelled_has_no_answer,
    observations_answer,
    verified_by_a_person,
    task_tells_the_outcome,
    critical_is_told,
    attachments_are_whole,
)
