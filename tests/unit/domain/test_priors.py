"""Which earlier examinations are a patient's own, and which of them a model wants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hub.domain.identity import PatientIdentity
from hub.domain.inference import ImagingInput, InputRole
from hub.domain.model_input import PriorsInput
from hub.domain.priors import (
    Candidate,
    candidate_of,
    eligible,
    foreign_priors,
    is_alike,
    prior_series,
    same_patient,
)
from tests.builders import PATIENT, chest_ct_study, request_for

STUDY = chest_ct_study()  # of 2026-03-14, 08:25:01
WISH = PriorsInput(maximum=3)


def person(patient_id: str = "4711", issuer: str = "", born: str = "") -> PatientIdentity:
    return PatientIdentity(patient_id, issuer, patient_birth_date=born)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (person(), person(), False),  # perhaps a placeholder
        (person(issuer="UMR"), person(issuer="UMR"), True),
        (person(born="19580217"), person(born="19580217"), True),
        (person(issuer="UMR", born="19580217"), person(born="19580217"), True),
        (person("4711"), person("47110"), False),
        (person(""), person(""), False),
        (person("", born="19580217"), person("", born="19580217"), False),
        (person(issuer="UMR"), person(issuer="HST"), False),
        (person(issuer="UMR", born="19580217"), person(issuer="HST", born="19580217"), False),
        (person(born="19580217"), person(born="19700101"), False),
        (person(issuer="UMR", born="19580217"), person(issuer="UMR", born="19700101"), False),
        (person(issuer="UMR"), person(), False),  # nothing confirms it
        (person(issuer="UMR", born="19580217"), person(), False),
    ],
)
def test_a_patient_is_the_same_only_where_something_confirms_it(
    one: PatientIdentity, other: PatientIdentity, *, same: bool
) -> None:
    assert same_patient(one, other) is same
    assert same_patient(other, one) is same


def earlier(uid: str = "1.2.3", date: str = "20250314", **fields: Any) -> Candidate:
    values: dict[str, Any] = {"patient": PATIENT, "modalities": ("CT",), "archive": "pacs"}
    return Candidate(uid, study_date=date, **{**values, **fields})


def chosen(*candidates: Candidate, wish: PriorsInput = WISH) -> list[str]:
    return [c.study_instance_uid for c in eligible(wish, STUDY, candidates)]


def test_the_newest_comes_first_and_each_study_once() -> None:
    held = earlier("1.2.2", "20250101", archive="")
    found = eligible(
        WISH,
        STUDY,
        (earlier("1.2.1", "20240101"), earlier("1.2.2", "20250101"), held, earlier("1.2.4")),
    )
    assert [c.study_instance_uid for c in found] == ["1.2.4", "1.2.2", "1.2.1"]
    assert found[1].archive == ""  # what the hub holds need not be fetched


@pytest.mark.parametrize(
    "candidate",
    [
        earlier(STUDY.study_instance_uid),
        earlier(date="20260315"),
        earlier(date="20260314"),
        earlier(date="20260314", study_time="082501"),
        earlier(date="20260314", study_time="235959"),
        earlier(date=""),
        earlier(date="2025"),
        earlier(date="20251399"),
        earlier(patient=replace(PATIENT, patient_birth_date="19700101")),
        earlier(patient=replace(PATIENT, patient_id="X")),
    ],
)
def test_what_is_not_surely_before_and_the_same_patients_is_none(candidate: Candidate) -> None:
    assert chosen(candidate) == []


def test_an_earlier_time_on_the_same_day_is_before() -> None:
    assert chosen(earlier(date="20260314", study_time="070000")) == ["1.2.3"]


def test_without_a_date_of_its_own_a_study_has_no_priors() -> None:
    assert eligible(WISH, replace(STUDY, study_date=""), (earlier(),)) == ()


def test_the_age_limit_counts_days_before_the_examination() -> None:
    wish = PriorsInput(maximum_age_days=365)
    assert chosen(earlier(date="20250314"), wish=wish) == ["1.2.3"]
    assert chosen(earlier(date="20250313"), wish=wish) == []


@pytest.mark.parametrize(
    ("same", "fields", "alike"),
    [
        (("modality",), {}, True),
        (("modality",), {"modalities": ("MR", "PR")}, False),
        (("modality",), {"modalities": ()}, True),
        ((), {"modalities": ("MR",)}, True),
        (("body-part",), {"body_parts": ("HEAD", "CHEST")}, True),
        (("body-part",), {"body_parts": ("chest ",)}, True),
        (("body-part",), {"body_parts": ("HEAD",)}, False),
        (("body-part",), {"body_parts": ()}, True),
        (("procedure",), {"study_description": "ct  thorax NATIV"}, True),
        (("procedure",), {"study_description": "CT Schaedel"}, False),
        (("procedure",), {"study_description": ""}, False),
    ],
)
def test_what_the_manifest_names_has_to_be_alike(
    same: Any, fields: dict[str, Any], *, alike: bool
) -> None:
    wish = PriorsInput(same=same)
    assert is_alike(wish, STUDY, STUDY.series, earlier(**fields)) is alike


def test_of_a_prior_only_the_series_that_are_alike_are_given() -> None:
    prior = chest_ct_study(study_instance_uid="1.2.3")
    wish = PriorsInput(same=("modality", "body-part"))
    assert prior_series(wish, STUDY.series, prior) == prior.series
    unknown = tuple(
        replace(s, instances=tuple(replace(i, attributes={}) for i in s.instances))
        for s in prior.series
    )
    assert prior_series(wish, STUDY.series, replace(prior, series=unknown)) == ()
    other = tuple(replace(s, modality="MR") for s in prior.series)
    assert prior_series(wish, STUDY.series, replace(prior, series=other)) == ()
    assert candidate_of(prior).body_parts == ("CHEST",)


def test_the_gate_names_what_is_wrong_with_priors() -> None:
    request = request_for(STUDY)
    prior = chest_ct_study(study_instance_uid="1.2.3")

    def problems(given: Any) -> tuple[str, ...]:
        inputs = (*request.inputs, ImagingInput(InputRole.PRIOR, given.series))
        return foreign_priors(replace(request, inputs=inputs))

    assert foreign_priors(request) == ()
    assert problems(prior) == ()
    assert problems(STUDY) == ("the study itself as its prior",)
    stranger = chest_ct_study(
        study_instance_uid="1.2.3", patient=replace(PATIENT, patient_birth_date="19700101")
    )
    assert problems(stranger) == ("a prior of another patient",)
