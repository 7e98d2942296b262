"""What references within a message lead to, and of whom it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fhir_source import PATIENTS, FhirSource, fhir_source, outcome_texts
from tests.unit.connectors.fhir.messages import (
    ASKED,
    PERSON,
    WISH,
    bundle,
    identified,
    observation,
    order_bundle,
    patient,
    posted,
    task,
    value_input,
)


@pytest.fixture
def source() -> Iterator[FhirSource]:
    with fhir_source() as running:
        yield running


def test_a_value_that_was_sent_before_is_of_the_same_patient(source: FhirSource) -> None:
    early = source.post(observation(subject=identified("P-8")))
    name = early.headers["Location"].split("/fhir/")[1].split("/_")[0]
    answer = source.post(task(input=[value_input({"reference": name})]))
    assert answer.status_code == 422, answer.text
    assert source.orders.placed == {}
    assert "P-8" not in answer.text


def test_the_same_number_of_another_system_is_another_patient() -> None:
    with fhir_source(issuers={PATIENTS: "UMR", "urn:second": "SECOND"}) as source:
        answer = source.post(order_bundle(**{"for": identified("P-7", "urn:second")}))
        assert answer.status_code == 422, answer.text
        assert source.orders.placed == {}


def test_a_relative_reference_is_to_the_server_of_whoever_refers(source: FhirSource) -> None:
    """R4 bundle.html#references: two servers may have a Patient/p1 each."""
    wish = task(**{"for": {"reference": "Patient/p1"}})
    entries = [
        posted(patient("P-8", id="p1"), "https://other.example/fhir/Patient/p1"),
        posted(patient(id="p1"), "https://ehr.example/fhir/Patient/p1"),
        posted(wish, "https://ehr.example/fhir/Task/t1"),
    ]
    assert source.post(bundle(entries)).is_success
    (placed,) = source.orders.placed.values()
    assert placed.order.patient.key == ("P-7", "UMR")


def test_a_reference_that_may_be_to_two_resources_is_refused(source: FhirSource) -> None:
    wish = task(**{"for": {"reference": "Patient/p1"}})
    entries = [
        posted(patient(id="p1"), PERSON),
        posted(patient("P-8", id="p1"), ASKED),
        posted(wish, WISH),
    ]
    answer = source.post(bundle(entries))
    assert answer.status_code == 422, answer.text
    assert outcome_texts(answer) == ["a reference leads to several entries"]
    assert source.orders.placed == {}
