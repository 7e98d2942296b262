"""The FHIR transaction says what the result says, about the right study, and nothing more."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding, Presence
from hub.domain.identity import PatientIdentity, derived_uid
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import Regulation
from hub.domain.report import ReportVersion
from hub.domain.study import Study
from hub.errors import IntegrityError, RejectedError
from hub.formats.encoding import AI_MARK, document_uid
from hub.formats.fhir.report import encode
from tests import builders
from tests.unit.formats.fhir_bundles import (
    PAGE,
    PATIENT_SYSTEM,
    Answer,
    Case,
    Json,
    context,
    related_to,
    report,
    resources,
    strings,
)

OUTCOMES: dict[str, tuple[Study, Answer]] = {
    "assessed": (builders.chest_ct_study(), builders.assessed),
    "presence": (builders.chest_ct_study(), builders.presence),
    "not-assessable": (builders.chest_ct_study(), builders.not_assessable),
    "unsuitable": (builders.chest_ct_study(), builders.unsuitable),
    "ecg": (builders.ecg_study(), builders.ecg_assessed),
}


def encoded(
    study: Study,
    answer: Answer,
    related: Mapping[DocumentKind, Document] | None = None,
    **changes: Any,
) -> Document:
    request = builders.request_for(study)
    documents = related_to(request) if related is None else related
    card = builders.model_card()
    document = encode(request, answer(request), card, context(**changes), documents)
    assert document is not None
    return document


def bundle_of(study: Study, answer: Answer, **changes: Any) -> Json:
    return dict(json.loads(encoded(study, answer, **changes).content))


def bundle_for(request: InferenceRequest, **changes: Any) -> Json:
    made = context(**changes)
    document = encode(request, builders.assessed(request), builders.model_card(), made, {})
    assert document is not None
    return dict(json.loads(document.content))


@pytest.fixture(params=OUTCOMES)
def outcome(request: pytest.FixtureRequest) -> tuple[Study, Answer]:
    return OUTCOMES[request.param]


@pytest.fixture
def ct() -> Json:
    return bundle_of(*OUTCOMES["assessed"])


# --- every outcome -----------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(outcome: tuple[Study, Answer]) -> None:
    assert encoded(*outcome) == encoded(*outcome)


def test_every_outcome_is_a_valid_transaction(outcome: tuple[Study, Answer]) -> None:
    bundle = bundle_of(*outcome)
    Bundle.model_validate(bundle)
    kinds = {entry["resource"]["resourceType"] for entry in bundle["entry"]}
    single = {"Device", "ImagingStudy", "DiagnosticReport", "Provenance", "Task"}
    assert kinds == single | {"Observation"}


def test_every_reference_leads_to_an_entry(outcome: tuple[Study, Answer]) -> None:
    bundle = bundle_of(*outcome)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    used = {s for s in strings([e["resource"] for e in bundle["entry"]]) if "urn:uuid:" in s}
    assert used <= urls
    assert used >= {e["fullUrl"] for e in bundle["entry"][:2]}, "device and study are used"


def test_what_the_ai_said_is_marked_as_such_and_unverified(outcome: tuple[Study, Answer]) -> None:
    bundle = bundle_of(*outcome)
    said = [report(bundle), *resources(bundle, "Observation")]
    assert {r["meta"]["security"][0]["code"] for r in said} == {"AIAST"}
    unsuitable = outcome == OUTCOMES["unsuitable"]
    assert {r["status"] for r in said} == {"cancelled" if unsuitable else "preliminary"}
    assert report(bundle)["conclusion"].startswith(AI_MARK)
    assert "resultsInterpreter" not in report(bundle)


def test_no_name_and_no_birth_date_leaves(outcome: tuple[Study, Answer]) -> None:
    text = encoded(*outcome).content.decode()
    assert "CAIDX-4711" in text, "the identifier is the link to the patient"
    for canary in ("Müller", "Jörg", "M\\u00fcller", "1958", "Weiß", "Änne"):
        assert canary not in text


def test_device_and_provenance_know_no_patient(outcome: tuple[Study, Answer]) -> None:
    bundle = bundle_of(*outcome)
    for resource in (*resources(bundle, "Device"), *resources(bundle, "Provenance")):
        assert "CAIDX-4711" not in json.dumps(resource)
        assert "A-2026-0042" not in json.dumps(resource)


def test_a_second_sending_meets_the_same_resources(outcome: tuple[Study, Answer]) -> None:
    methods = {
        "Device": "POST",
        "ImagingStudy": "POST",
        "Observation": "PUT",
        "DiagnosticReport": "PUT",
        "Task": "PUT",
        "Provenance": "PUT",
    }
    for entry in bundle_of(*outcome)["entry"]:
        kind, request = entry["resource"]["resourceType"], entry["request"]
        assert request["method"] == methods[kind]
        condition = request.get("ifNoneExist", request["url"])
        assert "%7C" in condition or request["url"] == f"Provenance/{entry['resource']['id']}"
        assert "|" not in condition


# --- answers -----------------------------------------------------------------------------


def test_a_measurement_has_its_value_in_ucum(ct: Json) -> None:
    values = {
        o["code"]["text"]: o["valueQuantity"]
        for o in resources(ct, "Observation")
        if "valueQuantity" in o
    }
    assert values["Volume"]["value"] == 5312.4
    assert values["Volume"]["code"] == "mL"
    assert {v["system"] for v in values.values()} == {"http://unitsofmeasure.org"}
    assert len(values) == 3


def test_findings_of_one_thing_are_members_of_one_group(ct: Json) -> None:
    urls = {e["fullUrl"]: e["resource"] for e in ct["entry"]}
    named = [urls[item["reference"]] for item in report(ct)["result"]]
    group, alone = sorted(named, key=lambda o: "hasMember" not in o)
    members = [urls[item["reference"]]["code"]["text"] for item in group["hasMember"]]
    assert members == ["Volume", "Attenuation Coefficient"]
    assert alone["valueQuantity"]["value"] == 7.2
    tracked = [i for i in group["identifier"] if i["system"] == "urn:dicom:uid"]
    assert len(tracked) == 1


def test_each_presence_is_said_in_so_many_words() -> None:
    found = resources(bundle_of(*OUTCOMES["presence"]), "Observation")
    answers = [o.get("interpretation", [{}])[0].get("coding", [{}])[0].get("code") for o in found]
    assert answers == ["POS", "NEG", "IND", None]
    present, absent, _, unknown = found
    assert present["valueCodeableConcept"]["text"] == "Present"
    assert absent["valueCodeableConcept"]["text"] == "Absent"
    assert present["bodySite"]["text"] == "Lung, right"
    assert present["component"][0]["valueQuantity"]["value"] == 0.93
    assert unknown["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert not [name for name in unknown if name.startswith("value")]


@pytest.mark.parametrize(
    ("name", "code"), [("not-assessable", "unknown"), ("unsuitable", "not-performed")]
)
def test_what_was_not_assessed_is_neither_a_number_nor_absent(name: str, code: str) -> None:
    study, answer = OUTCOMES[name]
    bundle = bundle_of(study, answer)
    reason = answer(builders.request_for(study)).reasons[0]
    observations = resources(bundle, "Observation")
    assert len(observations) == len(builders.model_card().output.findings)
    for observation in observations:
        assert observation["dataAbsentReason"]["coding"][0]["code"] == code
        assert observation["dataAbsentReason"]["text"] == reason
        assert not [key for key in observation if key.startswith(("value", "interpretation"))]
    assert reason in report(bundle)["conclusion"]


def test_a_result_that_was_not_assessed_must_not_answer() -> None:
    def contradictory(request: InferenceRequest) -> InferenceResult:
        return replace(
            builders.assessed(request, with_region=False),
            outcome=Outcome.NOT_ASSESSABLE,
            reasons=("No lung was found.",),
        )

    with pytest.raises(RejectedError):
        encoded(builders.chest_ct_study(), contradictory)


def test_an_ecg_is_filed_as_electrocardiac() -> None:
    bundle = bundle_of(*OUTCOMES["ecg"])
    assert [c["coding"][0]["code"] for c in report(bundle)["category"]] == ["EC"]
    values = [
        o.get("valueCodeableConcept", {}).get("text") for o in resources(bundle, "Observation")
    ]
    assert "Normal sinus rhythm" in values


def test_several_findings_of_one_name_stay_apart() -> None:
    def nodules(request: InferenceRequest) -> InferenceResult:
        one = builders.presence(request).findings[0]
        twins = tuple(
            replace(one, tracking_uid=derived_uid("nodule", str(n)), probability=n / 10)
            for n in range(3)
        )
        return replace(builders.presence(request), findings=twins)

    bundle = bundle_of(builders.chest_ct_study(), nodules)
    seen = [o["component"][0]["valueQuantity"]["value"] for o in resources(bundle, "Observation")]
    assert seen == [0.0, 0.1, 0.2]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(broken: float) -> None:
    def answer(request: InferenceRequest) -> InferenceResult:
        result = builders.assessed(request, with_region=False)
        return replace(result, findings=(replace(result.findings[0], value=broken),))

    with pytest.raises(RejectedError, match="finite"):
        encoded(builders.chest_ct_study(), answer)


def test_a_unit_that_is_not_ucum_is_refused() -> None:
    def answer(request: InferenceRequest) -> InferenceResult:
        result = builders.assessed(request, with_region=False)
        odd = replace(result.findings[0], unit=builders.LUNG)
        return replace(result, findings=(odd,))

    with pytest.raises(RejectedError, match="UCUM"):
        encoded(builders.chest_ct_study(), answer)


# --- the report --------------------------------------------------------------------------


def test_the_report_belongs_to_the_study_and_its_order(ct: Json) -> None:
    study = resources(ct, "ImagingStudy")[0]
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": "urn:oid:2.25.1001"}
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (1, 3)
    subject = report(ct)["subject"]
    assert subject["identifier"]["system"] == PATIENT_SYSTEM
    assert subject["identifier"]["value"] == "CAIDX-4711"
    assert "reference" not in subject
    order = report(ct)["basedOn"][0]["identifier"]
    assert (order["type"]["coding"][0]["code"], order["value"]) == ("ACSN", "A-2026-0042")


def test_the_page_is_in_the_report_with_size_and_hash(ct: Json) -> None:
    form = report(ct)["presentedForm"][0]
    assert b64decode(form["data"]) == PAGE
    assert form["size"] == len(PAGE)
    assert form["hash"] == b64encode(hashlib.sha1(PAGE).digest()).decode()  # noqa: S324
    assert form["contentType"] == "application/pdf"


def test_the_dicom_objects_of_the_result_are_named() -> None:
    study, answer = OUTCOMES["assessed"]
    document = encoded(study, answer)
    sr, seg = (
        document_uid(kind, builders.request_for(study), context())
        for kind in (DocumentKind.SR, DocumentKind.SEG)
    )
    assert document.related_uids == (sr, seg)
    bundle = json.loads(document.content)
    assert f"urn:oid:{sr}" in strings(report(bundle)["identifier"])
    assert {f"urn:oid:{sr}", f"urn:oid:{seg}"} <= set(
        strings(resources(bundle, "Provenance")[0]["target"])
    )


def test_without_other_documents_the_report_stands_alone() -> None:
    bundle = bundle_of(*OUTCOMES["assessed"], related={})
    assert "presentedForm" not in report(bundle)
    assert len(report(bundle)["identifier"]) == 1


def test_a_result_that_amends_updates_the_same_report_and_says_so() -> None:
    earlier, later = (builders.chest_ct_study(n + 2, revision=n) for n in (1, 2))
    asked = builders.request_for(earlier), builders.request_for(later)
    first = bundle_for(asked[0])
    replaced = ReportVersion(replaced_findings=builders.assessed(asked[0]).findings)
    second = bundle_for(replace(asked[1], amends_revision=1), report=replaced)
    assert [e["request"] for e in first["entry"][:-1]] == [
        e["request"] for e in second["entry"][:-1]
    ], "all but the Provenance meet the same resource"
    assert first["entry"][-1]["request"] != second["entry"][-1]["request"]
    assert "AMENDED" not in report(first)["conclusion"]
    assert "AMENDED: revision 2" in report(second)["conclusion"]
    assert [report(bundle)["status"] for bundle in (first, second)] == ["preliminary", "amended"]
    operations = [
        resources(b, "Provenance")[0]["activity"]["coding"][0]["code"] for b in (first, second)
    ]
    assert operations == ["CREATE", "UPDATE"]


def test_a_second_revision_without_an_earlier_result_amends_nothing() -> None:
    bundle = bundle_for(builders.request_for(builders.chest_ct_study(3, revision=2)))
    assert "AMENDED" not in report(bundle)["conclusion"]
    assert resources(bundle, "Provenance")[0]["activity"]["coding"][0]["code"] == "CREATE"


def test_a_new_package_of_a_model_is_another_device_and_the_same_report() -> None:
    study = builders.chest_ct_study()
    request = builders.request_for(study)
    retrained = replace(request, model=replace(request.model, sha256="cd" * 32))
    bundles = []
    for one in (request, retrained):
        document = encode(one, builders.assessed(one), builders.model_card(), context(), {})
        assert document is not None
        bundles.append(json.loads(document.content))
    urls = [
        [e["request"].get("ifNoneExist", e["request"]["url"]) for e in b["entry"]] for b in bundles
    ]
    assert urls[0][0] != urls[1][0]
    assert urls[0][1:-1] == urls[1][1:-1]


def test_missing_images_are_said() -> None:
    study = builders.chest_ct_study()
    partial = replace(study, completeness=replace(study.completeness, received=312, expected=340))
    text = report(bundle_of(partial, builders.assessed))["conclusion"]
    assert "312 of 340 images" in text


@pytest.mark.parametrize(
    ("date", "time", "offset", "expected"),
    [
        ("20260314", "082501", "", "2026-03-14T08:25:01+01:00"),
        ("20260714", "082501.123456", "", "2026-07-14T08:25:01+02:00"),
        ("20260314", "0825", "", "2026-03-14T08:25:00+01:00"),
        ("20260314", "082501", "-0330", "2026-03-14T08:25:01-03:30"),
        ("20260314", "08", "", "2026-03-14"),
        ("20260314", "", "", "2026-03-14"),
        ("20260314", "995959", "", "2026-03-14"),
        ("", "082501", "", None),
        ("20261399", "082501", "", None),
    ],
)
def test_the_report_carries_the_time_of_the_study(
    date: str, time: str, offset: str, expected: str | None
) -> None:
    study = builders.chest_ct_study()
    series = study.series[0]
    attributes = dict(series.instances[0].attributes) | {"timezone_offset_from_utc": offset}
    first = replace(series.instances[0], attributes=attributes)
    series = replace(series, instances=(first, *series.instances[1:]))
    changed = replace(study, study_date=date, study_time=time, series=(series,))
    bundle = bundle_of(changed, builders.assessed)
    assert report(bundle).get("effectiveDateTime") == expected
    assert resources(bundle, "ImagingStudy")[0].get("started") == expected


def test_a_study_without_patient_id_or_order_is_linked_by_its_uid_alone() -> None:
    nobody = PatientIdentity(patient_id="")
    study = builders.chest_ct_study(patient=nobody, accession_number="")
    bundle = bundle_of(study, builders.assessed)
    assert "identifier" not in report(bundle)["subject"]
    assert report(bundle)["subject"]["extension"][0]["valueCode"] == "unknown"
    assert "basedOn" not in report(bundle)
    assert len(resources(bundle, "ImagingStudy")[0]["identifier"]) == 1


def test_an_issuer_without_a_configured_system_gets_none() -> None:
    bundle = bundle_of(*OUTCOMES["assessed"], identifier_systems={})
    identifier = report(bundle)["subject"]["identifier"]
    assert "system" not in identifier
    assert identifier["assigner"]["display"] == "UMR"


def test_a_udi_is_carried_as_its_issuer_wrote_it() -> None:
    request = builders.request_for(builders.chest_ct_study())
    card = replace(
        builders.model_card(), regulation=Regulation(medical_device=True, udi_di="04012345678901")
    )
    document = encode(request, builders.assessed(request), card, context(), {})
    assert document is not None
    carrier = resources(json.loads(document.content), "Device")[0]["udiCarrier"][0]
    assert carrier["carrierHRF"] == "(01)04012345678901"


# --- what must not leave -----------------------------------------------------------------


def test_a_result_of_another_patient_is_never_encoded() -> None:
    def swapped(request: InferenceRequest) -> InferenceResult:
        result = builders.assessed(request, with_region=False)
        stranger = replace(result.identity.patient, patient_id="CAIDX-0815")
        return replace(result, identity=replace(result.identity, patient=stranger))

    with pytest.raises(IntegrityError, match="PatientID") as caught:
        encoded(builders.chest_ct_study(), swapped)
    assert "0815" not in str(caught.value)


def test_times_are_written_in_utc(ct: Json) -> None:
    assert context().made_at.tzinfo is UTC
    assert context().made_at.utcoffset() == timedelta(0)
    assert report(ct)["issued"] == "2026-03-14T08:30:15.250Z"


def test_a_finding_that_the_model_could_not_assess_is_kept_beside_the_others() -> None:
    def mixed(request: InferenceRequest) -> InferenceResult:
        result = builders.assessed(request, with_region=False)
        unclear = Finding(
            tracking_uid=derived_uid("unclear"),
            tracking_identifier="Pneumothorax",
            code=builders.PNEUMOTHORAX,
            presence=Presence.NOT_ASSESSABLE,
        )
        return replace(result, findings=(*result.findings, unclear))

    bundle = bundle_of(builders.chest_ct_study(), mixed)
    absent = [o for o in resources(bundle, "Observation") if "dataAbsentReason" in o]
    assert [o["code"]["text"] for o in absent] == ["Pneumothorax"]
    assert len(report(bundle)["result"]) == 3


@pytest.mark.parametrize("modality", ["RTSEGANN", "XX", "CT PERF"])
@pytest.mark.parametrize("kind", [DocumentKind.FHIR, DocumentKind.FHIR_R5])
def test_a_modality_that_nobody_knows_keeps_no_report_back(
    modality: str, kind: DocumentKind
) -> None:
    study = builders.chest_ct_study()
    (series,) = study.series
    study = replace(study, series=(replace(series, modality=modality),))
    assert study.modalities_in_study == (modality,)
    (told,) = resources(Case(builders.presence, study=study).bundle(kind), "ImagingStudy")
    assert modality in list(strings(told))
    assert "http://dicom.nema.org/resources/ontology/DCM" not in list(strings(told))
