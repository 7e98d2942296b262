"""Every outcome and every version of a report is unmistakable in FHIR."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import Person, ReportCause, ReportStatus, ReportVersion
from hub.formats.encoding import AI_MARK
from hub.formats.fhir.checks import check_bundle
from hub.formats.fhir.identities import tracking_uid
from model_adapters.tensors.values import Subject
from tests import builders
from tests.unit.formats.fhir_bundles import (
    CASES,
    Case,
    Json,
    card,
    provenance,
    report,
    resources,
    strings,
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def standing(bundle: Json) -> list[Json]:
    """Observations that are no surplus: those that the report names, and their members."""
    urls = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    named = [urls[item["reference"]] for item in report(bundle)["result"]]
    return named + [urls[m["reference"]] for one in named for m in one.get("hasMember", [])]


# --- status ------------------------------------------------------------------------------


def test_every_case_is_a_valid_transaction(case: Case) -> None:
    check_bundle(case.bundle())


def test_report_and_observations_have_the_status_of_the_version(case: Case) -> None:
    bundle = case.bundle()
    assert report(bundle)["status"] == case.status
    assert {observation["status"] for observation in standing(bundle)} == {case.status}


def test_the_same_version_gives_the_same_bytes(case: Case) -> None:
    assert case.encoded().content == case.encoded().content


def test_no_case_names_the_patient(case: Case) -> None:
    for text in strings(case.bundle()):
        assert not any(canary in text for canary in ("Müller", "Jörg", "19580217", "1958-02-17"))


def test_only_a_person_makes_it_verified(case: Case) -> None:
    made = report(case.bundle())
    verified = case.version.verifier is not None
    assert ("resultsInterpreter" in made) == verified
    assert (AI_MARK in made["conclusion"]) == (not verified)
    assert made["conclusion"].startswith("AI result")
    if made["status"] == "final":
        assert verified


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not-assessable", "NOT ASSESSABLE: No lung was found"),
        ("unsuitable", "NOT ANALYSED, outside the model's intended use: The patient is 12"),
        ("failed", "PROCESSING FAILED, nothing was assessed; this is not a negative finding: The"),
        ("late-images", "AMENDED: revision 2 of the study; replaces"),
        ("partial", "INCOMPLETE: computed on 3 of 4 images"),
        ("run-again", "AMENDED: version 2 of this report replaces the earlier one"),
        ("patient-changed", "AMENDED: version 2 of this report; the patient's data changed"),
        ("accepted", "AI result, verified by Beispiel, Dr. Änne (Radiologie Nord)."),
        ("modified", "AI result, changed and verified by Beispiel, Dr. Änne (Radiologie"),
        ("modified", "CHANGED: The nodule is a vessel."),
        ("rejected", "WITHDRAWN: this AI result must not be used (rejected by Beispiel, Dr. Änne"),
        (
            "retracted",
            "(withdrawn by Beispiel, Dr. Änne (Radiologie Nord)). Reason: Recalled model.",
        ),
        ("critical", "CRITICAL, to be seen at once: Nodule 2."),
    ],
)
def test_the_conclusion_says_what_became_of_it(name: str, words: str) -> None:
    assert words in report(CASES[name].bundle())["conclusion"]


@pytest.mark.parametrize(("name", "code"), [("unsuitable", "not-performed"), ("failed", "error")])
def test_what_was_not_examined_is_cancelled_with_its_reason(name: str, code: str) -> None:
    for observation in standing(CASES[name].bundle()):
        assert observation["status"] == "cancelled"
        assert observation["dataAbsentReason"]["coding"][0]["code"] == code
        assert not [key for key in observation if key.startswith(("value", "interpretation"))]


def test_a_withdrawn_report_says_nothing_but_that() -> None:
    bundle = CASES["rejected"].bundle()
    made = report(bundle)
    assert "Nodule" not in made["conclusion"]
    assert "conclusionCode" not in made
    for observation in resources(bundle, "Observation"):
        assert observation["status"] == "entered-in-error"
        assert "WITHDRAWN" in observation["note"][0]["text"]
        assert not [key for key in observation if key.startswith(("value", "interpretation"))]


def test_a_verified_report_names_the_person_by_identifier() -> None:
    (person,) = report(CASES["accepted"].bundle())["resultsInterpreter"]
    assert person == {
        "type": "Practitioner",
        "identifier": {"system": "http://fhir.de/sid/kbv/lanr", "value": "123456789"},
        "display": "Beispiel, Dr. Änne (Radiologie Nord)",
    }


def test_a_person_without_an_identifier_is_named_all_the_same() -> None:
    version = replace(CASES["accepted"].version, person=Person("Dr. A. Beispiel"))
    bundle = replace(CASES["accepted"], version=version).bundle()
    (person,) = report(bundle)["resultsInterpreter"]
    assert person == {"type": "Practitioner", "display": "Dr. A. Beispiel"}


def test_a_final_report_whose_patient_changed_stays_final() -> None:
    version = replace(
        CASES["accepted"].version,
        number=3,
        cause=ReportCause.PATIENT_CHANGED,
        status=ReportStatus.FINAL,
    )
    bundle = replace(CASES["accepted"], version=version, status="final").bundle()
    assert report(bundle)["status"] == "final"
    assert report(bundle)["resultsInterpreter"]


# --- provenance --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "activity", "part"),
    [
        ("assessed", "CREATE", None),
        ("late-images", "UPDATE", None),
        ("accepted", "UPDATE", "verifier"),
        ("modified", "UPDATE", "verifier"),
        ("rejected", "NULLIFY", "verifier"),
        ("retracted", "NULLIFY", "enterer"),
        ("released", "UPDATE", "enterer"),
    ],
)
def test_provenance_says_who_did_what(name: str, activity: str, part: str | None) -> None:
    made = provenance(CASES[name].bundle())
    assert made["activity"]["coding"][0]["code"] == activity
    parts = [agent["type"]["coding"][0]["code"] for agent in made["agent"]]
    assert parts == ["performer", "assembler", *([part] if part else [])]
    if part:
        assert made["agent"][-1]["who"]["identifier"]["value"] == "123456789"
    reason = CASES[name].version.reason
    assert (reason in strings(made["reason"])) == bool(reason)


def test_every_version_has_a_provenance_of_its_own() -> None:
    names = ("presence", "retracted", "late-images", "run-again")
    ids = {provenance(CASES[name].bundle())["id"] for name in names}
    # both are version 2 of the same request
    assert len(ids) == len(names) - 1
    first = provenance(CASES["presence"].bundle())
    assert [entity["role"] for entity in first["entity"]] == ["source", "source"]


def test_provenance_names_what_the_version_replaces() -> None:
    case = CASES["accepted"]
    bundle = case.bundle()
    replaced = [e["what"] for e in provenance(bundle)["entity"] if e["role"] == "revision"]
    assert replaced[0]["identifier"] == report(bundle)["identifier"][0]
    assert replaced[0]["display"] == "version 1"
    sr = case.version.predecessors[0].sop_instance_uid
    assert replaced[1]["identifier"]["value"] == f"urn:oid:{sr}"
    late = provenance(CASES["late-images"].bundle())["entity"]
    assert "revision 1 of the study" in strings(late)


# --- observations that a version has no more -----------------------------------------------


def nodules(*numbers: int) -> Case:
    """Several findings that ask the same question, told apart by what is tracked."""

    def answer(request: InferenceRequest) -> InferenceResult:
        one = builders.presence(request).findings[0]
        found = [
            replace(one, tracking_uid=f"2.25.{n}", tracking_identifier="Nodule", probability=n / 10)
            for n in numbers
        ]
        return replace(builders.presence(request), findings=tuple(found))

    return Case(answer)


def replacing(case: Case, earlier: Case, **version: Any) -> Case:
    """The case as the answer for late images, in place of an earlier one."""
    made = ReportVersion(status=ReportStatus.AMENDED, replaced_findings=earlier.result.findings)
    later = builders.chest_ct_study(4, revision=2)
    return replace(case, version=replace(made, **version), study=later, amends_revision=1)


def by_url(bundle: Json) -> dict[str, Json]:
    return {
        entry["fullUrl"]: entry["resource"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Observation"
    }


def after(*bundles: Json) -> list[Json]:
    """The Observations that a server has after these transactions, each with its last state."""
    held: dict[str, Json] = {}
    for bundle in bundles:
        held |= {
            entry["request"]["url"]: entry["resource"]
            for entry in bundle["entry"]
            if entry["resource"]["resourceType"] == "Observation"
        }
    return list(held.values())


def probabilities(observations: list[Json]) -> list[float]:
    """Of those that stand."""
    return sorted(
        observation["component"][0]["valueQuantity"]["value"]
        for observation in observations
        if observation["status"] != "entered-in-error"
    )


def test_a_finding_that_is_gone_is_withdrawn_and_the_others_keep_their_place() -> None:
    first, second = nodules(1, 2, 3), replacing(nodules(2, 3), nodules(1, 2, 3))
    before, now = by_url(first.bundle()), by_url(second.bundle())
    assert set(before) <= set(now), "each Observation of the first is met by the second"
    (gone,) = [url for url in before if now[url]["status"] == "entered-in-error"]
    assert before[gone]["component"][0]["valueQuantity"]["value"] == 0.1
    assert "does not have it any more" in now[gone]["note"][0]["text"]
    assert gone not in [item["reference"] for item in report(second.bundle())["result"]]
    assert gone in [item.get("reference") for item in provenance(second.bundle())["target"]]
    assert probabilities(after(first.bundle(), second.bundle())) == [0.2, 0.3]


def test_findings_that_come_and_go_never_leave_one_standing() -> None:
    history = [nodules(1, 2, 3), nodules(3), nodules(2, 3, 4), nodules(1)]
    sent, earlier = [history[0].bundle()], history[0]
    for number, case in enumerate(history[1:], start=2):
        sent.append(replacing(case, earlier, number=number).bundle())
        earlier = case
        expected = [finding.probability or 0.0 for finding in case.result.findings]
        assert probabilities(after(*sent)) == sorted(expected)


@pytest.mark.parametrize("later", ["presence", "not-assessable", "failed", "unsuitable"])
@pytest.mark.parametrize("earlier", ["assessed", "presence", "not-assessable", "failed"])
def test_no_answer_outlives_its_report(earlier: str, later: str) -> None:
    first = CASES[earlier]
    second = replacing(CASES[later], first)
    held = after(first.bundle(), second.bundle())
    current = {o["identifier"][0]["value"] for o in standing(second.bundle())}
    for observation in held:
        if observation["identifier"][0]["value"] not in current:
            assert observation["status"] == "entered-in-error"
            assert not [key for key in observation if key.startswith("value")]


def test_a_group_that_is_gone_is_withdrawn_too() -> None:
    bundle = replacing(CASES["presence"], CASES["assessed"]).bundle()
    gone = [o for o in resources(bundle, "Observation") if o["status"] == "entered-in-error"]
    assert "Measurement Group" in [o["code"]["text"] for o in gone]
    assert not [o for o in gone if "hasMember" in o]


def test_what_a_person_changed_replaces_what_was_not_assessable() -> None:
    first, second = CASES["not-assessable"], CASES["modified"]
    changed = replace(second, version=replace(second.version, replaced_findings=()))
    held = after(first.bundle(), changed.bundle())
    absent = [o for o in held if o["status"] == "preliminary"]
    assert absent == []


def test_an_answer_takes_the_place_of_the_question_that_had_none() -> None:
    first = CASES["not-assessable"]
    second = replacing(CASES["assessed"], first)
    (asked,) = by_url(first.bundle())
    assert by_url(second.bundle())[asked]["valueQuantity"]["value"] == 5312.4
    assert "entered-in-error" not in {o["status"] for o in by_url(second.bundle()).values()}


def test_the_tracking_uid_of_a_question_is_that_of_our_own_adapters() -> None:
    request, spec = CASES["assessed"].request, card().output.findings[0]
    own = Subject(request.model.model_id, request.study.study_instance_uid, ())
    assert tracking_uid(request, spec) == own.tracking_uid(spec.tracking_identifier)


def test_a_side_that_a_person_changed_is_not_left_standing() -> None:
    first = CASES["presence"]
    findings = first.result.findings
    right = replace(findings[0], laterality=builders.LEFT, finding_site=None)
    version = replace(CASES["modified"].version, replaced_findings=findings)

    def changed(request: InferenceRequest) -> InferenceResult:
        return replace(builders.presence(request), findings=(right, *findings[1:]))

    held = after(
        first.bundle(), replace(CASES["modified"], answer=changed, version=version).bundle()
    )
    stands = [o for o in held if o["status"] == "amended"]
    assert len(stands) == len(findings)
    assert "preliminary" not in {o["status"] for o in held}


def test_accepting_withdraws_nothing() -> None:
    for name in ("accepted", "accepted-not-assessable"):
        found = resources(CASES[name].bundle(), "Observation")
        assert {o["status"] for o in found} == {"final"}


def test_everything_of_a_report_is_withdrawn_with_it() -> None:
    first, last = CASES["presence"], CASES["retracted"]
    held = after(first.bundle(), last.bundle())
    assert len(held) == len(first.result.findings)
    assert {o["status"] for o in held} == {"entered-in-error"}


# --- all versions together ---------------------------------------------------------------


def stored(*bundles: Json) -> dict[str, Json]:
    """What a server has after these transactions: by what each entry creates or updates."""
    found: dict[str, Json] = {}
    for bundle in bundles:
        for entry in bundle["entry"]:
            request = entry["request"]
            if request["method"] == "POST":
                found.setdefault(f"{request['url']}?{request['ifNoneExist']}", entry["resource"])
            else:
                found[request["url"]] = entry["resource"]
    return found


def versions_of_a_report() -> list[Case]:
    """First answer, late images, the same findings in another order, a person's changes."""
    late = builders.chest_ct_study(4, revision=2)
    request = builders.request_for(builders.chest_ct_study())
    had = (*builders.located(request).findings, *builders.presence(request).findings)

    def reversed_order(asked: InferenceRequest) -> InferenceResult:
        result = builders.presence(asked)
        return replace(result, findings=result.findings[::-1])

    def fewer(asked: InferenceRequest) -> InferenceResult:
        result = builders.presence(asked)
        return replace(result, findings=result.findings[:1])

    person = Person("Weiß^Änne")
    amended = ReportVersion(status=ReportStatus.AMENDED, replaced_findings=had)
    modified = replace(amended, number=3, cause=ReportCause.MODIFIED, person=person, reason="x")
    retracted = replace(
        modified, number=4, status=ReportStatus.ENTERED_IN_ERROR, cause=ReportCause.RETRACTED
    )
    return [
        Case(builders.located),
        Case(builders.presence, amended, late, 1),
        Case(reversed_order, replace(amended, number=2), late, 1),
        Case(fewer, modified, late, 1),
        Case(fewer, retracted, late, 1),
    ]


