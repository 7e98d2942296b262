"""Which measured values a model gets, and what is said where they are not good enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from hub.domain.coding import Code
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.model_card import ModelCard
from hub.domain.model_input import ObservationsInput
from hub.domain.observation import Observation
from hub.domain.observed_input import Selection, chosen_input
from hub.domain.study import Completeness, EvidenceKind
from hub.formats.manifest.model_manifest import read_manifest
from hub.formats.ucum import value_in
from model_adapters.reference_models import LIVER_KIDNEY_SCORES
from tests.unit.observed import (
    ALT,
    AST,
    CREATININE,
    ORDERED_AT,
    PATIENT,
    PLATELETS,
    case,
    observation,
    usual_values,
)

NAMES = ("AST", "ALT", "platelets", "creatinine")


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return read_manifest((LIVER_KIDNEY_SCORES / "model.yaml").read_text(), "model.yaml")


def chosen(card: ModelCard, *values: Observation) -> Selection:
    return chosen_input(card, case(*values), value_in)


def without(code: Code, *instead: Observation) -> tuple[Observation, ...]:
    return (*(one for one in usual_values() if code not in one.codes), *instead)


def reasons(card: ModelCard, *values: Observation, **patient: str) -> tuple[str, ...]:
    study = case(*values, patient=replace(PATIENT, **patient))
    said = unsuitable_reasons(card, study, (), value_in)
    assert "Secret" not in " ".join(said)
    return said


def test_usual_values_are_given_in_the_order_of_the_model(card: ModelCard) -> None:
    found = chosen(card, *reversed(usual_values()))
    assert found.reasons == ()
    assert [one.spec.name for one in found.chosen] == list(NAMES)
    assert [one.value for one in found.chosen] == [31, 28, 240, 0.8]
    assert found.passed_over == ()
    assert found.observations == tuple(usual_values())
    assert reasons(card, *usual_values()) == ()


def test_values_are_converted_and_kept_as_they_were_reported(card: ModelCard) -> None:
    molar = observation(Code("14682-9", "LN", "Creatinine"), 88.4, "umol/L")
    found = chosen(card, *without(CREATININE, molar))
    assert found.chosen[-1].value == pytest.approx(0.99998, abs=1e-5)
    assert found.observations[-1].value == 88.4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), "AST: missing (LOINC 1920-8 or 30239-8 or 88112-8)."),
        ((observation(AST, 31, status="preliminary"),), "AST: not released yet (preliminary)."),
        ((observation(AST, 31, status="registered"),), "AST: not released yet (registered)."),
        (
            (observation(AST, 31, status="entered-in-error"),),
            "AST: missing (LOINC 1920-8 or 30239-8 or 88112-8).",
        ),
        (
            (observation(AST, 31, status="cancelled"),),
            "AST: missing (LOINC 1920-8 or 30239-8 or 88112-8).",
        ),
        ((observation(AST, 31, days=812.5),), "AST: 812 days old, at most 365 are allowed."),
        ((observation(AST, 31, days=366),), "AST: 366 days old, at most 365 are allowed."),
        ((observation(AST, 31, days=-40),), "AST: its date lies far after the order."),
        (
            (observation(AST, 31, effective_at=None),),
            "AST: nobody says when it was measured.",
        ),
        ((observation(AST, None),), "AST: without a number."),
        ((observation(AST, 31, ""),), "AST: the unit is not from UCUM."),
        ((observation(AST, 5, comparator="<"),), "AST: only a limit is known (<5 U/L)."),
        (
            (observation(AST, 31, "mg/dL"),),
            "AST: the unit mg/dL cannot be converted to U/L.",
        ),
        ((observation(AST, 12000),), "AST: 12000 U/L is outside 1 to 5000."),
        ((observation(AST, -3),), "AST: -3 U/L is outside 1 to 5000."),
        (
            (observation(AST, 31), observation(AST, 62, number=1)),
            "AST: different values of the same moment.",
        ),
        # an older value never takes the place of a newer one that cannot be used
        (
            (observation(AST, 31, days=9), observation(AST, 12000, number=1)),
            "AST: 12000 U/L is outside 1 to 5000.",
        ),
        (
            (observation(AST, 31, days=9), observation(AST, 7000, comparator=">", number=1)),
            "AST: only a limit is known (>7000 U/L).",
        ),
        (
            (observation(AST, 31, days=9), observation(AST, 31, "", number=1)),
            "AST: the unit is not from UCUM.",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_reason(
    card: ModelCard, values: tuple[Observation, ...], expected: str
) -> None:
    said = without(AST, *values)
    assert reasons(card, *said) == (expected,)
    found = chosen(card, *said)
    assert [one.spec.name for one in found.chosen] == list(NAMES[1:])


def test_every_missing_value_is_named(card: ModelCard) -> None:
    said = reasons(card)
    assert len(said) == len(NAMES)
    for name, sentence in zip(NAMES, said, strict=True):
        assert sentence.startswith(f"{name}: missing (LOINC ")


def test_the_limit_of_age_is_allowed(card: ModelCard) -> None:
    assert reasons(card, *without(AST, observation(AST, 31, days=365))) == ()
    # measured after the order was placed, before it was looked for
    assert reasons(card, *without(AST, observation(AST, 31, days=-1))) == ()


def test_the_newest_released_value_counts(card: ModelCard) -> None:
    older = observation(AST, 90, days=40)
    newest = observation(AST, 31, days=2, number=1, status="corrected")
    pending = observation(AST, 500, days=1, number=2, status="preliminary")
    found = chosen(card, *without(AST, older, newest, pending))
    assert found.chosen[0].observation == newest
    assert {(one.observation, one.why) for one in found.passed_over} == {
        (older, "older"),
        (pending, "not released"),
    }
    assert found.notes == ("AST: a value that is not released yet was not used",)


def test_the_same_value_twice_is_one(card: ModelCard) -> None:
    doubled = (observation(CREATININE, 1.0), observation(CREATININE, 10, "mg/L", number=1))
    first, second = (
        chosen(card, *without(CREATININE, *order)) for order in (doubled, doubled[::-1])
    )
    assert first.reasons == second.reasons == ()
    assert first.chosen == second.chosen
    assert [one.why for one in first.passed_over] == ["the same"]


def test_one_unreadable_report_of_a_moment_does_not_spoil_the_other(card: ModelCard) -> None:
    pair = (observation(AST, 31, ""), observation(AST, 31, number=1))
    found = chosen(card, *without(AST, *pair))
    assert (found.reasons, found.chosen[0].value) == ((), 31)


def test_values_of_other_codes_are_not_looked_at(card: ModelCard) -> None:
    other = observation(Code("1975-2", "LN", "Bilirubin"), 99999, "mg/dL")
    assert chosen(card, *usual_values(), other).passed_over == ()


def test_values_that_were_measured_too_far_apart(card: ModelCard) -> None:
    assert isinstance(card.input, ObservationsInput)
    close = replace(card, input=replace(card.input, within_days=30))
    apart = without(PLATELETS, observation(PLATELETS, 240, days=91))
    assert reasons(close, *usual_values()) == ()
    assert reasons(close, *apart) == (
        "The values were measured 90 days apart; at most 30 are allowed.",
    )
    assert reasons(card, *apart) == ()


def test_a_value_that_is_not_required_may_be_missing(card: ModelCard) -> None:
    assert isinstance(card.input, ObservationsInput)
    specs = tuple(
        replace(spec, required=spec.name != "creatinine") for spec in card.input.observations
    )
    without_it = replace(card, input=replace(card.input, observations=specs))
    found = chosen(without_it, *without(CREATININE))
    assert (found.reasons, len(found.chosen)) == ((), 3)
    found = chosen(without_it, *without(CREATININE, observation(CREATININE, 999)))
    assert (found.reasons, len(found.passed_over)) == ((), 1)


@pytest.mark.parametrize(
    ("patient", "expected"),
    [
        ({"patient_sex": ""}, "The patient's sex is not given; the model needs M or F."),
        ({"patient_sex": "O"}, "The patient's sex is O; the model needs M or F."),
        ({"patient_birth_date": ""}, "The patient's age is not known; the model needs it."),
        ({"patient_birth_date": "2270"}, "The patient's age is not known; the model needs it."),
        ({"patient_birth_date": "20080302"}, "The patient is younger than 18 years."),
    ],
)
def test_the_patient_counts_too(card: ModelCard, patient: dict[str, str], expected: str) -> None:
    assert reasons(card, *usual_values(), **patient) == (expected,)


def test_an_age_that_the_graph_is_fed_with_has_to_be_known(card: ModelCard) -> None:
    ageless = replace(card, intended_use=replace(card.intended_use, minimum_age_years=None))
    assert reasons(ageless, *usual_values()) == ()
    assert reasons(ageless, *usual_values(), patient_birth_date="") == (
        "The patient's age is not known; the model needs it.",
    )


def test_who_is_eighteen_on_the_day_of_the_order_is_an_adult(card: ModelCard) -> None:
    assert reasons(card, *usual_values(), patient_birth_date="20080301") == ()


def test_images_and_values_are_not_taken_for_each_other(card: ModelCard) -> None:
    images = Completeness(True, EvidenceKind.QUIET_TIME, 1, None)
    study = replace(case(*usual_values()), completeness=images)
    said = unsuitable_reasons(card, study, (), value_in)
    assert said[0] == "The model reads measured values, not images."


def test_ages_count_from_the_order_and_not_from_today(card: ModelCard) -> None:
    long_ago = ORDERED_AT - timedelta(days=4000)
    values = tuple(
        replace(one, effective_at=long_ago - timedelta(days=3)) for one in usual_values()
    )
    study = case(*values, ordered_at=long_ago)
    assert unsuitable_reasons(card, study, (), value_in) == ()
    assert chosen_input(card, study, value_in).chosen[1].observation.codes == (ALT,)
