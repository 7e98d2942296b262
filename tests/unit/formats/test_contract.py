"""The contract with vendors' services: what is said and read (docs/contract)."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from fhir.resources.R4B.observation import Observation as FhirObservation
from hypothesis import given, settings

from hub.domain.coding import Code
from hub.domain.finding import Finding, FramePlace, Region, Segment
from hub.domain.identity import PatientIdentity
from hub.domain.inference import (
    Deferred,
    ImagingInput,
    InferenceResult,
    InputRole,
    ObservationInput,
    Outcome,
    Priority,
    Unsuitable,
)
from hub.domain.observation import Observation
from hub.domain.study import Completeness, EvidenceKind
from hub.errors import IntegrityError, RejectedError, TransientError
from hub.formats.contract.finding import FindingMessage
from hub.formats.contract.label_map import FrameMessage, LabelMapMessage, SegmentMessage
from hub.formats.contract.messages import (
    decode_answer,
    decode_request,
    encode_answer,
    encode_deferred,
    encode_failed,
    encode_request,
)
from hub.formats.contract.observation import observation_of, observation_resource
from hub.formats.contract.request import DicomInputMessage, FhirInputMessage
from hub.formats.encoding import check_document_identity
from hub.ports import Retrieval
from tests.builders import (
    PATIENT,
    assessed,
    chest_ct_study,
    not_assessable,
    presence,
    request_for,
)
from tests.unit.formats.contract_cases import (
    NOW,
    REQUEST,
    example,
    example_request,
    results,
    tracking_uid,
)

RETRIEVAL = Retrieval("https://hub.example/vendors/1/dicom-web", "Bearer of-this-request", NOW)
ANSWERS = {
    "result-assessed": Outcome.ASSESSED,
    "result-label-map": Outcome.ASSESSED,
    "result-not-assessable": Outcome.NOT_ASSESSABLE,
}


def answered(message: dict[str, Any] | bytes) -> InferenceResult | Unsuitable | Deferred:
    body = message if isinstance(message, bytes) else orjson.dumps(message)
    return decode_answer(body, example_request(), received_at=NOW)


# --- requests ------------------------------------------------------------------------------


def test_a_request_says_what_a_vendor_needs() -> None:
    """Model, examination, inputs by role, where the images lie, the deadline, the callback."""
    study = chest_ct_study(2)
    prior = chest_ct_study(1, study_instance_uid="2.25.900")
    request = replace(
        request_for(study),
        priority=Priority.STAT,
        inputs=(
            ImagingInput(InputRole.CURRENT, study.series),
            ImagingInput(InputRole.PRIOR, prior.series),
        ),
        deadline=NOW + timedelta(minutes=10),
        amends_revision=1,
    )
    body = encode_request(request, retrieve=RETRIEVAL, callback_url="https://hub.example/cb/1")
    message = decode_request(body)
    assert message.contract == "1.0"
    assert message.request_id == request.request_id
    assert (message.model.id, message.model.sha256) == (
        request.model.model_id,
        request.model.sha256,
    )
    assert message.priority == "stat"
    assert message.trigger.kind == "rule"
    assert message.study.study_instance_uid == study.study_instance_uid
    assert message.study.modalities_in_study == ("CT",)
    assert message.patient.sex == "M"
    assert message.patient.age_years == 68
    assert message.parameters == {"kernel": "soft"}
    assert message.constraints.deadline == request.deadline
    assert message.callback is not None
    assert message.callback.url == "https://hub.example/cb/1"
    assert message.amends_revision == 1
    current, earlier = message.inputs
    assert isinstance(current, DicomInputMessage)
    assert isinstance(earlier, DicomInputMessage)
    assert (current.role, earlier.role) == ("current", "prior")
    assert earlier.study_instance_uid == "2.25.900"
    assert current.retrieve is not None
    assert current.retrieve.authorization == RETRIEVAL.authorization
    assert [i.sop_instance_uid for i in current.series[0].instances] == [
        i.sop_instance_uid for i in study.instances
    ]
    assert [i.sha256 for i in current.series[0].instances] == [i.sha256 for i in study.instances]


def test_a_request_holds_nothing_that_leads_to_the_patient() -> None:
    """No name, no identifier, no birth date, no accession number, no physician, no record."""
    canary = PatientIdentity("CANARY-ID", "CANARY-ISSUER", "CANARY^NAME", "19341231", "F")
    study = chest_ct_study(1, patient=canary, accession_number="CANARY-ACCESSION")
    study = replace(study, study_id="CANARY-STUDY-ID", referring_physician_name="CANARY^DOCTOR")
    value = replace(_value("1920-8", 42.0), patient=canary, reference="Observation/CANARY")
    value = replace(value, identifier=("urn:canary", "CANARY-LAB"), source="CANARY-SOURCE")
    request = replace(
        request_for(study),
        inputs=(
            ImagingInput(InputRole.CURRENT, study.series),
            ObservationInput(InputRole.CURRENT, (value,)),
        ),
        order_id="CANARY-ORDER",
        based_on=('{"reference": "ServiceRequest/CANARY"}',),
    )
    text = encode_request(request, retrieve=RETRIEVAL).decode()
    assert "CANARY" not in text
    assert "19341231" not in text
    assert "1934" not in text
    assert '"kind":"order"' in text


def test_the_credential_for_the_images_is_not_shown_in_a_representation() -> None:
    message = decode_request(encode_request(request_for(chest_ct_study(1)), retrieve=RETRIEVAL))
    assert "of-this-request" not in repr(message)


@pytest.mark.parametrize("study_date", ["2026-03-14", "20260314X", "unknown", ""])
def test_a_study_date_that_is_none_is_left_out(study_date: str) -> None:
    request = request_for(replace(chest_ct_study(1), study_date=study_date))
    assert decode_request(encode_request(request)).study.study_date == ""


def test_a_vendor_ignores_what_a_later_version_adds() -> None:
    """Also within the parts of a request."""
    message = example("request-ct-with-prior")
    message["contract"] = "1.7"
    message["hospital"] = {"name": "new"}
    message["inputs"][0]["series"][0]["laterality"] = "R"
    message["model"]["udi"] = "new"
    read = decode_request(orjson.dumps(message))
    assert read.contract == "1.7"


@pytest.mark.parametrize("version", ["2.0", "1", "1.x", "01.0", ""])
def test_a_vendor_refuses_another_contract(version: str) -> None:
    message = example("request-ct-with-prior") | {"contract": version}
    with pytest.raises(RejectedError, match="the request: contract"):
        decode_request(orjson.dumps(message))


# --- measured values -----------------------------------------------------------------------


def _value(loinc: str, value: float | None, **fields: Any) -> Observation:
    return Observation(
        observation_id="0123456789abcdef0123456789abcdef",
        patient=PATIENT,
        codes=(Code(loinc, "LN", "AST"), Code("AST", "urn:oid:1.2.3", "AST in our laboratory")),
        status=fields.pop("status", "final"),
        effective_at=datetime(2026, 3, 12, 6, 40, 1, 250000, tzinfo=UTC),
        value=value,
        unit=Code("U/L", "UCUM", "units per litre") if value is not None else None,
        **fields,
    )


@pytest.mark.parametrize(
    "value",
    [
        _value("1920-8", 42.5),
        _value("1920-8", 5.0, comparator="<"),
        _value("1920-8", None, absent_reason="haemolysed"),
        replace(_value("1920-8", 3.0), unit=None, effective_at=None),
        replace(_value("1920-8", 3.0), unit=Code("U", "99LAB", "our unit"), status="amended"),
    ],
)
def test_measured_values_come_back_as_they_were(value: Observation) -> None:
    """All but whose they are and where they stand; the resource is FHIR R4."""
    resource = observation_resource(value)
    assert "subject" not in resource
    FhirObservation.model_validate(json.loads(json.dumps(resource)))
    nobody = PatientIdentity("")
    assert observation_of(resource, nobody) == replace(value, patient=nobody)


def test_values_of_an_order_are_asked_about() -> None:
    values = (_value("1920-8", 42.5),)
    case = replace(
        chest_ct_study(1),
        series=(),
        observations=values,
        completeness=Completeness(
            complete=True, evidence=EvidenceKind.ORDERED_VALUES, received=1, expected=None
        ),
    )
    request = replace(
        request_for(case), inputs=(ObservationInput(InputRole.CURRENT, values),), order_id="o"
    )
    message = decode_request(encode_request(request))
    (given_values,) = message.inputs
    assert isinstance(given_values, FhirInputMessage)
    assert given_values.resources[0]["code"]["coding"][0]["code"] == "1920-8"
    assert message.trigger.kind == "order"
    assert message.study.received_at == case.received_at


# --- answers -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(results())
def test_every_result_comes_back_as_it_was(result: InferenceResult) -> None:
    assert decode_answer(encode_answer(result), REQUEST, received_at=NOW) == result


@pytest.mark.parametrize(
    ("kind", "message", "elsewhere"),
    [
        (Finding, FindingMessage, {"critical"}),
        (Segment, SegmentMessage, set()),
        (Region, LabelMapMessage, {"includes"}),
        (FramePlace, FrameMessage, set()),
    ],
)
def test_nothing_of_a_result_is_left_out_of_the_contract(
    kind: Any, message: Any, elsewhere: set[str]
) -> None:
    """What is added to the domain has to be added here; whether it is critical is the hub's word,
    nested segments are told by the segments."""
    there = set(message.model_fields) - {"label_values"}
    assert {field.name for field in fields(kind)} - elsewhere == there


@pytest.mark.parametrize("make", [assessed, presence, not_assessable])
def test_results_of_every_kind_come_back_as_they_were(make: Any) -> None:
    request = request_for(chest_ct_study(3))
    result = make(request)
    assert decode_answer(encode_answer(result), request, received_at=NOW) == result


def test_an_answer_is_the_vendors_own_word_on_whose_it_is() -> None:
    """Another examination, request or model stays as it was said, and the gate sees it."""
    request = request_for(chest_ct_study(2))
    right = assessed(request)
    check_document_identity(request, right)
    for wrong in (
        replace(right, request_id="another"),
        replace(right, model=replace(right.model, version="other")),
        replace(right, identity=replace(right.identity, study_instance_uid="2.25.7")),
    ):
        read = decode_answer(encode_answer(wrong), request, received_at=NOW)
        assert isinstance(read, InferenceResult)
        assert read == wrong
        with pytest.raises(IntegrityError):
            check_document_identity(request, read)


def test_without_a_digest_the_model_is_the_one_that_was_asked() -> None:
    message = example("result-assessed")
    del message["model"]["sha256"]
    read = answered(message)
    assert isinstance(read, InferenceResult)
    assert read.model == example_request().model


def test_what_brings_no_tracking_uid_gets_the_one_that_local_models_give() -> None:
    read = answered(example("result-label-map"))
    assert isinstance(read, InferenceResult)
    assert read.findings[0].tracking_uid == tracking_uid("Lungs")
    assert read.region is not None
    assert read.region.segments[1].tracking_uid == tracking_uid("Low attenuation areas")


def test_unsuitable_and_deferred_come_back() -> None:
    request = example_request()
    unsuitable = Unsuitable(request.request_id, ("The slices are too thick.",))
    assert answered(encode_answer(unsuitable)) == unsuitable
    later = answered(encode_deferred(request.request_id, "job-1", 15))
    assert later == Deferred(request.request_id, "job-1", NOW + timedelta(seconds=15))


def test_a_vendor_that_does_not_say_when_is_asked_again_as_the_manifest_says() -> None:
    request = example_request()
    body = encode_deferred(request.request_id, "job-1")
    read = decode_answer(body, request, received_at=NOW, poll_seconds=7)
    assert isinstance(read, Deferred)
    assert read.not_before == NOW + timedelta(seconds=7)


def test_a_vendor_that_cannot_now_is_asked_again_and_one_that_cannot_at_all_is_not() -> None:
    request_id = example_request().request_id
    now = encode_failed(request_id, "overloaded", retryable=True, retry_after_seconds=120)
    with pytest.raises(TransientError, match="overloaded") as passing:
        answered(now)
    assert passing.value.retry_after == 120
    with pytest.raises(RejectedError, match=r"images-not-readable \(its reference: log-1\)"):
        answered(
            encode_failed(request_id, "images-not-readable", retryable=False, reference="log-1")
        )


@pytest.mark.parametrize("name", ["unsuitable", "deferred", "failed"])
def test_what_is_no_result_must_be_about_the_request(name: str) -> None:
    with pytest.raises(RejectedError, match="request_id: is of another request"):
        answered(example(name) | {"request_id": "another"})


def test_the_contract_carries_no_parametric_maps_and_no_failure_as_a_result() -> None:
    result = assessed(request_for(chest_ct_study(1)))
    with pytest.raises(RejectedError, match="parametric maps"):
        encode_answer(replace(result, maps=(object(),)))  # type: ignore[arg-type]
    failed = replace(result, outcome=Outcome.FAILED, findings=(), reasons=("broke",))
    with pytest.raises(RejectedError, match="failed"):
        encode_answer(failed)


# --- the published examples ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_published_results_are_read_and_pass_the_gate(name: str) -> None:
    read = answered(example(name))
    assert isinstance(read, InferenceResult)
    assert read.outcome is ANSWERS[name]
    check_document_identity(example_request(), read)


def test_the_published_label_map_is_what_its_picture_shows() -> None:
    read = answered(example("result-label-map"))
    assert isinstance(read, InferenceResult)
    assert read.region is not None
    labels = read.region.labels
    assert len(labels) == 2 * 8 * 8
    assert not any(labels[:64])
    assert set(labels[64:]) == {0, 1, 2}
    assert read.region.values_of(1) == (1, 2)


def test_the_published_result_of_values_names_what_it_was_computed_from() -> None:
    asked = example("request-lab-values")
    read = answered(example("result-lab-values"))
    assert isinstance(read, InferenceResult)
    given_ids = tuple(one["id"] for one in asked["inputs"][0]["resources"])
    assert read.findings[0].derived_from == given_ids
    assert read.request_id == asked["request_id"]
    assert read.identity.study_instance_uid == asked["study"]["study_instance_uid"]


def test_the_other_published_answers_are_read() -> None:
    assert isinstance(answered(example("unsuitable")), Unsuitable)
    assert isinstance(answered(example("deferred")), Deferred)
    with pytest.raises(TransientError):
        answered(example("failed"))


@pytest.mark.parametrize("name", ["request-ct-with-prior", "request-lab-values"])
def test_the_published_requests_are_read(name: str) -> None:
    message = decode_request(orjson.dumps(example(name)))
    assert json.loads(message.model_dump_json(exclude_none=True)) == example(name)
    for part in message.inputs:
        if isinstance(part, FhirInputMessage):
            assert [observation_of(one, PATIENT).value for one in part.resources] == [42, 35, 187]