def test_after_every_version_only_what_it_says_stands() -> None:
    """However many versions a server skipped: each takes back all that any earlier one said."""
    bundles = [case.bundle() for case in versions_of_a_report()]
    everything = stored(*bundles)
    for last in range(len(bundles)):
        named = {o["identifier"][0]["value"] for o in standing(bundles[last])}
        for first in range(last + 1):
            have = stored(*bundles[first : last + 1], bundles[last])
            observations = [o for o in have.values() if o["resourceType"] == "Observation"]
            still = {o["identifier"][0]["value"] for o in observations if _stands(o)}
            assert still <= named, (first, last)
            assert set(have) <= set(everything)
    for one in stored(*bundles).values():
        if one["resourceType"] in ("Observation", "DiagnosticReport", "Flag"):
            assert one["status"] == "entered-in-error", one["resourceType"]


def _stands(observation: Json) -> bool:
    return bool(observation["status"] != "entered-in-error")


def test_another_order_of_the_findings_changes_no_identity() -> None:
    _, late, turned, *_ = (case.bundle() for case in versions_of_a_report())
    answers = [
        {
            o["identifier"][0]["value"]: o.get("valueCodeableConcept")
            for o in resources(bundle, "Observation")
        }
        for bundle in (late, turned)
    ]
    assert answers[0] == answers[1]
